"""The section of docs/api.md on ``/api/v1``, the dialect of flux-rest-server."""

from __future__ import annotations

_SECTION = """
## Clients of flux-rest-server

Below `/api/v1` the server speaks the dialect of
[flux-rest-server](https://github.com/flux-framework/flux-rest-server), beside its own API and with the same callers,
scopes, limits and audit log. Its clients and its MCP server work if they are pointed here:

```console
$ curl -i localhost:5000/api/v1/jobs -d '{"command": ["hostname"], "num_tasks": 2}'
HTTP/1.1 201 Created
Location: /api/v1/jobs/f2oUvBnNfh

{"id":"f2oUvBnNfh"}
$ curl 'localhost:5000/api/v1/jobs/f2oUvBnNfh?attrs=state,result'
$ curl -X DELETE 'localhost:5000/api/v1/jobs/f2oUvBnNfh?reason=not+needed'
```

* **Ids** are F58 with an ASCII prefix in responses; requests may use every spelling of Flux.
* **Jobs** are submitted by the arguments of `flux.job.JobspecV1.from_command`, in JSON whatever its `Content-Type` is,
  and shown as `flux.job.info.JobInfo.to_dict()`, in which unknown values are left out. Dependencies on a begin time are
  shown as Flux stores them.
* **A job's environment** is that of a login, not the broker's: `HOME`, `USER`, `LOGNAME`, `SHELL` and
  `PATH=/usr/local/bin:/usr/bin:/bin`; its directory is the home. Both follow from the passwd entry of the user that the
  server runs as, on the server's machine. `environment` and `cwd` replace them.
* **`Retry-After`** is 5 while a job is active.
* **Errors** are `{"error": "…"}`, often with `detail`, and with `path` where there is no route: 404 for every method,
  also where the path has other methods. A request that is not HTTP, for example with a malformed `Content-Length`, is
  answered before its path is known, with the errors of all other routes.
* **Differences**: unknown query parameters are 400; another caller's job can be cancelled by an admin; `HEAD` is
  answered wherever `GET` is. `Location` is absolute, other than in `/v1`.
* **Additions**: `Idempotency-Key`; and `warnings`, which name arguments that the embedded engine ignores.
* **A token** may be sent in the header `X-Token` instead of `Authorization`, on every route of this server.
"""


def section() -> str:
    """Return the section."""
    return _SECTION
