"""HTTP as specified by RFC 9110 and 9112: raw requests as no client library sends them, and the responses."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from sidecar.http.rest_errors import is_rest_path
from tests.contract.test_errors import problem
from tests.support.access import TokenFile
from tests.support.authority import Authority, options
from tests.support.flood import connect, request
from tests.support.harness import PATIENCE, PLAIN, Server, embedded

SUBMIT = "/v1/jobs/submit"
BULK = "/v1/jobs/bulk"
JSON, NDJSON, FORM = "application/json", "application/x-ndjson", "application/x-www-form-urlencoded"
PROBLEM = "application/problem+json"
TEXT = "text/plain; charset=utf-8"
PARTS = "multipart/form-data; boundary=x"
PART = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n'
HOST = b"Host: localhost\r\n"
BOM = b"\xef\xbb\xbf"
JOB = b'{"command":"true","dry_run":true}'
LONG = 60_000  # flux-restful-api takes 64 KiB of request line and headers in all


class Answer(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes


def ask(server: Server, data: bytes) -> Answer:
    """Send bytes, and read the first response."""
    with connect(server, buffer=65536) as connection:
        connection.settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # refused before everything was sent
            connection.sendall(data)
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while not _complete(found) and (more := connection.recv(65536)):
                found += more
    return _read(found)


def _read(found: bytes) -> Answer:
    head, _, body = found.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = httpx.Headers([tuple(line.split(": ", 1)) for line in lines])  # type: ignore[arg-type]
    return Answer(int(first.split(" ")[1]) if first else 0, headers, body)


def _complete(found: bytes) -> bool:
    if b"\r\n\r\n" not in found:
        return False
    _, headers, body = _read(found)
    if headers.get("Transfer-Encoding") == "chunked":
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= int(headers.get("Content-Length", 0))


def get(path: str | bytes, *lines: bytes, host: bytes = HOST, version: bytes = b"HTTP/1.1") -> bytes:
    path = path.encode() if isinstance(path, str) else path
    return b"GET %b %b\r\n" % (path, version) + host + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def post(path: str, body: bytes, kind: str = JSON, **headers: str) -> bytes:
    return request("POST", path, body, Content_Type=kind, **headers)


def chunked(*chunks: bytes) -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))
    return b"POST /v1/jobs/bulk HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n" + body


def two_keys(path: str, *keys: bytes) -> bytes:
    lines = b"".join(b"Idempotency-Key: %b\r\n" % key for key in keys)
    return post(path, JOB).replace(b"\r\n", b"\r\n" + lines, 1)


#: The headers that `curl --http2` adds to the first request of a connection.
H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__")


def head(*lines: bytes) -> bytes:
    return b"POST /v1/jobs/submit HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


#: The request, the status of the response, its content type, and a part of the problem's detail or of the body.
RAW: dict[str, tuple[bytes, int, str, str]] = {
    # ------------------------------------------------------------------------------------------- the request line
    "raw UTF-8 in a path": (get("/v1/jobs/ƒ2A"), 400, PROBLEM, "percent-encode them as UTF-8"),
    "raw UTF-8 in a query": (get("/v1/jobs?name=é"), 400, PROBLEM, "percent-encode them"),
    "encoded Latin-1 in a path": (get("/v1/jobs/%E9"), 400, PROBLEM, "The path: the text is not UTF-8; percent-encode"),
    "encoded Latin-1 in a name": (post("/v1/queues/%FF/stop", b""), 400, PROBLEM, "The path: the text is not UTF-8"),
    "encoded Latin-1 nowhere": (get("/nothing/%FF"), 400, PROBLEM, "The path: the text is not UTF-8"),
    "encoded Latin-1 in a query": (get("/v1/jobs?name=%FF"), 400, PROBLEM, "name: the text is not UTF-8; percent-encode"),
    "half a letter in a query": (get("/v1/jobs?name=%C3&user=a"), 400, PROBLEM, "name: the text is not UTF-8"),
    "a surrogate in a query": (get("/v1/jobs?name=%ED%A0%80"), 400, PROBLEM, "name: the text is not UTF-8"),
    "an overlong letter in a query": (get("/v1/jobs?name=%C0%AF"), 400, PROBLEM, "name: the text is not UTF-8"),
    "an encoded name in a query": (get("/v1/jobs?%6E%61me=%FF"), 400, PROBLEM, "name: the text is not UTF-8"),
    "Latin-1 as a name in a query": (get("/v1/jobs?%FF=a"), 400, PROBLEM, "'%FF': the text is not UTF-8"),
    "Latin-1 in a loose query": (get("/v1/jobs/search?_=%FF"), 400, PROBLEM, "_: the text is not UTF-8"),
    "Latin-1 in a search": (get("/v1/jobs/search?search%5Bvalue%5D=%FF"), 400, PROBLEM, "search[value]: the text is not"),
    "Latin-1 in a probe's query": (get("/livez?a=%FF"), 400, PROBLEM, "a: the text is not UTF-8"),
    "Latin-1 in a page's query": (get("/jobs?query=%FF"), 400, PROBLEM, "query: the text is not UTF-8"),
    "Latin-1 in a command's query": (post(f"{SUBMIT}?command=a%FFb", b""), 400, PROBLEM, "command: the text is not UTF-8"),
    "encoded UTF-8 in a query": (get("/v1/jobs?name=%C3%A9%F0%9F%A5%9E+%25FF"), 200, JSON, '"jobs":[]'),
    "raw Latin-1 in a path": (get(b"/v1/jobs/\xe9"), 400, PROBLEM, "percent-encode them"),
    "a space in a path": (get("/v1/jobs/a b"), 400, PROBLEM, "not HTTP/1.1: Expected HTTP/"),
    "no slash": (get("livez"), 400, PROBLEM, "not HTTP/1.1"),
    "a whole address": (get("http://localhost/livez"), 200, TEXT, "ok"),
    "a whole address elsewhere": (get("http://evil.example/livez"), 421, PROBLEM, "'evil.example'"),
    "a whole IPv6 address": (get("http://[::1]:5000/livez"), 200, TEXT, "ok"),
    "a whole address, a Host elsewhere": (
        get("http://localhost/livez", host=b"Host: evil.example\r\n"), 421, PROBLEM, "'evil.example'"
    ),
    "no path": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400, PROBLEM, "has no path"),
    "a tunnel": (b"CONNECT localhost:1 HTTP/1.1\r\n" + HOST + b"\r\n", 501, PROBLEM, "not a proxy"),
    "an unknown method": (b"BREW /livez HTTP/1.1\r\n" + HOST + b"\r\n", 501, PROBLEM, "Unknown method"),
    "a method in small letters": (b"get /livez HTTP/1.1\r\n" + HOST + b"\r\n", 501, PROBLEM, "in capitals"),
    "another method": (b"PATCH /v1/jobs HTTP/1.1\r\n" + HOST + b"\r\n", 405, PROBLEM, "allowed: GET"),
    "no method": (b"G(T /livez HTTP/1.1\r\n" + HOST + b"\r\n", 400, PROBLEM, "not HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, PROBLEM, "Only HTTP/1.1"),
    "HTTP/2.0": (get("/livez", version=b"HTTP/2.0"), 505, PROBLEM, "Only HTTP/1.1"),
    "HTTP/9.9": (get("/livez", version=b"HTTP/9.9"), 505, PROBLEM, "Only HTTP/1.1"),
    "HTTP/0.9": (b"GET /livez\r\n\r\n", 505, PROBLEM, "Only HTTP/1.1"),
    "HTTP/1.0": (get("/livez", version=b"HTTP/1.0"), 200, TEXT, "ok"),
    "HTTPS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500, 400, PROBLEM, "use http://"),
    "SSH": (b"SSH-2.0-OpenSSH_9\r\n", 400, PROBLEM, "not HTTP/1.1"),
    "bytes": (b"\0\1\2\r\n\r\n", 400, PROBLEM, "not HTTP/1.1"),
    "lines without CR": (b"GET /livez HTTP/1.1\nHost: localhost\n\n", 400, PROBLEM, "Expected CRLF"),
    # ------------------------------------------------------------------------------------------------ the headers
    "no Host": (get("/livez", host=b""), 400, PROBLEM, "the header Host is missing"),
    "no Host, of HTTP/1.0": (get("/livez", host=b"", version=b"HTTP/1.0"), 200, TEXT, "ok"),
    "no Host, of HTTP/1.0, ready": (get("/readyz", host=b"", version=b"HTTP/1.0"), 200, TEXT, "ok"),
    "no Host, of HTTP/1.0, jobs": (get("/v1/jobs?name=none", host=b"", version=b"HTTP/1.0"), 200, JSON, '"jobs"'),
    "a load balancer's check": (b"OPTIONS / HTTP/1.0\r\n\r\n", 405, PROBLEM, "allowed: GET"),
    "a whole address of HTTP/1.0": (
        get("http://evil.example/livez", host=b"", version=b"HTTP/1.0"), 421, PROBLEM, "'evil.example'"
    ),
    "an empty Host, of HTTP/1.0": (
        get("/livez", host=b"Host: \r\n", version=b"HTTP/1.0"), 421, PROBLEM, "send the header Host"
    ),
    "a Host elsewhere, of HTTP/1.0": (
        get("/livez", host=b"Host: evil.example\r\n", version=b"HTTP/1.0"), 421, PROBLEM, "--allowed-hosts"
    ),
    "an empty Host": (get("/livez", host=b"Host: \r\n"), 421, PROBLEM, "send the header Host"),
    "two Hosts": (get("/livez", b"Host: localhost"), 400, PROBLEM, "Host is given twice; send it once"),
    **{
        f"two of {name}": (
            get("/livez", f"{name}: a".encode(), f"{name.lower()}: Bearer-of-a-secret".encode()),
            400, PROBLEM, f"the header {name} is given twice; send it once",
        )
        for name in ("User-Agent", "Content-Type", "Content-Location", "Content-Range", "Max-Forwards", "Server")
    },
    "a Host with an empty port": (get("/livez", host=b"Host: localhost:\r\n"), 200, TEXT, "ok"),
    "an address with an empty port": (get("/livez", host=b"Host: 127.0.0.1:\r\n"), 200, TEXT, "ok"),
    "an IPv6 address with an empty port": (get("/livez", host=b"Host: [::1]:\r\n"), 200, TEXT, "ok"),
    "a Host elsewhere with an empty port": (get("/livez", host=b"Host: evil.example:\r\n"), 421, PROBLEM, "--allowed"),
    "a Host of two colons": (get("/livez", host=b"Host: localhost::\r\n"), 421, PROBLEM, "not called 'localhost::'"),
    "a Host that is a colon": (get("/livez", host=b"Host: :\r\n"), 421, PROBLEM, "not called ':'"),
    "a Host with a space": (get("/livez", host=b"Host: a b\r\n"), 421, PROBLEM, "not called 'a b'"),
    "a Host elsewhere": (get("/livez", host=b"Host: evil.example\r\n"), 421, PROBLEM, "--allowed-hosts"),
    "a long Host": (get("/livez", host=b"Host: " + b"a." * 5000 + b"svc\r\n"), 421, PROBLEM, "--allowed-hosts"),
    "the operator's SDK": (get("/livez", host=b"Host: mc-0.pod.flux-operator.kubernetes:5000\r\n"), 200, TEXT, "ok"),
    "a Service": (get("/livez", host=b"Host: flux.lab.svc:5000\r\n"), 200, TEXT, "ok"),
    "a pod's own name": (get("/livez", host=b"Host: mc-0.flux.lab.svc.cluster.local\r\n"), 200, TEXT, "ok"),
    "a pod's address as a name": (get("/livez", host=b"Host: 10-0-0-7.lab.pod.cluster.local\r\n"), 200, TEXT, "ok"),
    "from a container": (get("/livez", host=b"Host: host.docker.internal:5000\r\n"), 200, TEXT, "ok"),
    "a header with a space": (get("/livez", b"X Y: 1"), 400, PROBLEM, "Invalid header token"),
    "a header without a colon": (get("/livez", b"Bearer-of-a-secret"), 400, PROBLEM, "Invalid header token"),
    "a header with a control": (get("/livez", b"X: a\1b"), 400, PROBLEM, "Invalid header value"),
    "a header over two lines": (get("/livez", b"X: a\r\n b"), 400, PROBLEM, "Unexpected whitespace"),
    "a header of Latin-1": (get("/livez", b"X: \xe9"), 200, TEXT, "ok"),
    "an unknown expectation": (get("/livez", b"Expect: a miracle"), 417, PROBLEM, "only 100-continue"),
    "an upgrade to HTTP/2": (get("/livez", *H2C), 200, TEXT, "ok"),
    "an upgrade": (get("/livez", b"Connection: Upgrade", b"Upgrade: websocket"), 200, TEXT, "ok"),
    # --------------------------------------------------------------------------------------------------- the size
    "a long query": (get(f"/v1/jobs?name={'a' * LONG}"), 200, JSON, '"jobs":[]'),
    "a long path": (get(f"/v1/jobs/{'a' * LONG}"), 400, PROBLEM, "is not a job id"),
    "a long header": (get("/livez", b"X: " + b"a" * LONG), 200, TEXT, "ok"),
    "many headers": (get("/livez", *(b"X-%d: a" % n for n in range(200))), 200, TEXT, "ok"),
    "a query that is too long": (get(f"/v1/jobs?name={'a' * 90_000}"), 431, PROBLEM, "longer than 65536 bytes"),
    "a header that is too long": (get("/livez", b"X: " + b"a" * 90_000), 431, PROBLEM, "longer than 65536 bytes"),
    "too many headers": (get("/livez", *(b"X-%d: a" % n for n in range(500))), 431, PROBLEM, "more than 256 headers"),
    "too many parameters": (get("/v1/jobs?" + "a&" * 5000), 400, PROBLEM, "more than 1,000 parameters"),
    # ------------------------------------------------------------------------------------------------- the body
    "no length": (head(b"Content-Length: x"), 400, PROBLEM, "Invalid character in Content-Length"),
    "a negative length": (head(b"Content-Length: -1"), 400, PROBLEM, "Invalid character in Content-Length"),
    "two lengths": (head(b"Content-Length: 3", b"Content-Length: 4"), 400, PROBLEM, "Duplicate Content-Length"),
    "length and chunks": (head(b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400, PROBLEM, "not HTTP/1.1"),
    "a compressed transfer": (head(b"Transfer-Encoding: gzip, chunked"), 501, PROBLEM, "only chunked"),
    "an unknown transfer": (head(b"Transfer-Encoding: gzip") + b"a", 400, PROBLEM, "Transfer-Encoding"),
    "no chunk": (head(b"Transfer-Encoding: chunked") + b"zz\r\na\r\n", 400, PROBLEM, ""),
    "said to be gzip": (post(SUBMIT, JOB, Content_Encoding="gzip"), 415, PROBLEM, "Content-Encoding"),
    "said to be nothing": (post(SUBMIT, JOB, Content_Encoding="identity"), 200, JSON, "would be accepted"),
    "UTF-16": (post(SUBMIT, JOB.decode().encode("utf-16")), 400, PROBLEM, "UTF-16 or UTF-32; send it as UTF-8"),
    "UTF-16 without a mark": (post(SUBMIT, JOB.decode().encode("utf-16-le")), 400, PROBLEM, "send it as UTF-8"),
    "Latin-1": (post(SUBMIT, b'{"command":"echo \xe9"}'), 400, PROBLEM, "it is not UTF-8"),
    "said to be Latin-1": (post(SUBMIT, JOB, f"{JSON}; charset=iso-8859-1"), 415, PROBLEM, "as UTF-8"),
    "JSON in foo": (post(SUBMIT, JOB, f"{JSON}; charset=foo"), 415, PROBLEM, "unsupported charset 'foo'"),
    "JSON in UTF-8": (post(SUBMIT, JOB, f'{JSON}; charset="UTF-8"'), 200, JSON, "would be accepted"),
    "JSON with a mark": (post(SUBMIT, BOM + JOB), 200, JSON, "would be accepted"),
    "a form with a mark": (post(SUBMIT, BOM + b"command=true&dry_run=on", FORM), 200, JSON, "would be accepted"),
    "a form of encoded Latin-1": (post(SUBMIT, b"command=echo a%FFb", FORM), 400, PROBLEM, "command: the text is not UTF-8"),
    "several fields of Latin-1": (
        post(SUBMIT, b"command=%FF&x=%FF", FORM), 400, PROBLEM, "(é is %C3%A9). x: the text is not UTF-8"
    ),
    "a form of Latin-1": (post(SUBMIT, b"command=echo a\xffb", FORM), 400, PROBLEM, "it is not UTF-8"),
    "a form of encoded UTF-8": (post(SUBMIT, b"command=%C3%A9&dry_run=1", FORM), 200, JSON, "é"),
    "a field of Latin-1": (post(SUBMIT, PART % (b"command", b"a\xff"), PARTS), 400, PROBLEM, "command: the text is not UTF-8"),
    "a field's name of Latin-1": (post(SUBMIT, PART % (b"\xff", b"a"), PARTS), 400, PROBLEM, "name of a field is not UTF-8"),
    "a page's form of Latin-1": (
        post("/jobs/submit", b"command=echo a%FFb", FORM), 400, PROBLEM, "command: the text is not UTF-8"
    ),
    "a page's choice of Latin-1": (post("/jobs/cancel", b"job=1&view=%FF", FORM), 400, PROBLEM, "view: the text is not"),
    "a form in foo": (post(SUBMIT, b"command=true", f"{FORM}; charset=foo"), 415, PROBLEM, "unsupported charset 'foo'"),
    "a form of parts in foo": (
        post(SUBMIT, b"--x--\r\n", "multipart/form-data; boundary=x; charset=foo"), 415, PROBLEM, "unsupported charset 'foo'"
    ),
    "a form without a boundary": (post(SUBMIT, b"--x--\r\n", "multipart/form-data"), 400, PROBLEM, "no boundary"),
    "XML": (post(SUBMIT, b"<command/>", "application/xml"), 415, PROBLEM, "send application/json or a form"),
    # ------------------------------------------------------------------------------------------- idempotency keys
    "two keys": (two_keys(SUBMIT, b"a", b"b"), 400, PROBLEM, "Idempotency-Key: sent 2 times with different"),
    "two keys of many": (two_keys(BULK, b"a", b"b"), 400, PROBLEM, "Idempotency-Key: sent 2 times"),
    "one key twice": (two_keys(SUBMIT, b"a", b"a"), 200, JSON, "would be accepted"),
    "an empty key": (post(SUBMIT, JOB, Idempotency_Key=""), 400, PROBLEM, "Idempotency-Key: use 1 to"),
    "an empty key beside one": (two_keys(SUBMIT, b"", b"a"), 400, PROBLEM, "with different values; send one"),
    "an empty key of many": (post(BULK, JOB, Idempotency_Key=""), 400, PROBLEM, "Idempotency-Key: use 1 to"),
    "an empty key in a line": (
        post(BULK, b'{"command":"true","idempotency_key":""}', NDJSON), 200, NDJSON, "idempotency_key: use 1 to"
    ),
    "an empty key in a line beside one": (
        post(BULK, b'{"command":"true","idempotency_key":""}', NDJSON, Idempotency_Key="k"),
        200, NDJSON, '"line":1,"status":400',
    ),
    # -------------------------------------------------------------------------------------------- many jobs at once
    "an array": (post(BULK, b'[{"command":"true"},{"command":"true"}]'), 400, PROBLEM, "jq -c '.[]'"),
    "an array of UTF-16": (post(BULK, "[]".encode("utf-16")), 400, PROBLEM, "send it as UTF-8"),
    "lines in foo": (post(BULK, b"{}\n", f"{NDJSON}; charset=foo"), 415, PROBLEM, "unsupported charset 'foo'"),
    "lines said to be gzip": (post(BULK, b"{}\n", NDJSON, Content_Encoding="gzip"), 415, PROBLEM, "Content-Encoding"),
    "XML for lines": (post(BULK, b"<a/>", "application/xml"), 415, PROBLEM, f"send {NDJSON}"),
    "lines with a mark": (post(BULK, BOM + b'{"command":"true"}\n', NDJSON), 200, NDJSON, '"status":200'),
    "several in a line": (post(BULK, b'{"command":"a"}{"command":"b"}', FORM), 200, NDJSON, "--data-binary @FILE"),
    "several with commas": (post(BULK, b'{"command":"a"},{"command":"b"}', NDJSON), 200, NDJSON, "several JSON objects"),
    "an array in a line": (post(BULK, b'\n{}\n[{"command":"a"}]\n', NDJSON), 200, NDJSON, "A JSON array is not supported"),
    "braces in a line": (post(BULK, b'{"command":"echo }{","name":1}', NDJSON), 200, NDJSON, "name: expected text"),
    "no lines": (post(BULK, b"\n\n", NDJSON), 400, PROBLEM, "no job in the body: send one JSON object per line"),
    "an empty bulk": (post(BULK, b"", NDJSON), 400, PROBLEM, "no job in the body: send one JSON object per line"),
    "much white space": (post(BULK, b" \r\n\t" * 100_000, NDJSON), 400, PROBLEM, "no job in the body"),
    "a mark alone": (post(BULK, BOM + b"\n", NDJSON), 400, PROBLEM, "no job in the body"),
    "no body": (b"POST /v1/jobs/bulk HTTP/1.1\r\n" + HOST + b"\r\n", 400, PROBLEM, "no job in the body"),
    "no chunk of a bulk": (chunked(), 400, PROBLEM, "no job in the body"),
    "a chunk of white space": (chunked(b"\n \n"), 400, PROBLEM, "no job in the body"),
    "a job in chunks": (chunked(b"\n", b'{"command":"true"}'), 200, NDJSON, '"line":2,"status":200'),
    "a job behind white space": (
        post(BULK, b"\n" * 300_000 + b'  {"command":"true"}', NDJSON), 200, NDJSON, '"line":300001,"status":200'
    ),
    "a mark in a later line": (
        post(BULK, b"\n".join([BOM + b"{}", BOM + b'{"command":"true"}']), NDJSON), 200, NDJSON, '"line":2,"status":200'
    ),
    "a mark within a line": (post(BULK, BOM + b"{}" + BOM + b"{}", NDJSON), 200, NDJSON, "several JSON objects"),
    "a comma behind a line": (post(BULK, b'{"command":"a"},\n', NDJSON), 200, NDJSON, "per line, without commas"),
    "a comma before a line": (post(BULK, b'{}\n ,{"command":"a"}', NDJSON), 200, NDJSON, "per line, without commas"),
    # --------------------------------------------------------------------------------------------- ambiguous input
    "a slash too many": (get("/v1/jobs/"), 404, PROBLEM, "did you mean /v1/jobs?"),
    "two slashes": (get("//v1//jobs"), 404, PROBLEM, "did you mean /v1/jobs?"),
    "in capitals": (get("/V1/Jobs"), 404, PROBLEM, "did you mean /v1/jobs?"),
    "a slash behind an id": (get("/v1/jobs/f1/output/"), 404, PROBLEM, "did you mean /v1/jobs/f1/output?"),
    "another probe": (get("/healthz"), 404, PROBLEM, "did you mean /livez or /readyz?"),
    "nearly": (get("/v1/node"), 404, PROBLEM, "did you mean /v1/nodes?"),
    "nothing like it": (get("/wp-login.php"), 404, PROBLEM, "/openapi.json lists every route"),
    "sorting": (get("/v1/jobs?sort=name"), 400, PROBLEM, "GET /v1/jobs/search sorts"),
    "flux-submit's word": (post(f"{SUBMIT}?cwd=/tmp", b""), 400, PROBLEM, "did you mean workdir?"),
    "sbatch's word": (post(f"{SUBMIT}?time-limit=1", b""), 400, PROBLEM, "did you mean runtime?"),
    # ---------------------------------------------------------------------------------------------- plain input
    "an id of emoji": (get("/v1/jobs/%F0%9F%98%84"), 404, PROBLEM, "There is no job ƒ2 (1)"),
    "an id of words": (get("/v1/jobs/ACROBAT-academy-academy-academy-academy-academy"), 404, PROBLEM, "ƒ2 (1)"),
    "states": (get("/v1/jobs?name=none&state=Running,%20sched"), 200, JSON, '"jobs":[]'),
    "no state": (get("/v1/jobs?state=asleep"), 400, PROBLEM, "unknown state 'ASLEEP'; use NEW, "),
    "a word in capitals": (get("/v1/jobs/1?until=FINISH"), 404, PROBLEM, "There is no job"),
    "a wait": (get("/v1/jobs/1?wait=1m"), 404, PROBLEM, "There is no job"),
    "a limit": (post(f"{SUBMIT}?command=true&dry_run=1&runtime=1h30m", b""), 200, JSON, '"duration":5400'),
    "a limit of JSON": (post(SUBMIT, JOB[:-1] + b',"runtime":"90 s"}'), 400, PROBLEM, "90s or 1h30m"),
    "another limit of JSON": (post(SUBMIT, JOB[:-1] + b',"runtime":"1d"}'), 200, JSON, '"duration":86400'),
    "a limit below none": (post(SUBMIT, JOB[:-1] + b',"runtime":"-1h"}'), 400, PROBLEM, "runtime: expected seconds"),
    "a limit without end": (post(SUBMIT, JOB[:-1] + b',"runtime":"9999999d"}'), 400, PROBLEM, "runtime: expected"),
    "held": (post(SUBMIT, JOB[:-1] + b',"urgency":"HOLD"}'), 200, JSON, "would be accepted"),
    "urgent": (post(f"{SUBMIT}?command=true&dry_run=1&urgency=expedite", b""), 200, JSON, "would be accepted"),
    "very urgent": (post(SUBMIT, JOB[:-1] + b',"urgency":"high"}'), 400, PROBLEM, "hold (0), default (16)"),
    "more than urgent": (post(SUBMIT, JOB[:-1] + b',"urgency":"32"}'), 400, PROBLEM, "urgency: expected a whole number <= 31"),
    "a wrong stop": (post("/v1/service/stop", b'{"mode":"drain","timeout":"soon"}'), 400, PROBLEM, "or a duration"),
    # ------------------------------------------------------------------------------------------ content negotiation
    "any type": (get("/v1/jobs?name=none", b"Accept: */*"), 200, JSON, '"jobs"'),
    "a list of types": (get("/v1/jobs?name=none", b"Accept: text/html, application/X-NDJSON"), 200, NDJSON, ""),
    "types in two lines": (get("/v1/jobs?name=none", b"Accept: text/html", b"Accept: */*;q=0.1"), 200, JSON, ""),
    "qualities": (
        get("/v1/jobs?name=none", b"Accept: application/json;q=0.5,application/x-ndjson ; q=0.9"), 200, NDJSON, ""
    ),
    "a type that is refused": (get("/v1/jobs?name=none", b"Accept: application/json;q=0, */*"), 200, NDJSON, ""),
    "no type that there is": (get("/v1/jobs", b"Accept: image/png"), 406, PROBLEM, f"only as {JSON} or {NDJSON}"),
    "none at all": (get("/v1/jobs", b"Accept: */*;q=0"), 406, PROBLEM, f"only as {JSON}"),
    "only errors": (get("/v1/jobs", b"Accept: application/problem+json"), 200, JSON, '"jobs"'),
    "anything else": (
        get("/v1/whoami", b"Accept: */*;q=0.5,application/json;q=0"), 406, PROBLEM, f"only as {JSON}"
    ),
    "any other application": (
        get("/v1/whoami", b"Accept: application/*, application/json;q=0"), 406, PROBLEM, f"only as {JSON}"
    ),
    "only errors, by name": (
        get("/v1/whoami", b"Accept: application/problem+json, application/json;q=0"), 406, PROBLEM, f"only as {JSON}"
    ),
    "neither errors": (get("/v1/whoami", b"Accept: application/problem+json;q=0"), 406, PROBLEM, f"only as {JSON}"),
    "no type": (get("/v1/jobs", b"Accept: \xc3\xa9"), 200, JSON, '"jobs"'),
    "another answer for a command": (post(SUBMIT, JOB, Accept="image/png"), 200, JSON, "would be accepted"),
    "another answer for a probe": (get("/livez", b"Accept: application/json"), 200, TEXT, "ok"),
    "an error as a page": (get("/nothing", b"Accept: text/html"), 404, "text/html; charset=utf-8", "nothing at"),
    "an error as JSON": (get("/nothing", b"Accept: text/html;q=0.5, application/json"), 404, PROBLEM, "nothing at"),
    # ------------------------------------------------------------------------------- conditional and range requests
    "the end of a document": (get("/openapi.json", b"Range: bytes=-3"), 206, JSON, "}}\n"),
    "a part behind the end": (get("/openapi.json", b"Range: bytes=99999999-"), 416, PROBLEM, "bytes."),
    "several parts": (get("/openapi.json", b"Range: bytes=0-1,3-4"), 200, JSON, "openapi"),
    "a part of another version": (get("/openapi.json", b"Range: bytes=0-1", b'If-Range: "x"'), 200, JSON, "openapi"),
    "what is there": (get("/openapi.json", b"If-None-Match: *"), 304, JSON, ""),
    "another version alone": (get("/openapi.json", b'If-Match: "x"'), 412, PROBLEM, "this version is"),
    "a script": (get("/static/docs.js"), 200, "text/javascript; charset=utf-8", "SwaggerUIBundle"),
}  # fmt: skip


def check(server: Server, cases: dict[str, tuple[bytes, int, str, str]]) -> None:
    """Send all requests, and report every unexpected response."""
    wrong = {}
    for name, (data, status, kind, text) in cases.items():
        found = ask(server, data)
        right = (found.status, found.headers.get("Content-Type")) == (status, kind)
        if kind == PROBLEM and right:
            body = json.loads(found.body)
            right = text in body["detail"] and body["status"] == status and "Bearer-of-a-secret" not in str(body)
            right &= set(body) == {"type", "title", "status", "detail", "Message", "Errors"}
        elif right:
            right = text in found.body.decode()
        ours = found.headers.get("X-Content-Type-Options"), found.headers.get("X-Frame-Options")
        if not right or ours != ("nosniff", "DENY") or found.headers.get("Server") != "flux-sidecar":
            wrong[name] = found
    assert not wrong
    assert server.http.get("/livez").status_code == 200


def test_raw_requests(server: Server) -> None:
    check(server, RAW)
    assert "a request failed" not in server.text()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, TokenFile]]:
    """A server with TLS that requires credentials."""
    directory = tmp_path_factory.mktemp("guarded")
    authority, tokens = Authority(directory), TokenFile(directory, alice="admin")
    server = embedded(directory, *options(authority.serve()), *tokens.options, FLUX_TOKEN="a-password")
    server.trusts = authority.context()
    yield server.ready(), tokens
    server.close()


#: Invalid bodies: the beginning of the body, its headers, and the status if the request is authorized.
BROKEN: dict[str, tuple[bytes, dict[str, str], int]] = {
    "gzip": (b"{}", {"Content_Type": JSON, "Content_Encoding": "gzip"}, 415),
    "an unknown coding": (b"{}", {"Content_Type": JSON, "Content_Encoding": "nonsense"}, 415),
    "a form in foo": (b"a=b", {"Content_Type": f"{FORM}; charset=foo"}, 415),
    "JSON in foo": (b"{}", {"Content_Type": f"{JSON}; charset=foo"}, 415),
    "parts in foo": (b"--x--\r\n", {"Content_Type": "multipart/form-data; boundary=x; charset=foo"}, 415),
    "UTF-16": ("{}".encode("utf-16"), {"Content_Type": JSON}, 400),
    "a form that is Latin-1": (b"command=\xe9", {"Content_Type": FORM}, 400),
    "JSON that is Latin-1": (b'{"command":"\xe9"}', {"Content_Type": JSON}, 400),
}


def test_bodies_before_and_after_authentication(guarded: tuple[Server, TokenFile]) -> None:
    """On every route with a body, an anonymous client gets details of errors only if the route needs no credential."""
    server, tokens = guarded
    paths = server.http.get("/openapi.json", headers=tokens.headers("alice")).json()["paths"]
    wrong = {}
    for path, methods in paths.items():
        if "requestBody" not in methods.get("post", {}):
            continue
        asked = path.replace("{uid}", "1").replace("{number}", "1").replace("{name}", "default")
        public = methods["post"].get("security") == []
        for name, (body, headers, status) in BROKEN.items():
            if path == BULK and status == 400:
                continue  # the result of a line
            found = ask(server, request("POST", asked, body, **headers))
            expected = {status} if public else {401}
            if path in ("/v1/login/access-token", "/v1/token") and status == 400:
                expected = {400}
            if found.status not in expected:
                wrong[path, name, "a stranger"] = found
            found = ask(server, request("POST", asked, body, **headers, **tokens.headers("alice")))
            media = JSON if is_rest_path(path) else PROBLEM
            if found.status not in (status, 404, 409) or found.headers["Content-Type"].partition(";")[0] != media:
                wrong[path, name, "alice"] = found
    assert not wrong


def test_plain_http_on_a_tls_port(guarded: tuple[Server, TokenFile]) -> None:
    server, _ = guarded
    host, _, port = server.url.partition("://")[2].rpartition(":")
    for data, expected in (
        (get("/livez"), b"use https://"),
        (request("POST", "/v1/jobs/submit", JOB), b"use https://"),
        (get("https://localhost/livez"), b"use https://"),
        (b"SSH-2.0-OpenSSH_9\r\n", b""),
    ):
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as plain:
            plain.sendall(data)
            found = b""
            with contextlib.suppress(ConnectionResetError):
                while more := plain.recv(65536):
                    found += more
        assert expected in found
        if expected:
            answer = _read(found)
            assert (answer.status, answer.headers["Content-Type"]) == (400, PROBLEM)
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_root_for_anonymous_clients(guarded: tuple[Server, TokenFile]) -> None:
    """The Flux Operator's SDK and flux-cloud wait for 200; a program that accepts JSON or sends a token gets 401."""
    server, tokens = guarded
    with httpx.Client(base_url=server.url, verify=server.verify, timeout=PATIENCE) as client:
        for accept in ("*/*", "text/html,application/xhtml+xml,*/*;q=0.8"):
            for method in ("GET", "HEAD"):
                page = client.request(method, "/", headers={"Accept": accept})
                assert page.status_code == 200
                assert page.headers["Content-Type"] == "text/html; charset=utf-8"
                assert method == "HEAD" or "<form" in page.text
        problem(client.get("/", headers={"Accept": "application/json"}), 401)
        problem(client.get("/", headers={"Authorization": "Bearer wrong"}), 401)
        assert client.get("/", headers={"Accept": "text/html", "Flux-Refresh": "1"}).status_code == 401
        assert client.get("/jobs").status_code == 401
        assert client.get("/", headers=tokens.headers("alice")).status_code == 200


