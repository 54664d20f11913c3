"""A fake kube-apiserver with the two endpoints that check tokens: a real port, with TLS, in its own thread.

It responds as kube-apiserver does: a review is created with 201 and echoed with its status, false and empty fields are
omitted from a TokenReview's status, errors are Status objects, and a token for another audience is as unknown as one
that was never issued. The server's own credentials are laid out as the kubelet mounts and rotates them.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import datetime
import ipaddress
import json
import os
import secrets
import ssl
import threading
import time
from collections.abc import Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self, TypeVar

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.loops import accept_all, turns

T = TypeVar("T")

TOKEN_REVIEWS = "tokenreviews"
ACCESS_REVIEWS = "subjectaccessreviews"
_BOTH = (TOKEN_REVIEWS, ACCESS_REVIEWS)
_GROUPS = {TOKEN_REVIEWS: "authentication.k8s.io", ACCESS_REVIEWS: "authorization.k8s.io"}
_KINDS = {TOKEN_REVIEWS: "TokenReview", ACCESS_REVIEWS: "SubjectAccessReview"}
_REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    415: "UnsupportedMediaType",
    422: "Invalid",
    500: "InternalError",
}


class Canned(NamedTuple):
    """A response that does not depend on the request."""

    status: int
    body: bytes
    headers: Mapping[str, str] = {}

    def response(self) -> web.Response:
        return web.Response(status=self.status, body=self.body, headers={"Content-Type": "text/plain", **self.headers})


def status(code: int, message: str) -> Canned:
    """Make a Status object, the form of every error of the API server."""
    body = {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": _REASONS[code], "code": code,
    }  # fmt: skip
    return Canned(code, json.dumps(body).encode(), {"Content-Type": "application/json"})


#: Kinds of failures, for KubernetesAPI.fail().
FAILING = status(500, "Internal error occurred: etcdserver: request timed out")
BUSY = Canned(429, b"Too many requests, please try again later.\n", {"Retry-After": "3"})
GARBAGE = Canned(201, b"<html>It works!</html>", {"Content-Type": "application/json"})
HANG = "hang"
CLOSE = "close"
ENDLESS = "endless"


class Refusal(Exception):
    """An error response of the API server."""

    def __init__(self, code: int, message: str) -> None:
        self.answer = status(code, message)


@dataclass(frozen=True)
class Identity:
    """The user of a token, and its audiences."""

    user: str
    groups: list[str]
    uid: str
    extra: dict[str, list[str]]
    audiences: list[str]
    expires: float | None


@dataclass(frozen=True)
class Rule:
    """One rule of a Role, with its only subject."""

    verb: str
    user: str
    group: str
    namespace: str
    resource: str
    names: Collection[str] = field(default=())

    def allows(self, spec: dict[str, Any]) -> bool:
        wanted = spec["resourceAttributes"]
        resource = "/".join(filter(None, (wanted.get("resource"), wanted.get("subresource"))))
        return (
            (self.user == spec.get("user") if self.user else self.group in spec.get("groups", ()))
            and wanted.get("group") == "flux-framework.org"
            and self.namespace == wanted.get("namespace")
            and self.verb in (wanted.get("verb"), "*")
            and self.resource in (resource, "*")
            and (not self.names or wanted.get("name") in self.names)
        )


class KubernetesAPI:
    """A running fake: ``with KubernetesAPI(directory) as api`` serves at ``api.url``.

    A client needs the token in ``credentials_directory`` and trusts the CA there. The state may be changed at any time,
    from any thread.
    """

    def __init__(self, directory: Path, *, namespace: str = "flux", reviewer: str = "sidecar") -> None:
        self.url = ""
        self.credentials_directory = directory / "serviceaccount"
        self.namespace = namespace
        self.reviewer = f"system:serviceaccount:{namespace}:{reviewer}"
        self.reviewer_token = ""
        self.reviewer_may = set(_BOTH)
        """What the requesting server may create: the permissions of system:auth-delegator."""
        self.knows_audiences = True
        self.rules: list[Rule] = []
        self.reviews: list[tuple[str, dict[str, Any]]] = []
        """All reviews in order: resource and spec."""
        self.most_at_once = 0
        self._at_once = 0
        self._tokens: dict[str, Identity] = {}
        self._troubles: dict[str, Canned | str] = {}
        self._barriers: dict[str, asyncio.Barrier] = {}
        self._directory = directory
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._mounted = 0
        self.rotate_ca()
        self.rotate_token()

    # ---------------------------------------------------------------------------------------------------------- state

    def issue(
        self,
        user: str,
        *,
        audiences: Iterable[str] = ("flux-sidecar",),
        expires: float | None = None,
        opaque: bool = False,
        **identity: Any,
    ) -> str:
        """Return a new token: a JWT with ``exp`` (Unix seconds), or an opaque one; ``identity`` as of :meth:`know`."""
        claims: dict[str, Any] = {"sub": user, "aud": list(audiences), "jti": secrets.token_hex(8)}
        if expires is not None:
            claims["exp"] = expires
        parts = (json.dumps({"alg": "ES256"}).encode(), json.dumps(claims).encode(), secrets.token_bytes(64))
        token = secrets.token_urlsafe(32) if opaque else ".".join(_base64url(part) for part in parts)
        self.know(token, user, audiences=audiences, expires=expires, **identity)
        return token

    def know(
        self,
        token: str,
        user: str,
        *,
        groups: Iterable[str] = (),
        uid: str = "",
        extra: Mapping[str, list[str]] | None = None,
        audiences: Iterable[str] = ("flux-sidecar",),
        expires: float | None = None,
    ) -> None:
        """Accept any text as the token of a user."""
        all_groups = [*groups, "system:authenticated"]
        self._tokens[token] = Identity(user, all_groups, uid, dict(extra or {}), list(audiences), expires)

    def revoke(self, token: str) -> None:
        del self._tokens[token]

    def allow(
        self,
        verb: str,
        *,
        user: str = "",
        group: str = "",
        namespace: str = "",
        resource: str = "miniclusters/jobs",
        names: Collection[str] = (),
    ) -> None:
        """Bind a rule to a user or a group; ``names`` are its resourceNames."""
        assert bool(user) != bool(group)
        self.rules.append(Rule(verb, user, group, namespace or self.namespace, resource, names))

    def fail(self, how: Canned | str, *resources: str) -> None:
        """Fail, at both endpoints or at the given ones."""
        self._troubles |= dict.fromkeys(resources or _BOTH, how)

    def recover(self) -> None:
        self._troubles.clear()

    def gather(self, resource: str, number: int) -> None:
        """Respond to no request before a number of them has arrived: sequential requests get no response."""
        self._barriers[resource] = asyncio.Barrier(number)

    # --------------------------------------------------------------------------------------- the client's credentials

    def rotate_token(self) -> None:
        """Issue another token for the client, and revoke the previous one."""
        self.reviewer_token = secrets.token_urlsafe(32)
        self._mount()

    def rotate_ca(self) -> None:
        """Use another CA, and serve with a certificate of it."""
        self.ca, chain = _certificates()
        path = self._directory / "server.pem"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chain)
        self._tls.load_cert_chain(path)
        self._mount()

    def _mount(self) -> None:
        """Write the mount as the kubelet does: links into a directory that is replaced as a whole."""
        files = {"token": self.reviewer_token, "ca.crt": self.ca, "namespace": self.namespace}
        self._mounted += 1
        new = self.credentials_directory / f"..{self._mounted}"
        new.mkdir(parents=True)
        for name, text in files.items():
            (new / name).write_text(text)
        self.link("..data", new.name)
        for name in files:
            self.link(name, f"..data/{name}")

    def link(self, name: str, target: str) -> None:
        """Replace a file of the credentials by a link."""
        temporary = self.credentials_directory / f"..{name}.tmp"
        temporary.symlink_to(target)
        os.replace(temporary, self.credentials_directory / name)

    # ---------------------------------------------------------------------------------------------------------- thread

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kubernetes-api", daemon=True)
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *exc: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        app = web.Application()
        for resource, group in _GROUPS.items():
            app.router.add_post(f"/apis/{group}/v1/{{resource:{resource}}}", self._handle)
        self._more(app)
        app.router.add_route("*", "/{path:.*}", self._nothing)
        # A handler that hangs is cancelled when its client has disconnected, or the test has ended.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self._tls)
        await site.start()
        self.url = f"https://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        await accept_all()
        await self._runner.cleanup()
        await cut()

    # ------------------------------------------------------------------------------------------------------- responses

    def _more(self, app: web.Application) -> None:
        """Serve the other resources of a more capable fake."""

    async def _nothing(self, request: web.Request) -> web.Response:
        return web.Response(status=404, text="404 page not found\n")

    async def _handle(self, request: web.Request) -> web.Response:
        resource = request.match_info["resource"]
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            if trouble := self._troubles.get(resource):
                return await self._fail(request, trouble)
            if barrier := self._barriers.get(resource):
                await barrier.wait()
            return web.json_response(await self._review(request, resource), status=201)
        except Refusal as refusal:
            return refusal.answer.response()
        finally:
            self._at_once -= 1

    async def _fail(self, request: web.Request, trouble: Canned | str) -> web.Response:
        if isinstance(trouble, Canned):
            return trouble.response()
        if trouble == HANG:
            await asyncio.Event().wait()
        if trouble == ENDLESS:
            await _write_without_end(request)
        assert request.transport
        request.transport.abort()
        return web.Response()

    async def _review(self, request: web.Request, resource: str) -> dict[str, Any]:
        self._check_reviewer(request, resource)
        review = await _read(request, resource)
        self.reviews.append((resource, review["spec"]))
        judge = self._token_status if resource == TOKEN_REVIEWS else self._access_status
        return {**review, "metadata": {"creationTimestamp": None}, "status": judge(review["spec"])}

    def _check_reviewer(self, request: web.Request, resource: str) -> None:
        authorization = request.headers.get("Authorization")
        if authorization not in (None, f"Bearer {self.reviewer_token}"):
            raise Refusal(401, "Unauthorized")
        user = self.reviewer if authorization else "system:anonymous"
        if not authorization or resource not in self.reviewer_may:
            group = _GROUPS[resource]
            _forbid(f'{resource}.{group} is forbidden: User "{user}" cannot create resource "{resource}" '
                    f'in API group "{group}" at the cluster scope')  # fmt: skip

    def _token_status(self, spec: dict[str, Any]) -> dict[str, Any]:
        if not spec.get("token"):
            raise Refusal(400, "token is required for TokenReview in authentication")
        identity = self._tokens.get(spec["token"])
        wanted = spec.get("audiences")
        if identity is None:
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        if identity.expires is not None and identity.expires <= time.time():
            return {"user": {}, "error": "[invalid bearer token, service account token has expired]"}
        user = {
            "username": identity.user,
            "uid": identity.uid,
            "groups": identity.groups,
            "extra": identity.extra,
        }
        found = {"authenticated": True, "user": {name: value for name, value in user.items() if value}}
        if not self.knows_audiences or not wanted:
            return found
        common = [audience for audience in identity.audiences if audience in wanted]
        if not common:
            return {"user": {}, "error": f"[invalid bearer token, token audiences {identity.audiences} is invalid "
                                         f"for the target audiences {wanted}]"}  # fmt: skip
        return {**found, "audiences": common}

    def _access_status(self, spec: dict[str, Any]) -> dict[str, Any]:
        name = 'SubjectAccessReview.authorization.k8s.io "" is invalid'
        if not spec.get("user") and not spec.get("groups"):
            raise Refusal(422, f'{name}: spec.user: Invalid value: "": at least one of user or group must be specified')
        if bool(spec.get("resourceAttributes")) == bool(spec.get("nonResourceAttributes")):
            raise Refusal(422, f"{name}: spec.resourceAttributes: Invalid value: null: exactly one of "
                               "nonResourceAttributes or resourceAttributes must be specified")  # fmt: skip
        if any(rule.allows(spec) for rule in self.rules):
            return {"allowed": True, "reason": 'RBAC: allowed by RoleBinding "test/flux"'}
        return {"allowed": False}


async def cut() -> None:
    """Cut the remaining connections of this loop: the TLS shutdown takes time, which a closed loop does not have."""
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        transport.abort()
    await turns(2)  # the end of the socket, then that of TLS on it


async def _write_without_end(request: web.Request) -> None:
    """Write a response for as long as it is read."""
    response = web.StreamResponse(status=201, headers={"Content-Type": "application/json"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" " * 65536)
            await asyncio.sleep(0)  # the loop reports a lost connection


async def _read(request: web.Request, resource: str) -> dict[str, Any]:
    if request.content_type != "application/json":
        raise Refusal(415, "the body of the request was in an unknown format")
    try:
        review = await request.json()
        version, kind, spec = review["apiVersion"], review["kind"], review["spec"]
    except (ValueError, KeyError, TypeError):
        raise Refusal(400, "the object provided is unrecognized: it has no apiVersion, kind or spec") from None
    if (version, kind) != (f"{_GROUPS[resource]}/v1", _KINDS[resource]) or not isinstance(spec, dict):
        raise Refusal(400, f'no kind "{kind}" is registered for version "{version}"')
    return dict(review)


def _forbid(message: str) -> NoReturn:
    raise Refusal(403, message)


def _base64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _certificates() -> tuple[str, bytes]:
    """Return a new CA's certificate, and a key with a certificate of it for this machine (both PEM).

    The CA has no more extensions than those of many clusters: a client that enforces RFC 5280 strictly refuses it.
    """
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("kubernetes", "kube-apiserver")]
    now = datetime.datetime.now(datetime.UTC)
    addresses = x509.SubjectAlternativeName(
        [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    extensions = [(x509.BasicConstraints(ca=True, path_length=None), True), (addresses, False)]
    chain = []
    for key, name, (extension, critical) in zip(keys, names, extensions, strict=True):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(names[0])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical)
            .sign(keys[0], hashes.SHA256())
        )
        chain.append(certificate.public_bytes(serialization.Encoding.PEM))
    key_pem = keys[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return chain[0].decode(), key_pem + chain[1]
