"""Tokens of a cluster, against a fake API server on a real port."""

from __future__ import annotations

import asyncio
import gzip
import os
import ssl
import threading
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecar.auth.caller import Caller, Credential, Scope
from sidecar.auth.kubernetes import Kubernetes, RbacTarget
from sidecar.cluster.account import ServiceAccount
from sidecar.cluster.client import ApiServer
from sidecar.cluster.errors import ApiError
from sidecar.config.values import SettingsError
from sidecar.domain.errors import Unavailable
from sidecar.runtime.files import read_small
from tests.support import odd_files
from tests.support.kubernetes_api import (
    ACCESS_REVIEWS,
    BUSY,
    CLOSE,
    ENDLESS,
    FAILING,
    GARBAGE,
    HANG,
    TOKEN_REVIEWS,
    Canned,
    KubernetesAPI,
    cut,
    status,
)

ALL = {"read", "submit", "admin"}


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesAPI]:
    with KubernetesAPI(tmp_path / "api") as running:
        yield running


@pytest.fixture
async def method(api: KubernetesAPI) -> AsyncIterator[Callable[..., Kubernetes]]:
    """Create methods that use the fake API server; each is closed with the test."""
    made: list[Kubernetes] = []

    def make(url: str = api.url, timeout: float = 5, audience: str = "flux-sidecar", **options: Any) -> Kubernetes:
        server = ApiServer(url, api.credentials_directory, timeout=timeout)
        made.append(Kubernetes(server, audience=audience, **options))
        return made[-1]

    yield make
    for each in made:
        await each.close()
    await cut()


def bearer(token: str) -> Credential:
    return Credential("bearer", token)


async def unavailable(api: KubernetesAPI, method: Kubernetes, token: str) -> Unavailable:
    """Return the error of a request without a response; it must contain neither the caller's token nor the server's
    own.
    """
    with pytest.raises(Unavailable) as caught:
        await method.identify(bearer(token))
    text = "".join(traceback.format_exception(caught.value))
    error: BaseException | None = caught.value
    while error:
        text += f"{error} {error!r} {vars(error)}"
        error = error.__cause__ or error.__context__
    assert token not in text
    assert api.reviewer_token not in text
    return caught.value


# ------------------------------------------------------------------------------------------------- accepted tokens


@pytest.mark.parametrize(
    ("verbs", "scopes"),
    [
        ((), set()),
        (("get",), {"read"}),
        (("create",), {"read", "submit"}),
        (("update",), ALL),
        (("get", "create"), {"read", "submit"}),
        (("get", "update"), ALL),
        (("*",), ALL),
        (("list", "watch", "delete", "patch"), set()),
    ],
)
async def test_verbs_are_scopes(
    api: KubernetesAPI, method: Callable[..., Kubernetes], verbs: tuple[str, ...], scopes: set[Scope]
) -> None:
    """The highest verb implies the lower ones; a caller without a verb is authenticated, and gets 403 later."""
    for verb in verbs:
        api.allow(verb, user="alice")
    api.allow("update", user="bob")
    caller = await method().identify(bearer(api.issue("alice")))
    assert caller == Caller(name="alice", scopes=frozenset(scopes), method="kubernetes")


async def test_access_review_contains_all_attributes_of_the_user(
    api: KubernetesAPI, method: Callable[..., Kubernetes]
) -> None:
    """RBAC, webhooks and impersonation rules use groups, uid and extra: all must be passed on."""
    extra = {"authentication.kubernetes.io/pod-name": ["worker-0"], "example.org/projects": ["a", "b"]}
    token = api.issue("alice", groups=["flux-users"], uid="u-1", extra=extra)
    api.allow("create", group="flux-users", names=["science"])
    caller = await method(target=RbacTarget(minicluster="science")).identify(bearer(token))
    assert caller
    assert caller.scopes == {"read", "submit"}
    assert api.reviews[0] == (TOKEN_REVIEWS, {"token": token, "audiences": ["flux-sidecar"]})
    subject = {"user": "alice", "groups": ["flux-users", "system:authenticated"], "uid": "u-1", "extra": extra}
    attributes = {"namespace": "flux", "group": "flux-framework.org", "resource": "miniclusters",
                  "subresource": "jobs", "name": "science"}  # fmt: skip
    access_reviews = sorted(api.reviews[1:], key=lambda review: str(review[1]["resourceAttributes"]["verb"]))
    assert access_reviews == [
        (ACCESS_REVIEWS, {**subject, "resourceAttributes": {**attributes, "verb": verb}})
        for verb in ("create", "get", "update")
    ]


