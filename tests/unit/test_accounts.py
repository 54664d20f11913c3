"""The commands ``flux-sidecar token``."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar.auth import tokens as token_file
from tests.support.access import TokenFile
from tests.support.command_line import run_command


def error(done: subprocess.CompletedProcess[str]) -> str:
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.removeprefix("flux-sidecar: ").strip()


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
    ],
)
def test_unknown_names(tmp_path: Path, arguments: list[str], why: str) -> None:
    path = tmp_path / "file"
    path.write_text(f"alice:read:{'0' * 64}\n")
    assert why in error(run_command(*arguments, "--file", str(path)))


@pytest.mark.parametrize("arguments", [["token", "list"], ["token", "revoke", "a"]])
def test_files_that_cannot_be_edited(tmp_path: Path, arguments: list[str]) -> None:
    missing = tmp_path / "missing"
    what = " ".join(arguments[:2])
    assert error(run_command(*arguments, "--file", str(missing))) == f"{what}: {missing}: No such file or directory."
    assert error(run_command(*arguments, "--file", str(tmp_path))) == f"{what}: {tmp_path}: is not a regular file."
    assert not missing.exists()


@pytest.mark.parametrize("arguments", [["token", "list"], ["token", "revoke", "--help"]])
def test_the_server_is_not_loaded(arguments: list[str]) -> None:
    program = (
        "import sys; sys.argv[1:] = %r\n"
        "from sidecar.__main__ import main\n"
        "try: main()\n"
        "finally: print(sorted({'aiohttp', 'sqlite3', 'joserfc', 'structlog'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program % arguments], text=True, capture_output=True, timeout=60)
    assert done.stderr.splitlines()[-1] == "[]"
