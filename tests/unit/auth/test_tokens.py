"""Token files, rate limits, the cache of authentication results, and sessions."""

from __future__ import annotations

import asyncio
import itertools
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth import caller_file, tokens
from sidecar.auth.authenticator import Authenticator
from sidecar.auth.caller import SCOPES, Caller, Credential, implied
from sidecar.auth.fair_queue import FairQueue, QueueTimeout
from sidecar.auth.sessions import Sessions, cookie_name
from sidecar.auth.tokens import TokenFile
from sidecar.config.values import SettingsError
from sidecar.domain.errors import TooManyRequests, Unavailable
from sidecar.runtime.rate_limiter import RateLimiter, client_key
from tests.support import odd_files
from tests.support.harness import SIDECAR


async def identify_token(file: TokenFile, token: str) -> Caller | None:
    return await file.identify(Credential("bearer", token))


async def test_a_file_of_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    mine, line = tokens.make_token("alice", ["submit"])
    other, second = tokens.make_token("system:serviceaccount:ns:bob", ["read", "admin"])
    name, _, digest = second.rpartition(":")
    path.write_text(f"# people\n\n  {line}  \n{name}:{digest.upper()}\n")
    file = TokenFile(path)
    assert await identify_token(file, mine) == Caller(
        name="alice", scopes=frozenset({"read", "submit"}), method="token"
    )
    found = await identify_token(file, other)
    assert found is not None
    assert (found.name, found.scopes) == ("system:serviceaccount:ns:bob", frozenset({"read", "submit", "admin"}))
    for wrong in ("", mine[:-1], mine + "x", mine.upper(), line, "\0", "ƒ", "\udcff"):
        assert await identify_token(file, wrong) is None
    assert mine not in path.read_text()


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("alice", "name:scopes:sha256"),
        ("alice:read", "name:scopes:sha256"),
        (":read:" + "0" * 64, "name:scopes:sha256"),
        ("a\x1bb:read:" + "0" * 64, "name:scopes:sha256"),
        ("alice:write:" + "0" * 64, "unknown scope; use read, submit, admin"),
        ("alice:read,write:" + "0" * 64, "unknown scope; use read, submit, admin"),
        ("alice::" + "0" * 64, "unknown scope; use read, submit, admin"),
        ("alice:read:secret", "SHA-256"),
        ("alice:read:" + "g" * 64, "SHA-256"),
    ],
)
def test_invalid_line(tmp_path: Path, line: str, text: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"\n{line}\n")
    with pytest.raises(SettingsError, match=re.escape(text)) as caught:
        TokenFile(path)
    assert "Line 2" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_swapped_columns(tmp_path: Path) -> None:
    """Wherever the token itself is written, it appears neither in the error at start nor in the log."""
    token, line = tokens.make_token("alice", ["submit"])
    digest = line.rpartition(":")[2]
    path = tmp_path / "tokens"
    path.write_text(line)
    file = TokenFile(path)
    for columns in (
        [*itertools.permutations(["alice", "submit", token]), *itertools.permutations([token, "submit", digest])],
        [[token], [token, ""], ["", token], ["alice", token], [token, "submit"], ["alice", "", token]],
        [["alice", f"read,{token}", digest], ["alice", f"{token},read", digest], [f"{token} ", "read", digest]],
    ):
        for each in columns:
            path.write_text(":".join(each))
            with pytest.raises(SettingsError) as caught:
                TokenFile(path)
            with structlog.testing.capture_logs() as logs:
                file.read_again()()
            assert "left out" in logs[0]["event"]
            assert token not in f"{caught.value}{logs}"