def test_relative_addresses_work_behind_a_prefix(server: Server) -> None:
    behind = httpx.URL("https://portal.example/hpc/flux/")
    submitted = [server.http.post(SUBMIT, json={"command": "true", "name": "prefixed"}) for _ in range(2)]
    for answer in submitted:
        job = answer.json()["f58id"].replace("ƒ", "f")
        location = answer.headers["Location"]
        assert behind.join("v1/jobs/submit").join(location) == f"{behind}v1/jobs/{job}"
        assert server.http.get(answer.url.join(location)).json()["name"] == "prefixed"
    for query in ("name=prefixed&limit=1", "name=prefixed&limit=1&details=true"):
        page = server.http.get(f"/v1/jobs?{query}")
        link = page.links["next"]["url"]
        assert str(behind.join("v1/jobs?limit=1").join(link)).startswith(f"{behind}v1/jobs?name=prefixed&limit=1&")
        assert server.http.get(page.url.join(link)).json()


def test_conditional_requests(server: Server) -> None:
    for path in ("/openapi.json", "/static/docs.js"):
        first = server.http.get(path)
        tag = first.headers["ETag"]
        for header in (tag, f'"x", W/{tag}', "*"):
            again = server.http.get(path, headers={"If-None-Match": header})
            assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag)
        assert server.http.get(path, headers={"If-None-Match": '"x"'}).content == first.content
        assert server.http.get(path, headers={"If-Match": tag}).content == first.content
        for lines in (('"x"', tag), (tag, '"x"'), ('"a,b"', f'"y", W/{tag}')):
            known = server.http.get(path, headers=[("If-None-Match", line) for line in lines])
            assert (known.status_code, known.content) == (304, b""), lines
        for lines in (('"x"', tag), (tag, '"x"')):
            assert server.http.get(path, headers=[("If-Match", line) for line in lines]).content == first.content
        assert server.http.get(path, headers=[("If-Match", '"x"'), ("If-Match", f"W/{tag}")]).status_code == 412
        part = server.http.get(path, headers={"Range": "bytes=2-5", "If-Range": tag})
        assert (part.status_code, part.content) == (206, first.content[2:6])
        assert part.headers["Content-Range"] == f"bytes 2-5/{len(first.content)}"
        assert server.http.head(path, headers={"Range": "bytes=2-5"}).status_code == 200


