"""Users with passwords: the file, the hashes, the checks, and access tokens."""

from __future__ import annotations

import asyncio
import base64
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from sidecar.auth import caller_file, passwords, users
from sidecar.auth.access_tokens import AccessTokens
from sidecar.auth.authenticator import Authenticator
from sidecar.auth.caller import Caller, Credential, implied
from sidecar.auth.passwords import Cost, PasswordHash
from sidecar.auth.user_tokens import UserTokens
from sidecar.auth.users import UserFile, UserPasswords
from sidecar.config.access import Scope
from sidecar.config.values import SettingsError
from sidecar.domain.errors import TooManyRequests
from sidecar.runtime.rate_limiter import RateLimiter
from tests.support.access import WEAK, Users

DECOY = "$scrypt$ln=10,r=8,p=1$w0xUi24NkKjQ63K/jc7Vwg$Zre18q9hg27c8ZpIQHxM6pyKxA7d8UTFII5pAJiQnJ8"  # fixed: it is in names of tests
SCOPES: list[Scope] = ["read", "submit", "admin"]


class Checks:
    """Counts the checks of passwords, and does them."""

    def __init__(self) -> None:
        self.costs: list[Cost] = []

    def __call__(self, password: str, expected: PasswordHash) -> bool:
        self.costs.append(expected.cost)
        return passwords.verify(password, expected)


def basic(name: str, password: str) -> Credential:
    return Credential("password", password, name)


# ------------------------------------------------------------------------------------------------------ the file


def _is_name(text: str) -> bool:
    try:
        users.check_user(text, ["read"])
    except ValueError:
        return False
    return True


@given(
    names=st.lists(st.text(min_size=1, max_size=20).filter(_is_name), unique=True, max_size=5),
    scopes=st.lists(st.sampled_from(SCOPES), min_size=1, unique=True),
    cost=st.builds(Cost, st.integers(10, 16), st.just(8), st.integers(1, 5)),
)
def test_a_file_is_read_as_it_was_written(names: list[str], scopes: list[Scope], cost: Cost) -> None:
    hashes = [passwords.make_decoy(cost) for _ in names]
    text = "".join(f"{name}:{','.join(scopes)}:{each}\n" for name, each in zip(names, hashes, strict=True))
    found, wrong = caller_file.parse_lines(text, users.FORM)
    assert wrong == []
    assert list(found.values()) == [
        users.User(each, Caller(name=name, scopes=implied(scopes), method="user"))
        for name, each in zip(names, hashes, strict=True)
    ]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("alice", "the form is name:scopes:hash"),
        (f"alice:{DECOY}", "the form is name:scopes:hash"),
        (f"alice:write:{DECOY}", "unknown scope; use read, submit, admin"),
        (f"a:b:read:{DECOY}", "must not contain a colon"),
        (f"fxs_abc:read:{DECOY}", "the first field is a token"),
        ("alice:read:secret", "must be a hash of scrypt: `flux-sidecar user add`"),
        ("alice:read:$argon2id$v=19$m=65536,t=2,p=1$c2VjcmV0$c2VjcmV0", "must be a hash of scrypt"),
        (f"alice:read:{DECOY.replace('ln=10', 'ln=9')}", "too weak"),
        (f"alice:read:{DECOY.replace('ln=10', 'ln=0')}", "too weak"),
        (f"alice:read:{DECOY.replace('p=1', 'p=0')}", "too weak"),
        (f"alice:read:{DECOY.replace('ln=10', 'ln=17')}", "too costly"),
        (f"alice:read:{DECOY.replace('ln=10', 'ln=99')}", "too costly"),
        (f"alice:read:{DECOY.replace('ln=10,r=8,p=1', 'ln=16,r=8,p=17')}", "too costly"),
        ("alice:read:$scrypt$ln=10,r=8,p=1$c2VjcmV0$c2VjcmV0", "at least 8 bytes"),
        ("alice:read:$scrypt$ln=10,r=8,p=1$c$c", "base64"),
    ],
)
def test_invalid_line(tmp_path: Path, line: str, why: str) -> None:
    path = tmp_path / "users"
    path.write_text(f"\n{line}\n")
    with pytest.raises(SettingsError, match=re.escape(why)) as caught:
        UserFile(path)
    assert f"--users {path}: Line 2: " in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_name_has_one_line(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"alice:read:{DECOY}\n")
    file = UserFile(path)
    path.write_text(f"alice:read:{DECOY}\nbob:read:{DECOY}\nalice:admin:{DECOY}\n")
    with pytest.raises(SettingsError, match="Line 3: an earlier line has the same name"):
        UserFile(path)
    with structlog.testing.capture_logs() as logs:
        file.read_again()()
    assert [entry["event"] for entry in logs] == ["a line of the user file is left out", "users read"]
    found = file.find("alice")
    assert found is not None
    assert found.caller.scopes == {"read"}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Make one with: flux-sidecar user add NAME --file FILE"):
        UserFile(tmp_path / "none")