@given(
    name=st.text(min_size=1, max_size=30).filter(lambda text: _is_name(text)) | st.just("system:serviceaccount:ns:bob"),
    scopes=st.lists(st.sampled_from(SCOPES), min_size=1, unique=True),
    expires=st.just("") | st.dates(date(2040, 1, 1)).map(str) | st.integers(1, 10**6).map(lambda days: f"{days}d"),
)
def test_a_line_is_read_as_it_was_written(name: str, scopes: list[str], expires: str) -> None:
    """Also if the name ends as a line does."""
    for each in (name, f"{name}:read:{'0' * 64}"):
        token, line = tokens.make_token(each, scopes, expires)
        found, wrong = caller_file.parse_lines(line, tokens.FORM)
        assert wrong == []
        (entry,) = found.values()
        assert entry.caller.name == each
        assert set(scopes) <= entry.caller.scopes
        assert (entry.caller.expires is None) == (expires == "")
        assert token not in line


def _is_name(text: str) -> bool:
    try:
        caller_file.check_line(text, ["read"])
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    ("field", "expires"),
    [("2026-12-31", 1798761600.0), ("20261231T180000Z", 1798740000.0), ("2024-02-29", 1709251200.0)],
)
async def test_an_expired_token_is_unknown(tmp_path: Path, field: str, expires: float) -> None:
    """A date includes its day."""
    token, line = tokens.make_token("system:node:a", ["read"])
    path, clock = tmp_path / "tokens", Clock()
    path.write_text(f"{line}:{field}\n")
    file = TokenFile(path, clock)
    clock.now = expires - 1
    found = await identify_token(file, token)
    assert found is not None
    assert (found.name, found.expires) == ("system:node:a", expires)
    clock.now = expires
    assert await identify_token(file, token) is None