def test_text_has_a_charset(server: Server) -> None:
    """Without it a client that follows RFC 2616 assumes ISO 8859-1. Accept can be a list."""
    job = server.run(["echo", "🥞 é"])["f58id"]
    for path in (f"/v1/jobs/{job}/output", f"/v1/jobs/{job}/output/stream"):
        for accept in (
            "text/plain",
            "text/plain, */*",
            "TEXT/PLAIN",
            "text/*;q=0.9, application/json;q=0.1",
            "*/*;q=0.1,text/plain",
        ):
            if "text/*" in accept and path.endswith("stream"):
                continue  # the first stream, of events
            answer = server.http.get(path, headers={"Accept": accept})
            assert answer.headers["Content-Type"] == TEXT, accept
            assert answer.text == "🥞 é\n"
            assert "Accept" in answer.headers["Vary"]
        raw = server.http.get(path, headers={"Accept": "application/octet-stream, text/plain;q=0.9"})
        assert (raw.headers["Content-Type"], raw.content) == ("application/octet-stream", "🥞 é\n".encode())
        problem(server.http.get(path, headers={"Accept": "image/*"}), 406)
    assert server.http.get(f"/jobs/{job}/output").headers["Content-Type"] == TEXT
    for path in (f"/v1/jobs/{job}/output/stream", f"/v1/jobs/{job}/events"):
        assert server.http.get(path).headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert server.http.head(path).headers["Content-Type"] == "text/event-stream; charset=utf-8"


