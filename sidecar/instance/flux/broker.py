"""What a broker says of itself when a connection is made. Runs in the Flux thread; these calls may block."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import time
import uuid
from typing import Any

import flux.constants
import msgspec

from sidecar.config.early import LOCAL
from sidecar.domain.model import Environment
from sidecar.instance.flux import kvs as keys
from sidecar.instance.flux import lease

_IDENTITY = re.compile(r"[0-9a-f]{32}")
_STARTING = ("none", "join", "config-sync", "init")
_CONNECTOR_TURNS = 200  # more messages than a socket buffer holds
_INGEST_BATCH = 0.01  # seconds; src/modules/job-ingest/job-ingest.c
_SETTLE = 10.0
_PATIENCE = 2.0
_REXEC_STDOUT = 1  # src/common/libsubprocess/client.h


class Broker(msgspec.Struct):
    """A broker, and how it was started."""

    version: str
    size: int
    owner: str
    pid: int
    rc2_none: bool
    identity: str
    inherited: Environment | None


def handshake(handle: Any, broker_above: int | None, address: str) -> Broker:
    """Ask a broker who it is.

    Args:
        handle: a connection to it.
        broker_above: the broker whose initial program this process is; from any other the environment that jobs
            inherit is asked for.
        address: where this server listens, for another one that is refused because of it.

    Raises:
        PermissionError: it belongs to another user, or another server has it.
        OSError: it does not answer, or not to a guest; the text says so.
    """
    owner = _attribute(handle, "security.owner")
    if owner and os.getuid() not in (0, int(owner)):  # root may be let do what the owner does (flux-config-access(5))
        raise PermissionError(errno.EPERM, wrong_uid_message(owner))
    state = handle.rpc("state-machine.get", None, 0).get()["state"]
    if state in _STARTING:  # rc1 is loading what we would ask, and must not find anything written before it has
        raise OSError(errno.EAGAIN, f"the broker is starting (state {state})")
    try:
        lease.take(handle, address)
        identity = _identity(handle)
    except lease.Taken:
        raise
    except PermissionError as exc:
        raise PermissionError(exc.errno, wrong_uid_message(owner)) from exc
    if state == "run":  # before that nobody can have submitted
        flush_pending_submits(handle, identity)
    pid = int(_attribute(handle, "broker.pid") or 0)
    return Broker(
        version=_attribute(handle, "version"),
        size=int(_attribute(handle, "size") or 0),
        owner=owner,
        pid=pid,
        # It is set without a value, which attr.get calls missing; only the list of names tells.
        rc2_none="broker.rc2_none" in handle.rpc("attr.list").get()["names"],
        identity=identity,
        inherited=None if pid == broker_above else _remote_environment(handle),
    )


def flush_pending_submits(handle: Any, identity: str) -> None:
    """Return when every job that an earlier connection has sent is in the job manager's hands, and so in its history.

    A server that was killed, or a connection that broke, leaves submits on their way into Flux; who asks for such a
    job by its idempotency key must not be told that there is none. Each step passes behind them: through the
    connector, which takes a message from every client in turn; the validators; the batch that waits for its commit;
    the commit; and the job manager, which will answer our request for its journal after all that came before.

    Args:
        handle: the connection.
        identity: of the instance; to write it again is the commit that passes behind those of the jobs.

    Raises:
        OSError: the broker does not answer.
    """
    for _ in range(_CONNECTOR_TURNS):
        _ping(handle)
    deadline = time.monotonic() + _SETTLE
    while _validating(handle) and time.monotonic() < deadline:
        time.sleep(_INGEST_BATCH)
    time.sleep(2 * _INGEST_BATCH)
    keys.write(handle, keys.INSTANCE, identity)
    _ping(handle)


def _ping(handle: Any) -> None:
    """Send a request through job-ingest; one that is lost while the module is being loaded must not be waited for."""
    handle.rpc("job-ingest.ping", {"seq": 0}, 0).wait_for(_PATIENCE).get()


def _validating(handle: Any) -> bool:
    """Whether jobs are in the hands of job-ingest's workers."""
    try:
        pipeline = handle.rpc("job-ingest.stats-get", None, 0).wait_for(_PATIENCE).get()["pipeline"]
    except (OSError, KeyError, TypeError):
        return False  # an older Flux that does not tell
    return any(crew and crew.get("backlog") for crew in pipeline.values())


def wrong_uid_message(owner: str) -> str:
    """Say why this server can do nothing here, with both uids."""
    return (
        f"the broker runs as uid {owner or 'unknown'}, this server as uid {os.getuid()}: give both the same "
        "runAsUser. Whoever is not the instance's owner may neither submit nor read the journal"
    )


def socket_owner(uri: str) -> str:
    """Return the uid of who listens at a local URI; empty when that cannot be seen."""
    try:
        return str(os.stat(uri.removeprefix(LOCAL)).st_uid) if uri.startswith(LOCAL) else ""
    except OSError:
        return ""


def _attribute(handle: Any, name: str) -> str:
    try:
        return str(handle.attr_get(name))
    except FileNotFoundError:
        return ""


def _identity(handle: Any) -> str:
    """Return a name for this instance that lives as long as its jobs do: in its KVS.

    Job ids start anew in every instance, and a broker that restarts from its state directory goes on with the old
    ones; only the KVS knows which of the two has happened.
    """
    known = keys.read(handle, keys.INSTANCE)
    if isinstance(known, str) and _IDENTITY.fullmatch(known):
        return known
    identity = uuid.uuid4().hex
    keys.write(handle, keys.INSTANCE, identity)
    return identity


def _remote_environment(handle: Any) -> Environment | None:
    """Ask rank 0 for the broker's environment and working directory; None when it does not tell.

    No shell is between: it would drop variables whose names it cannot have, such as exported functions.
    """
    cwd, variables = _run(handle, ["pwd", "-P"]), _run(handle, ["env", "-0"])
    if not cwd or not variables:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in variables.split(b"\0") if entry)
    return Environment({name: value for name, _, value in pairs}, os.fsdecode(cwd.removesuffix(b"\n")))


def _run(handle: Any, words: list[str]) -> bytes:
    """Run a command beside the broker, in its working directory, and return what it writes; nothing where it fails."""
    command = {"cmdline": words, "env": {}, "opts": {}, "channels": []}
    rpc = handle.rpc("rexec.exec", {"cmd": command, "flags": _REXEC_STDOUT}, 0, flux.constants.FLUX_RPC_STREAMING)
    found = b""
    try:
        while True:
            answer = json.loads(rpc.wait_for(5.0).get_str())
            if answer["type"] == "output":
                data = answer["io"].get("data", "")
                found += base64.b64decode(data) if answer["io"].get("encoding") == "base64" else data.encode()
            rpc.reset()
    except OSError as exc:
        return found if exc.errno == errno.ENODATA else b""  # that is how the stream ends