@pytest.mark.parametrize(
    "field", ["soon", "", "2026-13-01", "2023-02-29", "1798761600", "20261231T180000", "9999-12-31"]
)
def test_an_invalid_expiry(tmp_path: Path, field: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(f"alice:read:{'0' * 64}:{field}\n")
    with pytest.raises(SettingsError, match="Line 1: the last field must be a date, as in 2026-12-31"):
        TokenFile(path)


@pytest.mark.parametrize(
    ("expires", "why"),
    [
        ("soon", "'soon' is neither a duration nor a date; write 30d or 2026-12-31"),
        ("2020-01-01", "'2020-01-01' is not in the future"),
        ("0d", "'0d' is not in the future"),
        ("999999999d", "'999999999d' is too long; leave --expires out for never"),
        ("-1d", "neither"),
    ],
)
def test_an_expiry_that_cannot_be(expires: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--expires: {why}" if why[0] == "'" else why)):
        tokens.make_token("alice", ["read"], expires)


def test_file_without_a_final_newline(tmp_path: Path) -> None:
    """As editors and `printf` leave it: an appended line must not be joined to the last one."""
    path = tmp_path / "tokens"
    found = [tokens.make_token(name, ["read"]) for name in ("alice", "bob", "eve")]
    path.write_text(found[0][1])
    for _, line in found[1:]:
        tokens.append_line(path, line)
    assert path.read_text() == "".join(f"{line}\n" for _, line in found)
    for token, _ in found:
        assert asyncio.run(identify_token(TokenFile(path), token)) is not None


def test_file_without_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text("# nothing yet\n")
    with structlog.testing.capture_logs() as logs:
        file = TokenFile(path)
        tokens.append_line(path, tokens.make_token("alice", ["read"])[1])
        file.read_again()()
    warnings = [each for each in logs if each["log_level"] == "warning"]
    assert [each["file"] for each in warnings] == [str(path)]
    assert "flux-sidecar token new" in warnings[0]["hint"]


def test_unreadable_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(SettingsError, match="--tokens"):
            TokenFile(path)


@pytest.mark.parametrize("how", odd_files.ODD)
def test_irregular_file(tmp_path: Path, how: str) -> None:
    """It is an error at start; later, no token of such a file is accepted."""
    path = tmp_path / "tokens"
    token, line = tokens.make_token("alice", ["read"])
    path.write_text(line)
    file = TokenFile(path)
    why = odd_files.put(path, how)
    with structlog.testing.capture_logs() as logs:
        file.read_again()()
    assert asyncio.run(identify_token(file, token)) is None
    assert why in logs[0]["reason"]
    with pytest.raises(SettingsError, match=why):
        TokenFile(path)


def test_file_full_of_invalid_lines(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    token, line = tokens.make_token("alice", ["read"])
    path.write_text(line)
    file = TokenFile(path)
    path.write_text("x\n" * 400_000 + line)
    with structlog.testing.capture_logs() as logs:
        file.read_again()()
    assert asyncio.run(identify_token(file, token)) is not None
    reasons = [entry["reason"] for entry in logs if entry["log_level"] == "error"]
    assert len(reasons) == 6
    assert reasons[-1] == "399995 more lines are wrong."
    with pytest.raises(SettingsError, match="399995 more lines are wrong") as caught:
        TokenFile(path)
    assert len(str(caught.value)) < 1000


def test_token_new_command(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    for name in ("alice", "bob"):
        done = subprocess.run(
            [SIDECAR, "token", "new", name, "--scopes", "submit", "--file", str(path)],
            text=True, capture_output=True, check=True,
        )  # fmt: skip
        token = done.stdout.strip()
        assert re.fullmatch(r"fxs_[\w-]{43}", token)
        assert asyncio.run(identify_token(TokenFile(path), token)) is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [line.split(":")[0] for line in path.read_text().splitlines()] == ["alice", "bob"]
    shown = subprocess.run([SIDECAR, "token", "new", "eve"], text=True, capture_output=True, check=True)
    assert "eve:submit:" in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["eve", "--scopes", "root"], "--scopes: unknown scope 'root'; use read, submit, admin"),
        (["eve", "--scopes", "read,"], None),
        (["eve", "--scopes", ""], "--scopes: name at least one of read, submit, admin"),
        ([""], "NAME must be printable text, not empty"),
        ([" "], "NAME must be printable text, not empty"),
        (["fxs_abc"], "must not begin with fxs_"),
        (["a\nb"], "NAME must be printable text"),
        (["#x"], "NAME must not begin with #: its line in the file would be a comment"),
        ([" sp "], "NAME must not begin or end with white space; write 'sp'"),
        (["sp\u3000"], "NAME must"),
    ],
)
def test_token_new_reports_invalid_arguments(arguments: list[str], why: str | None) -> None:
    done = subprocess.run([SIDECAR, "token", "new", *arguments], text=True, capture_output=True)
    if why is None:
        assert done.returncode == 0
        return
    assert (done.returncode, done.stdout) == (2, "")
    assert why in " ".join(done.stderr.split())


def test_second_token_of_a_name_is_reported(tmp_path: Path) -> None:
    """It does not replace the first one: both are valid until a line is deleted."""
    path = tmp_path / "tokens"
    path.write_bytes(b"# caf\xe9\n" + tokens.make_token("bobby", ["read"])[1].encode())
    assert [tokens.append_line(path, tokens.make_token("bob", ["read"])[1]) for _ in range(3)] == [0, 1, 2]
    path.unlink()
    done = [
        subprocess.run(
            [SIDECAR, "token", "new", "bob", "--file", str(path)], text=True, capture_output=True, check=True
        )
        for _ in range(2)
    ]
    note = f"bob already has 1 token in {path}, which stays valid; `flux-sidecar token revoke` ends it\n"
    assert [each.stderr for each in done] == ["", note]
    for each in done:
        assert asyncio.run(identify_token(TokenFile(path), each.stdout.strip())) is not None


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_rate_limiter() -> None:
    clock = Clock()
    buckets = RateLimiter(2.0, 3.0, clock)
    assert [buckets.acquire("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.acquire("b") == 0
    clock.now += 0.5
    assert [buckets.acquire("a") for _ in range(2)] == [0, 0.5]
    clock.now += 100
    assert [buckets.acquire("a") > 0 for _ in range(4)] == [False, False, False, True]
    buckets.refund("a")
    assert buckets.acquire("a") == 0
    assert RateLimiter(0, 0).acquire("a") == 0


def test_rate_below_one() -> None:
    """A bucket with a capacity below one token would never admit a request."""
    clock = Clock()
    buckets = RateLimiter(0.25, 0.5, clock)
    assert [buckets.acquire("a") for _ in range(2)] == [0, 4]
    clock.now += 4
    assert [buckets.acquire("a") for _ in range(2)] == [0, 4]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1:567", "192.0.2.1"),
        (" 192.0.2.1 ", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1]:80", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("[2001:DB8:1:2:ffff::1]", "2001:db8:1:2::/64"),
        ("[2001:db8:1:2:ffff::1]:80", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("[::1]:80", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("socket", "socket"),
        ("unknown", "unknown"),
        ("", ""),
        ("[", "["),
        ("a:b", "a:b"),
        ("1.2.3.4:5:6", "1.2.3.4:5:6"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_client_keys_of_addresses(address: str, expected: str) -> None:
    assert client_key(address) == expected


def test_number_of_buckets_is_limited() -> None:
    buckets = RateLimiter(1.0, 1.0, Clock())
    assert buckets.acquire("first") == 0
    for n in range(10_000):
        buckets.acquire(str(n))
    assert buckets.acquire("first") == 0


class Known:
    """A method that knows one secret, counts its calls, and can be blocked."""

    name = "known"
    kinds = frozenset({"bearer"})
    cache_ttl = 10.0
    max_concurrent = 0

    def __init__(self, secret: str, *, down: bool = False, expires: float | None = None) -> None:
        self.secret, self.down, self.expires = secret, down, expires
        self.calls = 0
        self.unblocked = asyncio.Event()
        self.unblocked.set()

    async def identify(self, credential: Credential) -> Caller | None:
        self.calls += 1
        await self.unblocked.wait()
        if self.down:
            raise Unavailable("no response")
        if credential.secret != self.secret:
            return None
        return Caller(name=self.secret, scopes=implied(["read"]), method=self.name, expires=self.expires)


def bearer(secret: str) -> Credential:
    return Credential("bearer", secret)


async def test_methods_are_called_in_order() -> None:
    first, second = Known("a"), Known("b")
    both = Authenticator([first, second], RateLimiter(1, 100))
    for secret in ("a", "b"):
        found = await both.authenticate(bearer(secret), "1.2.3.4")
        assert found is not None
        assert found.name == secret
    assert await both.authenticate(bearer("c"), "1.2.3.4") is None
    assert await both.authenticate(Credential("password", "a", "x"), "1.2.3.4") is None
    assert (first.calls, second.calls) == (3, 2)


async def test_results_are_cached() -> None:
    clock, method = Clock(), Known("a", expires=1005.0)
    both = Authenticator([method], RateLimiter(1, 100), clock, clock)
    for now, calls in ((1000.0, 1), (1004.9, 1), (1005.0, 2)):
        clock.now = now
        assert await both.authenticate(bearer("a"), "1.2.3.4")
        assert method.calls == calls
    both.clear_cache()
    assert await both.authenticate(bearer("a"), "1.2.3.4")
    assert method.calls == 3
    method.expires = None
    clock.now = 2000.0
    for now, calls in ((2000.0, 4), (2009.9, 4), (2010.0, 5)):
        clock.now = now
        assert await both.authenticate(bearer("a"), "1.2.3.4")
        assert method.calls == calls


async def test_concurrent_requests_share_one_call() -> None:
    method = Known("a")
    method.unblocked.clear()
    both = Authenticator([method], RateLimiter(1, 1))  # all of them are one attempt
    requests = [asyncio.create_task(both.authenticate(bearer("a"), "1.2.3.4")) for _ in range(50)]
    await asyncio.wait(requests, timeout=0)
    requests[0].cancel()  # a cancelled request does not affect the others
    method.unblocked.set()
    found = await asyncio.gather(*requests, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert {each.name for each in found[1:] if isinstance(each, Caller)} == {"a"}
    assert method.calls == 1


async def test_result_of_a_call_before_a_revocation_is_not_cached() -> None:
    method = Known("a")
    method.unblocked.clear()
    both = Authenticator([method], RateLimiter(1, 100))
    requests = asyncio.create_task(both.authenticate(bearer("a"), "1.2.3.4"))
    await asyncio.wait([requests], timeout=0)
    both.clear_cache()
    method.unblocked.set()
    await requests
    await both.authenticate(bearer("a"), "1.2.3.4")
    assert method.calls == 2


async def test_unavailable_method_does_not_affect_other_methods() -> None:
    down, up = Known("a", down=True), Known("b")
    both = Authenticator([down, up], RateLimiter(1, 2))
    assert await both.authenticate(bearer("b"), "1.2.3.4")
    for _ in range(5):  # not counted as a failed login
        with pytest.raises(Unavailable):
            await both.authenticate(bearer("a"), "1.2.3.4")


class Remote(Known):
    """A method that calls a server, with limited concurrency."""

    name = "remote"
    max_concurrent = 8

    def __init__(self, *secrets: str) -> None:
        super().__init__("")
        self.secrets = secrets
        self.now: list[str] = []
        """Secrets of the calls in progress."""
        self.order: list[str] = []
        """Secrets of all calls."""

    async def identify(self, credential: Credential) -> Caller | None:
        self.calls += 1
        self.order.append(credential.secret)
        self.now.append(credential.secret)
        await self.unblocked.wait()
        self.now.remove(credential.secret)
        known = credential.secret in self.secrets
        return Caller(name=credential.secret, scopes=implied(["read"]), method=self.name) if known else None


async def test_reauthentication_uses_the_method_that_accepted_the_caller() -> None:
    """Whether another method is available does not matter."""
    file, remote = Known("a"), Remote("b")
    both = Authenticator([file, remote], RateLimiter(1, 100))
    for secret in ("a", "b"):
        assert await both.authenticate(bearer(secret), "1.2.3.4")
    file.secret, remote.secrets = "", ()
    both.clear_cache()
    remote.unblocked.clear()
    hangs = asyncio.create_task(both.reauthenticate(bearer("b"), "remote"))
    assert await asyncio.wait_for(both.reauthenticate(bearer("a"), "known"), 60) is None
    remote.unblocked.set()
    assert await hangs is None
    assert remote.calls == 2


async def test_a_token_of_the_file_is_sent_to_no_other_method(tmp_path: Path) -> None:
    """Also after its revocation: it is refused although the other method is unavailable."""
    token, line = tokens.make_token("alice", ["read"])
    path = tmp_path / "tokens"
    path.write_text(line)
    file, remote = TokenFile(path), Known("b")
    remote.down = True
    both = Authenticator([file, remote], RateLimiter(1, 100))
    found = await both.authenticate(bearer(token), "1.2.3.4")
    assert found is not None
    path.write_text("")
    file.read_again()()
    both.clear_cache()
    assert await both.authenticate(bearer(token), "1.2.3.4") is None
    assert remote.calls == 0
    with pytest.raises(Unavailable):
        await both.authenticate(bearer("another"), "1.2.3.4")
    alone = Authenticator([remote], RateLimiter(1, 100))
    with pytest.raises(Unavailable):  # without a tokens file, the prefix has no meaning
        await alone.authenticate(bearer(token), "1.2.3.4")


async def test_reauthentication_ignores_results_of_other_methods() -> None:
    """A credential that two methods accept ends with the method that accepted it first."""
    file, remote = Known("a"), Remote("a")
    both = Authenticator([file, remote], RateLimiter(1, 100))
    assert await both.authenticate(bearer("a"), "1.2.3.4")
    file.secret = ""
    both.clear_cache()
    found = await both.authenticate(bearer("a"), "1.2.3.4")
    assert found is not None
    assert found.method == "remote"
    assert await both.reauthenticate(bearer("a"), "known") is None


async def _until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():
            await asyncio.sleep(0)


async def test_unknown_credentials_do_not_block_others() -> None:
    """However many credentials one address invents: cached callers, and callers from other addresses, are checked."""
    method = Remote("known", "new", "watched")
    both = Authenticator([method], RateLimiter(1, 100))
    assert await both.authenticate(bearer("known"), "1.2.3.4")
    both.clear_cache()
    method.unblocked.clear()
    guesses = [
        asyncio.create_task(both.authenticate(bearer(f"{address}-{n}"), f"1.2.3.{address}"))
        for address in (4, 5)
        for n in range(50)
    ]
    await _until(lambda: len(method.now) == 4)  # two of an address
    others = [
        asyncio.create_task(both.authenticate(bearer("new"), "1.2.3.6")),
        asyncio.create_task(both.authenticate(bearer("known"), "1.2.3.4")),
        asyncio.create_task(both.reauthenticate(bearer("watched"), "remote")),
    ]
    await _until(lambda: len(method.now) == 7)
    assert {"new", "known", "watched"} <= set(method.now)
    method.unblocked.set()
    assert all(await asyncio.gather(*others))
    assert not any(await asyncio.gather(*guesses))


async def test_addresses_take_turns() -> None:
    """A new caller waits for one request of each address, not for all their requests."""
    method = Remote("new")
    both = Authenticator([method], RateLimiter(1, 100))
    method.unblocked.clear()
    guesses = [
        asyncio.create_task(both.authenticate(bearer(f"{address}-{n}"), f"1.2.3.{address}"))
        for n in range(20)
        for address in range(5)
    ]
    await _until(lambda: len(method.now) == 5)
    new = asyncio.create_task(both.authenticate(bearer("new"), "1.2.4.1"))
    await _until(lambda: "1.2.4.1" in both._queues["remote"]._waiting)
    method.unblocked.set()
    assert await new
    assert method.order.index("new") <= 5 + 5
    await asyncio.gather(*guesses)


async def test_queue_timeout_counts_as_a_failed_login() -> None:
    """Otherwise an address that sends more than can be checked would never be limited."""
    method = Remote()
    both = Authenticator([method], RateLimiter(0.001, 5))
    both._queues["remote"] = FairQueue(8, wait=0.05)
    method.unblocked.clear()
    requests = [asyncio.create_task(both.authenticate(bearer(str(n)), "1.2.3.4")) for n in range(5)]
    done, _ = await asyncio.wait(requests[2:], timeout=10)
    assert {type(each.exception()) for each in done} == {QueueTimeout}
    with pytest.raises(TooManyRequests):
        await both.authenticate(bearer("5"), "1.2.3.4")
    method.unblocked.set()
    assert await asyncio.gather(*requests[:2]) == [None, None]


async def test_cancelled_request_releases_its_slot() -> None:
    turns, order = FairQueue(1), []

    async def hold_slot(name: str) -> None:
        async with turns.slot(name):
            order.append(name)
            await asyncio.Event().wait()

    tasks = {}
    for name in "abcd":
        tasks[name] = asyncio.create_task(hold_slot(name))
        await asyncio.wait(tasks.values(), timeout=0)
    for name, then in (("b", "a"), ("a", "ac"), ("c", "acd")):  # the first of them while it waits
        tasks[name].cancel()
        await asyncio.wait([tasks[name]])
        await asyncio.wait(tasks.values(), timeout=0)
        assert "".join(order) == then
    tasks["d"].cancel()
    await asyncio.wait([tasks["d"]])
    async with asyncio.timeout(5), turns.slot("e"):
        assert not turns._waiting


async def test_failed_logins_are_limited() -> None:
    method = Known("a")
    both = Authenticator([method], RateLimiter(1, 3))
    for n in range(3):
        assert await both.authenticate(bearer(str(n)), "1.2.3.4") is None
    with pytest.raises(TooManyRequests):
        await both.authenticate(bearer("a"), "1.2.3.4")
    assert method.calls == 3
    assert await both.authenticate(bearer("a"), "5.6.7.8")
    assert await both.authenticate(bearer("a"), "1.2.3.4")  # it is cached


async def test_failed_logins_of_others_do_not_end_accepted_credentials() -> None:
    """Behind an ingress all clients have one address: failed logins there must not end valid credentials."""
    clock, method = Clock(), Known("a")
    both = Authenticator([method], RateLimiter(1, 2, clock), clock, clock)
    assert await both.authenticate(bearer("a"), "1.2.3.4")
    for n in range(2):
        assert await both.authenticate(bearer(str(n)), "1.2.3.4") is None
    with pytest.raises(TooManyRequests):
        await both.authenticate(bearer("b"), "1.2.3.4")
    both.clear_cache()  # as when the file changes
    assert await both.authenticate(bearer("a"), "1.2.3.4")
    method.secret = "b"
    both.clear_cache()
    assert await both.authenticate(bearer("a"), "1.2.3.4") is None  # revoked: from now on a failed login like any other
    with pytest.raises(TooManyRequests):
        await both.authenticate(bearer("a"), "1.2.3.4")
    assert await both.reauthenticate(bearer("a"), "known") is None  # open requests are revalidated despite the limit


async def test_a_cached_password_counts_as_an_attempt() -> None:
    """Otherwise attempts could be compared with the cache, without the limit."""

    class Password(Known):
        kinds = frozenset({"password"})

    method = Password("a")
    both = Authenticator([method], RateLimiter(1, 2))
    for _ in range(5):
        assert await both.authenticate(Credential("password", "a", "x"), "1.2.3.4")
    assert method.calls == 1
    for n in range(2):
        assert await both.authenticate(Credential("password", str(n), "x"), "1.2.3.4") is None
    with pytest.raises(TooManyRequests):
        await both.authenticate(Credential("password", "a", "x"), "1.2.3.4")


def test_sessions() -> None:
    clock = Clock()
    sessions = Sessions(60.0, clock)
    cookie = sessions.begin(bearer("a"))
    assert sessions.credential(cookie) == bearer("a")
    assert sessions.credential(cookie + "x") is None
    clock.now += 60
    assert sessions.credential(cookie) is None
    again = sessions.begin(bearer("b"))
    sessions.end(again)
    assert sessions.credential(again) is None
    own = [sessions.begin(bearer("c"), bearer(f"of the login {n}")) for n in range(21)]
    assert sessions.credential(own[-1]) == bearer("of the login 20")
    assert [sessions.credential(each) is None for each in own] == [True] + [False] * 20
    for n in range(1000):
        sessions.begin(bearer(str(n)))
    assert sessions.credential(own[-1]) is None
    assert cookie_name("localhost:5000") != cookie_name("localhost:5001")


_CLOCK_SET_BACK = """
import time
clock, back = time.time, []
time.time = lambda: clock() - sum(back)
from sidecar.auth.caller import Credential
from sidecar.auth.sessions import Sessions

sessions, began = Sessions(0.2), time.monotonic()
cookie = sessions.begin(Credential("bearer", "a"))
back.append(3600)
while sessions.credential(cookie):
    assert time.monotonic() - began < 10
"""


def test_sessions_do_not_last_longer_when_the_clock_is_set_back() -> None:
    subprocess.run([sys.executable, "-c", _CLOCK_SET_BACK], check=True, timeout=60)


def test_credentials_are_not_shown() -> None:
    for credential in (bearer("secret"), Credential("password", "secret", "secret")):
        assert "secret" not in repr(credential)
        assert "secret" not in f"{credential}"
    assert bearer("a").digest() != Credential("password", "a").digest()
    assert Credential("password", "b", "a").digest() != Credential("password", "a\0b").digest()