def test_progress_bar(server: Server, tmp_path: Path) -> None:
    """Text is streamed as it is written, and each byte once; the job waits for what has been read."""
    script = f"""
printf '10%%' ; while [ ! -e {tmp_path}/1 ]; do sleep 0.05; done
printf '\\r50%% é' ; printf 'warn' >&2; while [ ! -e {tmp_path}/2 ]; do sleep 0.05; done
printf '\\r100%%\\nnext\\n' ; printf 'ing\\n' >&2; printf end
"""
    flags = {"output.stdout.buffer.type": "none", "output.stderr.buffer.type": "none"}
    body: dict[str, Any] = {"command": ["sh", "-c", script], "option_flags": flags}
    job = server.http.post(SUBMIT, json=body).json()["f58id"]
    seen = {"stdout": b"", "both": b""}
    with contextlib.ExitStack() as stack:
        streams = {
            name: stack.enter_context(
                httpx.stream(
                    "GET", f"{server.url}/v1/jobs/{job}/output/stream", params={"stream": name},
                    headers={"Accept": "text/plain"}, timeout=PATIENCE, verify=PLAIN,
                )
            ).iter_raw()
            for name in seen
        }  # fmt: skip

        def until(done: Callable[[bytes], bool]) -> None:
            for name, stream in streams.items():
                while not done(seen[name]) and (more := next(stream, b"")):
                    seen[name] += more

        until(lambda data: data == b"10%")
        (tmp_path / "1").touch()
        until(lambda data: "50% é".encode() in data)
        assert b"100%" not in seen["stdout"]
        (tmp_path / "2").touch()
        until(lambda _: False)
    assert seen["stdout"].decode() == "10%\r50% é\r100%\nnext\nend"
    for part in (
        "10%",
        "\r50% é",
        "\r100%\n",
        "next\n",
        "warn",
        "ing\n",
        "end",
    ):  # whether the first of the two streams is open
        assert seen["both"].decode().count(part) == 1
    assert len(seen["both"]) == len(seen["stdout"]) + len("warning\n")


