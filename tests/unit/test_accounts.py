"""The commands ``flux-sidecar token`` and ``flux-sidecar user``."""

from __future__ import annotations

import os
import pty
import stat
import subprocess
from pathlib import Path

import pytest

from sidecar.auth import passwords
from sidecar.auth import tokens as token_file
from sidecar.auth.users import UserFile
from tests.support.access import TokenFile, Users
from tests.support.command_line import run_and_find_modules, run_command
from tests.support.harness import PATIENCE, SIDECAR

PASSWORD = "correct horse"


def add_user(path: Path, name: str, *options: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    argv = [SIDECAR, "user", "add", name, "--file", str(path), *options]
    return subprocess.run(argv, input=password, text=True, capture_output=True, timeout=PATIENCE)


def error(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.removeprefix("flux-sidecar: ").strip()


def knows(path: Path, name: str, password: str) -> bool:
    user = UserFile(path).find(name)
    return user is not None and passwords.verify(password, user.hash)


def test_users_are_added_listed_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "users"
    for name, options in (("alice", ["--scopes", "admin"]), ("bob", ["--password-stdin"])):
        done = add_user(path, name, *options, password=f"{PASSWORD}\nanother line\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert knows(path, name, PASSWORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listed = run_command("user", "list", "--file", str(path))
    assert listed.stdout == "NAME   SCOPES\nalice  read,submit,admin\nbob    read,submit\n"
    assert PASSWORD not in path.read_text()
    assert run_command("user", "remove", "alice", "--file", str(path)).returncode == 0
    assert run_command("user", "list", "--file", str(path)).stdout == "NAME  SCOPES\nbob   read,submit\n"


def test_a_user_that_exists_is_replaced_on_demand_only(tmp_path: Path) -> None:
    made = Users(tmp_path, alice="admin", bob="read")
    before = made.path.read_text()
    assert "has a user alice; to change its password or scopes, add --replace" in error(add_user(made.path, "alice"))
    assert made.path.read_text() == before
    assert add_user(made.path, "alice", "--replace").returncode == 0
    assert knows(made.path, "alice", PASSWORD)
    assert add_user(made.path, "bob", "--replace", "--scopes", "submit").returncode == 0
    assert run_command("user", "list", "--file", str(made.path)).stdout.splitlines()[1:] == [
        "alice  read,submit,admin", "bob    read,submit",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "password", "why"),
    [
        ("eve", ["--scopes", "root"], PASSWORD, "--scopes: unknown scope 'root'; use read, submit, admin"),
        ("eve", ["--scopes", ""], PASSWORD, "--scopes: name at least one of read, submit, admin"),
        ("a:b", [], PASSWORD, "NAME must not contain a colon"),
        ("#eve", [], PASSWORD, "NAME must not begin with #"),
        ("eve", [], "", "the password has less than 8 characters"),
        ("eve", [], "\n" + PASSWORD, "the password has less than 8 characters"),
        ("eve", [], "x" * 10000, "the password has more than 1024 characters"),
    ],
)
def test_invalid_users_are_refused(tmp_path: Path, name: str, options: list[str], password: str, why: str) -> None:
    path = tmp_path / "users"
    assert why in error(add_user(path, name, *options, password=password))
    assert not path.exists()


def test_a_password_that_is_not_text(tmp_path: Path) -> None:
    argv = [SIDECAR, "user", "add", "eve", "--file", str(tmp_path / "users")]
    done = subprocess.run(argv, input=b"\xff" * 9, capture_output=True, timeout=PATIENCE)
    assert (done.returncode, b"the password is not UTF-8 text" in done.stderr) == (2, True)


@pytest.mark.parametrize(("again", "code"), [(PASSWORD, 0), ("another one", 2)])
def test_a_terminal_is_asked_twice(tmp_path: Path, again: str, code: int) -> None:
    """The password is not shown."""
    path = tmp_path / "users"
    ours, theirs = pty.openpty()
    try:
        command = subprocess.Popen(
            [SIDECAR, "user", "add", "alice", "--file", str(path)],
            stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        shown = b""
        for question, answer in ((b"Password: ", PASSWORD), (b"Again: ", again)):
            while not shown.endswith(question):
                shown += os.read(ours, 1024)
            os.write(ours, f"{answer}\n".encode())
        assert command.wait(PATIENCE) == code
        shown += os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)
    assert PASSWORD.encode() not in shown
    assert path.exists() == (code == 0)
    assert (b"the two passwords are not the same" in shown) == (code == 2)


def test_tokens_are_listed_and_revoked(tmp_path: Path) -> None:
    made = TokenFile(tmp_path, alice="admin", bob="read")
    made.path.write_text("# people\n" + made.path.read_text() + "broken\n")
    made.path.chmod(0o640)
    file = ("--file", str(made.path))
    assert run_command("token", "new", "system:node:c", "--expires", "2199-12-31", *file).returncode == 0
    digests = [token.short_digest for token in token_file.list_tokens(made.path)[0]]
    listed = run_command("token", "list", *file)
    assert [line.split() for line in listed.stdout.splitlines()] == [
        ["NAME", "SCOPES", "EXPIRES", "DIGEST"],
        ["alice", "read,submit,admin", "never", digests[0]],
        ["bob", "read", "never", digests[1]],
        ["system:node:c", "read,submit", "2200-01-01T00:00:00Z", digests[2]],
    ]
    assert listed.stderr == "Line 4: the form is name:scopes:sha256.\n"
    assert run_command("token", "revoke", "system:node:c", *file).stdout == f"revoked: system:node:c {digests[2]}\n"
    assert run_command("token", "revoke", digests[0].upper(), *file).returncode == 0
    lines = made.path.read_text().splitlines()
    assert [line.partition(":")[0] for line in lines] == ["# people", "bob", "broken"]
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o640


def test_an_ambiguous_revocation_changes_nothing(tmp_path: Path) -> None:
    made = TokenFile(tmp_path, alice="admin")
    made.add("alice", "read")
    before = made.path.read_text()
    one, other = (token.short_digest for token in token_file.list_tokens(made.path)[0])
    text = error(run_command("token", "revoke", "alice", "--file", str(made.path)))
    assert f"several tokens match: alice {one}, alice {other}. Give the digits of one of them" in text
    assert made.path.read_text() == before
    assert run_command("token", "revoke", other, "--file", str(made.path)).returncode == 0
    assert [token.short_digest for token in token_file.list_tokens(made.path)[0]] == [one]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["token", "revoke", "eve"], "has no such token: `flux-sidecar token list --file"),
        (["token", "revoke", ""], "has no such token"),
        (["user", "remove", "eve"], "has no user eve: `flux-sidecar user list --file"),
    ],
)
def test_unknown_names(tmp_path: Path, arguments: list[str], why: str) -> None:
    path = tmp_path / "file"
    path.write_text(f"alice:read:{'0' * 64}\n")
    assert why in error(run_command(*arguments, "--file", str(path)))


@pytest.mark.parametrize(
    "arguments", [["token", "list"], ["token", "revoke", "a"], ["user", "list"], ["user", "remove", "a"]]
)
def test_files_that_cannot_be_edited(tmp_path: Path, arguments: list[str]) -> None:
    missing = tmp_path / "missing"
    what = " ".join(arguments[:2])
    assert error(run_command(*arguments, "--file", str(missing))) == f"{what}: {missing}: No such file or directory."
    assert error(run_command(*arguments, "--file", str(tmp_path))) == f"{what}: {tmp_path}: is not a regular file."
    assert not missing.exists()


@pytest.mark.parametrize("arguments", [["user", "add"], ["user", "list"], ["token", "revoke", "--help"]])
def test_the_server_is_not_loaded(arguments: list[str]) -> None:
    assert run_and_find_modules(arguments, "aiohttp", "sqlite3", "joserfc", "structlog")[1] == []
