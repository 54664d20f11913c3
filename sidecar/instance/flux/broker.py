"""The handshake with a broker when a connection is made. Runs in the Flux thread; these calls may block."""

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
from sidecar.instance.flux import kvs, lease

STATE_TOPIC = "state-machine.get"
_IDENTITY = re.compile(r"[0-9a-f]{32}")
_STARTING = ("none", "join", "config-sync", "init")
_CONNECTOR_TURNS = 200  # more messages than a socket buffer has room for
_INGEST_BATCH = 0.01  # seconds; src/modules/job-ingest/job-ingest.c
_FLUSH_TIMEOUT = 10.0
_INGEST_TIMEOUT = 2.0
_COMMAND_TIMEOUT = 5.0
_REXEC_STDOUT = 1  # src/common/libsubprocess/client.h


class Broker(msgspec.Struct):
    """A broker, and how it was started."""

    version: str
    size: int
    rank: int
    owner: str
    pid: int
    rc2_none: bool
    identity: str
    inherited: Environment | None
    process: str = ""
    """Identifies the process of the broker."""


def handshake(handle: Any, broker_above: int | None, address: str) -> Broker:
    """Acquire the lease of the instance and request the broker's attributes.

    Args:
        handle: the connection.
        broker_above: pid of the broker that started this process as its initial program; any other broker is asked for
            the environment that jobs inherit.
        address: where this server listens, to be reported to a second server that is refused.

    Raises:
        PermissionError: the broker belongs to another user, or another server serves the instance.
        OSError: the broker does not respond, is starting, or denies a request; the text has the cause.
    """
    owner = _attribute(handle, "security.owner")
    if owner and os.getuid() not in (0, int(owner)):  # root may have the owner's rights (flux-config-access(5))
        raise PermissionError(errno.EPERM, wrong_uid_message(owner))
    state = handle.rpc(STATE_TOPIC, None, 0).get()["state"]
    if state in _STARTING:  # rc1 is still loading modules, and must not find keys that were written before it ends
        raise OSError(errno.EAGAIN, f"the broker is starting (state {state})")
    try:
        lease.acquire(handle, address)
        identity = _identity(handle)
    except lease.Taken:
        raise
    except PermissionError as exc:
        raise PermissionError(exc.errno, wrong_uid_message(owner)) from exc
    if state == "run":  # no job can have been submitted before
        flush_pending_submits(handle, identity)
    pid = int(_attribute(handle, "broker.pid") or 0)
    return Broker(
        version=_attribute(handle, "version"),
        size=int(_attribute(handle, "size") or 0),
        rank=int(_attribute(handle, "rank") or 0),
        owner=owner,
        pid=pid,
        # It is set without a value, which attr.get reports as missing; only the list has its name.
        rc2_none="broker.rc2_none" in handle.rpc("attr.list").get()["names"],
        identity=identity,
        inherited=None if pid == broker_above else _remote_environment(handle),
        process=process_of(handle),
    )


def process_of(handle: Any) -> str:
    """Return what identifies the process of the broker of a connection: its pid and its start."""
    return f"{_attribute(handle, 'broker.pid')} {_attribute(handle, 'broker.starttime')}"


def flush_pending_submits(handle: Any, identity: str) -> None:
    """Return when every job that an earlier connection sent has reached the job manager, and so its history.

    A server that was killed, or a connection that broke, leaves submits in transit to Flux; a lookup of such a job by
    its idempotency key must not report it as unknown. Each step passes behind them: through the connector, which takes
    a message from every client in turn; the validators; the batch that waits for its commit; the commit; and the job
    manager, which responds to the request for its journal after everything before it.

    Args:
        handle: the connection.
        identity: of the instance; writing it again is the commit that passes behind those of the jobs.

    Raises:
        OSError: the broker does not respond.
    """
    for _ in range(_CONNECTOR_TURNS):
        _ping(handle)
    deadline = time.monotonic() + _FLUSH_TIMEOUT
    while _validating(handle) and time.monotonic() < deadline:
        time.sleep(_INGEST_BATCH)
    time.sleep(2 * _INGEST_BATCH)
    kvs.write(handle, kvs.INSTANCE, identity)
    _ping(handle)


def _ping(handle: Any) -> None:
    """Send a request through job-ingest, with a timeout: it may be lost while the module is loaded."""
    handle.rpc("job-ingest.ping", {"seq": 0}, 0).wait_for(_INGEST_TIMEOUT).get()


def _validating(handle: Any) -> bool:
    """Whether job-ingest's workers are validating jobs."""
    try:
        pipeline = handle.rpc("job-ingest.stats-get", None, 0).wait_for(_INGEST_TIMEOUT).get()["pipeline"]
    except (OSError, KeyError, TypeError):
        return False  # an older Flux, without this counter
    return any(workers and workers.get("backlog") for workers in pipeline.values())


def wrong_uid_message(owner: str) -> str:
    """Return the error for a server that does not run as the instance's owner, with both uids."""
    return (
        f"the broker runs as uid {owner or 'unknown'}, this server as uid {os.getuid()}: give both the same "
        "runAsUser. Only the instance's owner may submit and read the journal"
    )


def socket_owner(uri: str) -> str:
    """Return the uid of the process that listens at a local URI; empty if unknown."""
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
    """Return an ID of this instance that lasts as long as its jobs: it is kept in its KVS.

    Jobids start again in every instance, and a broker that restarts from its state directory continues with the old
    ones; only the KVS shows which of the two has happened.
    """
    known = kvs.read(handle, kvs.INSTANCE)
    if isinstance(known, str) and _IDENTITY.fullmatch(known):
        return known
    identity = uuid.uuid4().hex
    kvs.write(handle, kvs.INSTANCE, identity)
    return identity


def _remote_environment(handle: Any) -> Environment | None:
    """Return the environment and working directory of the broker of rank 0; None if the commands fail.

    No shell is involved: it would drop variables with names that it does not support, such as exported functions.
    """
    cwd, variables = _run(handle, ["pwd", "-P"]), _run(handle, ["env", "-0"])
    if not cwd or not variables:
        return None
    pairs = (os.fsdecode(entry).partition("=") for entry in variables.split(b"\0") if entry)
    return Environment({name: value for name, _, value in pairs}, os.fsdecode(cwd.removesuffix(b"\n")))


def _run(handle: Any, cmdline: list[str]) -> bytes:
    """Run a command beside the broker, in its working directory, and return its output; nothing if it fails."""
    command = {"cmdline": cmdline, "env": {}, "opts": {}, "channels": []}
    rpc = handle.rpc("rexec.exec", {"cmd": command, "flags": _REXEC_STDOUT}, 0, flux.constants.FLUX_RPC_STREAMING)
    output = b""
    try:
        while True:
            response = json.loads(rpc.wait_for(_COMMAND_TIMEOUT).get_str())
            if response["type"] == "output":
                data = response["io"].get("data", "")
                output += base64.b64decode(data) if response["io"].get("encoding") == "base64" else data.encode()
            rpc.reset()
    except OSError as exc:
        return output if exc.errno == errno.ENODATA else b""  # ENODATA ends the stream