# ------------------------------------------------------------------------------------------------- after a request


def send_all(server: Server, *chunks: bytes) -> bytes:
    """Send chunks of data, one after another, and read until the connection ends."""
    with connect(server, buffer=65536) as connection:
        connection.settimeout(PATIENCE)
        for chunk in chunks:
            connection.sendall(chunk)
            time.sleep(0.2)  # so that the next one is read separately
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                found += more
    return found


@pytest.mark.parametrize("upgrade", [H2C, (b"Connection: Upgrade", b"Upgrade: websocket")])
def test_upgrade_is_ignored(server: Server, upgrade: tuple[bytes, ...]) -> None:
    """The upgrade is ignored (RFC 9110, 7.8), and the response says that the connection closes."""
    found = send_all(server, get("/livez", *upgrade) + get("/livez", b"Connection: close"))
    assert found.count(b"HTTP/1.1 200 ") == 1
    assert b"\r\nConnection: close\r\n" in found


def test_upgrade_after_other_requests(server: Server) -> None:
    found = send_all(server, get("/livez") * 3 + get("/livez", *H2C))
    assert found.count(b"HTTP/1.1 200 ") == 4
    assert found.count(b"\r\nConnection: close\r\n") == 1


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"0\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"0\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n", 431),
        (b"0\r\nX Y: a\r\n\r\n", 400),
        (b"zz\r\n", 400),
        (b"-1\r\n", 400),
    ],
    ids=["a long trailer", "many trailers", "a wrong trailer", "no chunk", "a negative chunk"],
)
@pytest.mark.parametrize("path", [SUBMIT, BULK])
def test_errors_after_the_headers(server: Server, path: str, rest: bytes, status: int) -> None:
    """The error is sent at once, not after the body timeout, and the connection closes."""
    kind = JSON if path == SUBMIT else NDJSON
    begin = b"POST %b HTTP/1.1\r\n%bContent-Type: %b\r\n" % (path.encode(), HOST, kind.encode())
    before = time.monotonic()
    found = send_all(server, get("/livez") + begin + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\n{}\r\n", rest)
    assert time.monotonic() - before < 10
    assert found.startswith(b"HTTP/1.1 200 ")
    assert found.count(b"HTTP/1.") == 2
    assert b'"status":%d' % status in found
    assert server.http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs", "/v1/jobs?details=true", "/v1/jobs?details=true&listing=true", "/v1/jobs/search", "/v1/jobs/{id}",
        "/v1/jobs/{id}/output", "/v1/jobs/{id}/eventlog", "/v1/jobs/{id}/jobspec", "/v1/nodes", "/v1/queues",
        "/v1/launchers", "/v1/service", "/v1/whoami", "/v1/jobs/12345", "/nowhere", "/livez", "/readyz?verbose", "/metrics",
    ],
)  # fmt: skip
def test_responses_end_with_a_newline(server: Server, path: str) -> None:
    job = server.run(["echo", "hello"])["id"]
    assert server.http.get(path.format(id=job)).content.endswith(b"\n")