# ---------------------------------------------------------------------------------------------------- the hashes


def test_a_hash_of_another_program() -> None:
    """A test vector of RFC 7914, section 12."""
    key = bytes.fromhex(
        "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"
        "d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887"
    )
    salt, text = (base64.b64encode(each).decode().rstrip("=") for each in (b"SodiumChloride", key))
    found = passwords.read_hash(f"$scrypt$ln=14,r=8,p=1${salt}${text}")
    assert passwords.verify("pleaseletmein", found)
    assert not passwords.verify("pleaseletmeout", found)


def test_new_hashes() -> None:
    one, other = passwords.make_hash("correct horse"), passwords.make_hash("correct horse")
    assert one.salt != other.salt
    assert str(one).startswith("$scrypt$ln=14,r=8,p=5$")
    assert passwords.read_hash(str(one)) == one
    assert passwords.verify("correct horse", one)
    assert not passwords.verify("correct horsf", one)
    assert one.cost.memory == 16 << 20


def test_accents_may_be_composed_in_any_way() -> None:
    assert passwords.verify("cafe\u0301 au lait", passwords.make_hash("caf\u00e9 au lait", WEAK))


@pytest.mark.parametrize(("password", "why"), [("", "less than 8"), ("1234567", "less than 8"), ("x" * 1025, "more")])
def test_passwords_that_are_refused(password: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        passwords.make_hash(password, WEAK)


# ---------------------------------------------------------------------------------------------------- the checks


def make_method(directory: Path, checks: Checks, **callers: str) -> tuple[Users, UserFile, UserPasswords]:
    made = Users(directory, **callers)
    file = UserFile(made.path)
    return made, file, UserPasswords(file, checks)


async def test_a_password_is_checked(tmp_path: Path) -> None:
    made, _, method = make_method(tmp_path, Checks(), alice="submit", bob="admin")
    assert await method.identify(basic(*made.basic("alice"))) == Caller(
        name="alice", scopes=frozenset({"read", "submit"}), method="user"
    )
    for wrong in (basic("alice", made.passwords["bob"]), basic("eve", made.passwords["bob"]), basic("alice", "\udcff")):
        assert await method.identify(wrong) is None


async def test_an_unknown_name_costs_what_a_known_one_does(tmp_path: Path) -> None:
    """Otherwise the time of a response would tell which names there are."""
    checks = Checks()
    _, _, method = make_method(tmp_path, checks, alice="submit", bob="read")
    for name in ("alice", "bob", "eve", "ƒ", "\udcff"):
        assert await method.identify(basic(name, "a wrong password")) is None
    assert checks.costs == [WEAK] * 5


async def test_an_empty_file_costs_what_a_new_hash_does(tmp_path: Path) -> None:
    checks = Checks()
    _, _, method = make_method(tmp_path, checks)
    assert await method.identify(basic("alice", "a wrong password")) is None
    assert checks.costs == [passwords.COST]


@pytest.mark.parametrize("credential", [basic("", "a password"), basic("alice", ""), basic("alice", "x" * 1025)])
async def test_what_no_user_has_is_not_checked(tmp_path: Path, credential: Credential) -> None:
    checks = Checks()
    _, _, method = make_method(tmp_path, checks, alice="submit")
    assert await method.identify(credential) is None
    assert checks.costs == []


class Gate:
    """Checks that wait in their threads until they are released."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.released = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, password: str, expected: PasswordHash) -> bool:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.released.wait(60)
        with self._lock:
            self.now -= 1
        return passwords.verify(password, expected)


async def until_busy(gate: Gate) -> None:
    async with asyncio.timeout(60):
        while gate.now < 2:
            await asyncio.sleep(0)


async def test_few_checks_run_at_the_same_time(tmp_path: Path) -> None:
    """Each takes 16 MiB or more; meanwhile the event loop runs."""
    made = Users(tmp_path, **{f"user{n}": "read" for n in range(6)})
    gate = Gate()
    method = UserPasswords(UserFile(made.path), gate)
    authenticator = Authenticator([method], RateLimiter(1, 100))
    logins = [
        asyncio.create_task(authenticator.authenticate(basic(*made.basic(name)), f"192.0.2.{n}"))
        for n, name in enumerate(made.passwords)
    ]
    await until_busy(gate)
    gate.released.set()
    found = await asyncio.gather(*logins)
    assert [each and each.name for each in found] == list(made.passwords)
    assert gate.most == 2
    method.close()


async def test_a_change_during_a_check(tmp_path: Path) -> None:
    """The user has the scopes of now, and is refused if the password has changed meanwhile."""
    made = Users(tmp_path, alice="admin", bob="admin")
    gate, file = Gate(), UserFile(made.path)
    method = UserPasswords(file, gate)
    both = [asyncio.create_task(method.identify(basic(*made.basic(name)))) for name in ("alice", "bob")]
    await until_busy(gate)
    made.put("bob", "admin", "another password")
    made.path.write_text(made.path.read_text().replace("alice:admin", "alice:read"))
    file.read_again()()
    gate.released.set()
    alice, bob = await asyncio.gather(*both)
    assert alice is not None
    assert alice.scopes == {"read"}
    assert bob is None


async def test_attempts_are_limited_before_they_are_checked(tmp_path: Path) -> None:
    checks = Checks()
    made, _, method = make_method(tmp_path, checks, alice="submit")
    authenticator = Authenticator([method], RateLimiter(0.001, 3))
    for n in range(3):
        assert await authenticator.authenticate(basic("alice", f"guess {n}"), "192.0.2.1") is None
    for password in ("guess 4", made.passwords["alice"]):
        with pytest.raises(TooManyRequests):
            await authenticator.authenticate(basic("alice", password), "192.0.2.1")
    assert len(checks.costs) == 3


async def test_a_right_password_is_checked_once_until_the_file_changes(tmp_path: Path) -> None:
    checks = Checks()
    made, file, method = make_method(tmp_path, checks, alice="submit", bob="read")
    authenticator = Authenticator([method], RateLimiter(1, 100))

    async def scopes(name: str, password: str = "") -> frozenset[str] | None:
        credential = basic(name, password or made.passwords[name])
        found = await authenticator.authenticate(credential, "192.0.2.1")
        return found.scopes if found else None

    for _ in range(3):
        assert await scopes("alice") == frozenset({"read", "submit"})
    assert len(checks.costs) == 1
    for _ in range(2):  # a wrong one, each time
        assert await scopes("alice", "a wrong password") is None
    assert len(checks.costs) == 3
    before = made.passwords["alice"]
    made.put("alice", "admin", "a new password")
    file.read_again()()
    authenticator.clear_cache()
    assert await scopes("alice", before) is None
    assert await scopes("alice") == frozenset({"read", "submit", "admin"})


# ------------------------------------------------------------------------------------------------- access tokens


def make_tokens(directory: Path, shared: str = "a secret", **callers: str) -> tuple[Users, UserFile, UserTokens]:
    made = Users(directory, **callers)
    file = UserFile(made.path)
    return made, file, UserTokens(file, shared, AccessTokens(60.0, lambda: 1000.0))


async def identify(method: UserTokens, token: str | None) -> Caller | None:
    assert token
    return await method.identify(Credential("bearer", token))


async def test_access_tokens(tmp_path: Path) -> None:
    made, file, method = make_tokens(tmp_path, alice="submit", bob="read")
    token = method.access_token("alice")
    assert await identify(method, token) == Caller(
        name="alice", scopes=frozenset({"read", "submit"}), method="user", expires=1060.0
    )
    assert method.access_token("eve") is None
    late = UserTokens(file, "a secret", AccessTokens(60.0, lambda: 1060.0))
    assert await identify(late, token) is None
    for wrong in ("", "x", "x.y.z", f"{token}x", "fxs_abc", "ƒ.ƒ.ƒ", "a" * 5000, made.passwords["alice"]):
        assert await method.identify(Credential("bearer", wrong)) is None


def _change(made: Users, how: str) -> None:
    if how == "removed":
        users.remove(made.path, "alice")
    elif how == "password":
        made.put("alice", "submit", "a new password")
    else:
        made.put("alice", "submit", made.passwords["alice"])


@pytest.mark.parametrize("how", ["removed", "password", "hashed again"])
async def test_an_access_token_ends_with_the_hash_of_its_user(tmp_path: Path, how: str) -> None:
    made, file, method = make_tokens(tmp_path, alice="submit", bob="read")
    alice, bob = method.access_token("alice"), method.access_token("bob")
    _change(made, how)
    file.read_again()()
    assert await identify(method, alice) is None
    assert await identify(method, bob) is not None


async def test_an_access_token_has_the_scopes_of_now(tmp_path: Path) -> None:
    made, file, method = make_tokens(tmp_path, alice="submit")
    token = method.access_token("alice")
    made.path.write_text(made.path.read_text().replace("submit", "read"))
    file.read_again()()
    found = await identify(method, token)
    assert found is not None
    assert found.scopes == {"read"}


@pytest.mark.parametrize(("one", "other"), [("shared", "another"), ("", ""), ("shared", "")])
async def test_the_file_alone_is_not_enough_to_forge_a_token(tmp_path: Path, one: str, other: str) -> None:
    """Also without a shared secret: the server makes one, so its tokens end with it."""
    _, file, method = make_tokens(tmp_path, one, alice="submit")
    forger = UserTokens(file, other, AccessTokens(60.0, lambda: 1000.0))
    assert await identify(method, forger.access_token("alice")) is None


async def test_tokens_survive_a_restart_with_a_shared_secret(tmp_path: Path) -> None:
    _, file, method = make_tokens(tmp_path, alice="submit")
    again = UserTokens(UserFile(file.path), "a secret", AccessTokens(60.0, lambda: 1001.0))
    assert await identify(again, method.access_token("alice")) is not None


def names_of(callers: Sequence[Caller]) -> list[str]:
    return [caller.name for caller in callers]


def test_edits_keep_the_rest_of_the_file(tmp_path: Path) -> None:
    path, link = tmp_path / "users", tmp_path / "link"
    before = f"# people\n\nalice:read:{DECOY}\r\nbob:read:{DECOY}\n# caf\xe9\nnot a user".encode("latin-1")
    path.write_bytes(before)
    path.chmod(0o640)
    link.symlink_to(path)
    users.put(link, "carol", None, passwords.make_decoy(WEAK), replace=False)
    assert path.read_bytes().startswith(before + b"\ncarol:submit:$scrypt$")
    users.remove(link, "carol")
    users.remove(link, "bob")
    found, wrong = users.list_users(path)
    assert (names_of(found), wrong) == (["alice"], ["Line 5: the form is name:scopes:hash."])
    assert path.read_bytes() == before.replace(f"bob:read:{DECOY}\n".encode(), b"") + b"\n"
    assert path.stat().st_mode & 0o7777 == 0o640
    assert link.is_symlink()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "users"]


def test_concurrent_edits_lose_no_line(tmp_path: Path) -> None:
    made = Users(tmp_path, first="read")
    names = [f"user{n}" for n in range(24)]

    def edit(name: str) -> None:
        users.put(made.path, name, ["read"], passwords.make_decoy(WEAK), replace=False)
        if int(name[4:]) % 2:
            users.remove(made.path, name)

    threads = [threading.Thread(target=edit, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names_of(users.list_users(made.path)[0])) == sorted(["first", *names[::2]])