@pytest.mark.parametrize(
    ("grant", "scopes"),
    [
        ({"group": "flux-users"}, ALL),
        ({"group": "system:authenticated"}, ALL),
        ({"group": "flux-admins"}, set()),
        ({"user": "alice", "names": ["science"]}, ALL),
        ({"user": "alice", "names": ["other"]}, set()),
        ({"user": "alice", "namespace": "other"}, set()),
        ({"user": "alice", "resource": "miniclusters"}, set()),
        ({"user": "alice", "resource": "*"}, ALL),
    ],
)
async def test_rules(
    api: KubernetesAPI, method: Callable[..., Kubernetes], grant: dict[str, Any], scopes: set[str]
) -> None:
    api.allow("update", **grant)
    caller = await method(target=RbacTarget(minicluster="science")).identify(
        bearer(api.issue("alice", groups=["flux-users"]))
    )
    assert caller
    assert caller.scopes == scopes


async def test_other_namespace(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    api.allow("get", user="alice", namespace="science")
    token = bearer(api.issue("alice"))
    own, other = await method().identify(token), await method(target=RbacTarget(namespace="science")).identify(token)
    assert own
    assert other
    assert (own.scopes, other.scopes) == (frozenset(), frozenset({"read"}))


async def test_cached_result_ends_with_the_token(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    kubernetes = method()
    for expires in (time.time() + 3600, None):
        caller = await kubernetes.identify(bearer(api.issue("alice", expires=expires)))
        assert caller
        assert caller.expires == expires


@pytest.mark.parametrize(
    "token",
    [
        "opaque",
        "a.b",
        "a.b.c",
        "e30.e30.e30",  # {}
        "e30.W10.e30",  # []
        "e30.eyJleHAiOiJzb29uIn0.e30",  # {"exp":"soon"}
        "e30.eyJleHAiOjFlNDAwfQ.e30",  # {"exp":1e400}
        "e30._w.e30",  # not UTF-8
        "e30.eyJ4Ijpb" + "W1tb" * 4000 + ".e30",  # {"x":[[[[…
    ],
)
async def test_tokens_without_a_readable_expiry(
    api: KubernetesAPI, method: Callable[..., Kubernetes], token: str
) -> None:
    api.know(token, "alice")
    caller = await method().identify(bearer(token))
    assert caller == Caller(name="alice", scopes=frozenset(), method="kubernetes")


async def test_description_of_the_method(method: Callable[..., Kubernetes]) -> None:
    kubernetes = method(cache_ttl=7.0)
    assert (kubernetes.name, kubernetes.kinds, kubernetes.cache_ttl) == ("kubernetes", frozenset({"bearer"}), 7.0)


# -------------------------------------------------------------------------------------------------- refused tokens


async def test_unknown_tokens(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    kubernetes = method()
    api.allow("update", group="system:authenticated")
    revoked = api.issue("alice")
    assert await kubernetes.identify(bearer(revoked))
    api.revoke(revoked)
    expired = api.issue("alice", expires=time.time() - 1)
    elsewhere = api.issue("alice", audiences=["https://kubernetes.default.svc", "vault"])
    for token in (revoked, expired, elsewhere, "never-issued", api.reviewer_token):
        assert await kubernetes.identify(bearer(token)) is None


async def test_one_audience_of_several(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    token = bearer(api.issue("alice", audiences=["vault", "flux-sidecar"]))
    assert await method().identify(token)
    assert await method(audience="other").identify(token) is None


async def test_an_api_server_that_ignores_audiences(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    """A token that it authenticates may be intended for another service: it is refused."""
    api.knows_audiences = False
    api.allow("update", user="alice")
    assert await method().identify(bearer(api.issue("alice"))) is None


async def test_unauthenticated_tokens_are_refused(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    """Whatever else the response contains."""
    api.allow("update", user="alice")
    said = b'"user": {"username": "alice"}, "audiences": ["flux-sidecar"]'
    for authenticated in (b"", b'"authenticated": false, '):
        api.fail(
            Canned(201, b'{"kind": "TokenReview", "spec": {"token": "t"}, "status": {%b%b}}' % (authenticated, said)),
            TOKEN_REVIEWS,
        )
        assert await method().identify(bearer("token")) is None


@pytest.mark.parametrize(
    "secret", ["", " ", "two words", "line\nbreak", "nul\0", "d\u00e9j\u00e0", "\udcff", "a" * (16 * 1024 + 1)]
)
async def test_malformed_tokens_are_not_sent(
    api: KubernetesAPI, method: Callable[..., Kubernetes], secret: str
) -> None:
    assert await method().identify(bearer(secret)) is None
    assert await method().identify(Credential("password", "good", "alice")) is None
    assert api.reviews == []


async def test_longest_token(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    api.know("a" * 16 * 1024, "alice")
    assert await method().identify(bearer("a" * 16 * 1024))


async def test_tokens_are_sent_over_tls_only(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="https://"):
        ApiServer("http://127.0.0.1:8001", tmp_path)


# ----------------------------------------------------------------------------------- failures of the API server


@pytest.mark.parametrize("resource", [TOKEN_REVIEWS, ACCESS_REVIEWS])
async def test_missing_permission_for_token_reviews(
    api: KubernetesAPI, method: Callable[..., Kubernetes], resource: str
) -> None:
    api.reviewer_may.remove(resource)
    api.allow("update", user="alice")
    error = await unavailable(api, method(), api.issue("alice"))
    assert f"may not create {resource}: bind the ClusterRole system:auth-delegator to it" in error.detail


async def test_invalid_token_of_the_server(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    path = api.credentials_directory / "token"
    path.unlink()
    path.write_text("of-another-cluster")
    error = await unavailable(api, method(), api.issue("alice"))
    assert f"401: it does not accept the server's service account: check {path}" in error.detail
    assert "of-another-cluster" not in repr(vars(error))


#: A small compressed body that is large when decompressed; it is not decompressed.
_PACKED = gzip.compress(b" " * 10_000_000 + b'{"kind": "TokenReview", "status": {}}')
_ODD = {
    "not JSON": b"<html>It works!</html>",
    "nothing": b"",
    "not UTF-8": b'{"kind": "TokenReview\xff"}',
    "no object": b"[]",
    "no status": b'{"kind": "TokenReview"}',
    "status is null": b'{"kind": "TokenReview", "status": null}',
    "no kind": b'{"status": {"authenticated": true, "allowed": true}}',
    "another kind": b'{"kind": "Status", "status": {"authenticated": true, "allowed": true}}',
    "not quite true": b'{"kind": "TokenReview", "status": {"authenticated": "true", "allowed": 1}}',
    "another's answer": b'{"kind": "SubjectAccessReview", "status": {}}',
    "no name": b'{"kind": "TokenReview", "status": {"authenticated": true, "audiences": ["flux-sidecar"], '
    b'"user": {"groups": ["flux-users"]}}}',
    "too deep": b'{"x": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("resource", [TOKEN_REVIEWS, ACCESS_REVIEWS])
@pytest.mark.parametrize(
    ("trouble", "detail"),
    [
        (FAILING, "has answered 500"),
        (status(403, "no"), "system:auth-delegator"),
        (Canned(404, b"404 page not found"), "has answered 404"),
        (Canned(503, b""), "has answered 503"),
        (Canned(204, b""), "has answered 204"),
        (Canned(307, b"", {"Location": "/elsewhere"}), "has answered 307"),
        (CLOSE, "cannot be reached"),
        (GARBAGE, "check that it is a Kubernetes API server"),
        (ENDLESS, "has answered with more than 1048576 bytes"),
        (Canned(500, b" " * (1024 * 1024 + 1)), "has answered with more than 1048576 bytes"),
        (Canned(201, _PACKED, {"Content-Encoding": "gzip"}), "check that it is a Kubernetes API server"),
        *((Canned(201, body), "") for body in _ODD.values()),
    ],
    ids=["500", "403", "404", "503", "204", "307", "closed", "garbage", "endless", "large", "packed", *_ODD],
)
async def test_failures(
    api: KubernetesAPI, method: Callable[..., Kubernetes], trouble: Canned | str, detail: str, resource: str
) -> None:
    """Whatever the failure, at either endpoint: the caller gets neither access nor 401, and a retry succeeds."""
    kubernetes = method()
    api.allow("update", user="alice")
    api.allow("update", group="flux-users")
    token = api.issue("alice")
    api.fail(trouble, resource)
    assert detail in (await unavailable(api, kubernetes, token)).detail
    api.recover()
    caller = await kubernetes.identify(bearer(token))
    assert caller
    assert caller.scopes == ALL


@pytest.mark.parametrize(
    ("retry_after", "passed_on"), [("3", "3"), ("86400", "30"), ("", "1"), ("Fri, 31 Dec 1999 23:59:59 GMT", "1")]
)
async def test_busy_api_server(
    api: KubernetesAPI, method: Callable[..., Kubernetes], retry_after: str, passed_on: str
) -> None:
    api.fail(BUSY._replace(headers={"Retry-After": retry_after}))
    error = await unavailable(api, method(), api.issue("alice"))
    assert "429" in error.detail
    assert error.headers["Retry-After"] == passed_on


@pytest.mark.parametrize("resource", [TOKEN_REVIEWS, ACCESS_REVIEWS])
async def test_hanging_api_server(api: KubernetesAPI, method: Callable[..., Kubernetes], resource: str) -> None:
    kubernetes = method(timeout=0.2)
    token = api.issue("alice")
    api.fail(HANG, resource)
    started = time.monotonic()
    # More than there are slots: a request that waits for one has the same timeout.
    errors = await asyncio.gather(*(unavailable(api, kubernetes, token) for _ in range(20)))
    assert time.monotonic() - started < 5.0
    assert all("within 0.2 s" in error.detail for error in errors)
    assert api.most_at_once <= 8


async def test_unreachable_api_server(tmp_path: Path, method: Callable[..., Kubernetes]) -> None:
    with KubernetesAPI(tmp_path / "gone") as gone:
        token = gone.issue("alice")
    error = await unavailable(gone, method(url=gone.url), token)
    assert f"{gone.url} cannot be reached" in error.detail


async def test_impostor_of_the_api_server(
    tmp_path: Path, api: KubernetesAPI, method: Callable[..., Kubernetes]
) -> None:
    """Neither token is sent to a server without a certificate of the cluster's CA."""
    with KubernetesAPI(tmp_path / "other") as other:
        other.allow("update", user="alice")
        error = await unavailable(other, method(url=other.url), other.issue("alice"))
        assert other.reviews == []
    assert f"{api.credentials_directory / 'ca.crt'} does not vouch for" in error.detail


# ------------------------------------------------------------------------------------------ the server's own account


async def test_token_rotation(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    kubernetes = method()
    token = bearer(api.issue("alice"))
    assert await kubernetes.identify(token)
    api.rotate_token()
    assert await kubernetes.identify(token)


async def test_ca_rotation(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    kubernetes = method()
    token = api.issue("alice")
    before = api.ca
    api.rotate_ca()
    path = api.credentials_directory / "ca.crt"
    path.unlink()
    path.write_text(before)
    assert "does not vouch for" in (await unavailable(api, kubernetes, token)).detail
    api.link("ca.crt", "..data/ca.crt")
    assert await kubernetes.identify(bearer(token))


@pytest.mark.parametrize("name", ["token", "ca.crt", "namespace"])
@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe"], ids=["missing", "empty", "blank", "binary"])
async def test_missing_credentials(
    api: KubernetesAPI, method: Callable[..., Kubernetes], name: str, content: bytes | None
) -> None:
    """In particular, the system's CAs are not trusted in place of an empty ca.crt."""
    kubernetes = method()
    token = api.issue("alice")
    path = api.credentials_directory / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    error = await unavailable(api, kubernetes, token)
    assert str(path) in error.detail
    path.unlink(missing_ok=True)
    api.link(name, f"..data/{name}")
    assert await kubernetes.identify(bearer(token))


@pytest.mark.parametrize(("name", "content"), [("token", "two\nlines"), ("ca.crt", "-----BEGIN CERTIFICATE-----")])
async def test_invalid_credentials(
    api: KubernetesAPI, method: Callable[..., Kubernetes], name: str, content: str
) -> None:
    path = api.credentials_directory / name
    path.unlink()
    path.write_text(content)
    error = await unavailable(api, method(), api.issue("alice"))
    assert str(path) in error.detail
    assert content not in error.detail


# ----------------------------------------------------------------------------------------------------- concurrency


async def test_access_reviews_are_concurrent(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    api.gather(ACCESS_REVIEWS, 3)
    assert await method().identify(bearer(api.issue("alice")))


async def test_concurrency_is_limited_to_eight(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    api.gather(TOKEN_REVIEWS, 8)
    kubernetes = method()
    callers = await asyncio.gather(*(kubernetes.identify(bearer(api.issue(f"user-{n}"))) for n in range(16)))
    assert [caller and caller.name for caller in callers] == [f"user-{n}" for n in range(16)]
    assert api.most_at_once == 8


async def test_close_before_the_first_request(api: KubernetesAPI, method: Callable[..., Kubernetes]) -> None:
    """Nothing was sent or opened; a second close, as after a failed start, does nothing."""
    kubernetes, before = method(), _descriptors()
    await kubernetes.close()
    await kubernetes.close()
    assert api.reviews == []
    assert _descriptors() == before


def _descriptors() -> int:
    """Return the number of open files and connections of this process."""
    return len(os.listdir("/proc/self/fd"))


# --------------------------------------------------------------------------------------------- the fake API server


_REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "x"}}


@pytest.mark.parametrize(
    ("review", "authorization", "answer"),
    [
        (_REVIEW, "own", (201, None)),
        (_REVIEW, "Bearer another", (401, "Unauthorized")),
        (_REVIEW, "", (403, "Forbidden")),
        ({**_REVIEW, "kind": "SubjectAccessReview"}, "own", (400, "BadRequest")),
        ({**_REVIEW, "apiVersion": "v1"}, "own", (400, "BadRequest")),
        ({"kind": "TokenReview"}, "own", (400, "BadRequest")),
        ({**_REVIEW, "spec": {"token": ""}}, "own", (400, "BadRequest")),
        ([], "own", (400, "BadRequest")),
    ],
)
def test_fake_api_server_is_strict(
    api: KubernetesAPI, review: Any, authorization: str, answer: tuple[int, str | None]
) -> None:
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(api.credentials_directory / "ca.crt")
    own = f"Bearer {(api.credentials_directory / 'token').read_text()}"
    headers = {"Authorization": own if authorization == "own" else authorization} if authorization else {}
    with httpx.Client(base_url=api.url, verify=trust, trust_env=False) as client:
        found = client.post("/apis/authentication.k8s.io/v1/tokenreviews", json=review, headers=headers)
    assert (found.status_code, found.json().get("reason")) == answer
    assert found.json()["kind"] == ("TokenReview" if answer[0] == 201 else "Status")


@pytest.mark.parametrize("how", odd_files.ODD)
@pytest.mark.parametrize("name", ["token", "ca.crt"])
async def test_irregular_files_of_the_service_account(
    api: KubernetesAPI, method: Callable[..., Kubernetes], name: str, how: str
) -> None:
    why = odd_files.put(Path(api.credentials_directory) / name, how)
    found = await unavailable(api, method(), "someones-token")
    assert f"{name}: {why}" in found.detail


@pytest.mark.parametrize("how", odd_files.ODD)
def test_irregular_file_of_the_namespace(tmp_path: Path, how: str) -> None:
    why = odd_files.put(tmp_path / "namespace", how)
    with pytest.raises(ApiError, match=why):
        ServiceAccount(tmp_path).read("namespace")


async def test_service_account_on_a_hanging_file_system(
    api: KubernetesAPI, method: Callable[..., Kubernetes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.cluster.account._READ_TIMEOUT", 0.1)
    answers = threading.Event()

    def slow(path: Path) -> bytes:
        assert answers.wait(60)
        return read_small(path)

    mine = method(target=RbacTarget(namespace="ns"))
    monkeypatch.setattr("sidecar.cluster.account.read_small", slow)
    for _ in range(2):
        assert "the file system does not answer" in (await unavailable(api, mine, "someones-token")).detail
    answers.set()
