"""What completed indexes mean for a pod, and the file in which a pod records its end."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from sidecar import follower
from sidecar.app.server import Server as Application
from sidecar.cluster import end_file, outlook
from sidecar.cluster.end_file import Verdict
from sidecar.cluster.objects import Job
from sidecar.config.early import FollowerRole
from tests.support import odd_files
from tests.support.harness import eventually
from tests.support.settings import make_settings


def job(completed: str, size: int = 3) -> Job:
    return Job(name="mc", completions=size, completed_indexes=completed)


@pytest.mark.parametrize(
    ("completed", "quorum", "fails"),
    [
        ("", 0, False),
        ("0", 0, False),  # a failed pod of this index does not count
        ("1", 0, True),
        ("1-2", 3, True),
        ("2", 2, False),  # two are enough, and two can start
        ("1,2", 2, True),
        ("0-2", 0, True),
    ],
)
def test_a_lead(completed: str, quorum: int, fails: bool) -> None:
    found = outlook.verdict(job(completed), 0, quorum)
    assert (found is not None) is fails
    if found:
        assert found.code == 1
        assert "the Job fails" in found.reason


@pytest.mark.parametrize(("completed", "over"), [("", False), ("1", False), ("2", False), ("0", True), ("0,2", True)])
def test_a_follower(completed: str, over: bool) -> None:
    found = outlook.verdict(job(completed), 1)
    assert (found.code if found else None) == (0 if over else None)


def test_a_job_without_completions() -> None:
    assert outlook.verdict(Job(name="mc"), 0) is None


@pytest.mark.parametrize("reason", ["why", "two\nlines\t and  spaces", "ƒ é"])
def test_the_end_file(tmp_path: Path, reason: str) -> None:
    path = tmp_path / "end"
    assert end_file.read(path) is None
    end_file.write(path, Verdict(1, reason))
    assert end_file.read(path) == Verdict(1, " ".join(reason.split()))
    assert len(path.read_text().splitlines()) == 1  # a shell reads one line
    assert [each.name for each in tmp_path.iterdir()] == ["end"]


@pytest.mark.parametrize("text", ["", "x", "-1 negative", "1"])
def test_invalid_end_file_is_a_failure(tmp_path: Path, text: str) -> None:
    (tmp_path / "end").write_text(text)
    found = end_file.read(tmp_path / "end")
    assert found is not None
    assert found.code == 1


def test_concurrent_writes_of_the_end_file(tmp_path: Path) -> None:
    """The server and the follower's check may both write it; whichever is last, the file is complete."""
    path = tmp_path / "end"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=end_file.write, args=(path, Verdict(0, "x" * 5000))) for _ in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join(60)
    assert end_file.read(path) == Verdict(0, "x" * 5000)


_NO_SPACE = """
import resource, sys
from pathlib import Path
from sidecar.cluster.end_file import Verdict, write

resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
write(Path(sys.argv[1]), Verdict(int(sys.argv[2]), "why"))
"""


@pytest.mark.parametrize("code", [0, 1])
def test_end_file_on_a_full_disk(tmp_path: Path, code: int) -> None:
    """An empty file means a failure; an end without a failure waits for free space."""
    path = tmp_path / "end"
    done = subprocess.run([sys.executable, "-c", _NO_SPACE, str(path), str(code)], capture_output=True, text=True)
    if code:
        assert done.returncode == 0, done.stderr
        assert end_file.read(path) == Verdict(1, "")
        path.unlink()
    else:
        assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


async def test_end_file_is_retried_at_close(tmp_path: Path) -> None:
    """Other parts of the server may have freed space by then."""
    path = tmp_path / "later/end"
    pod = Application(make_settings(embedded=True, end_file=str(path)), tmp_path).components.pod
    assert await pod.abandon("why")
    await pod.close()
    path.parent.mkdir()
    await pod.close()
    assert end_file.read(path) == Verdict(1, "why")
    path.unlink()
    await pod.close()
    assert not path.exists()


def test_hanging_check_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a timeout, and the next one starts."""
    for name, value in odd_files.hanging_checks(tmp_path / "hanging").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(follower, "_FIRST_CHECK", 0.0)
    monkeypatch.setattr(follower, "_CHECK_TIMEOUT", 0.5)
    check = follower._JobCheck(FollowerRole(1, "", 0.0, 0.0, str(tmp_path / "end")))

    seen: set[int] = set()

    def restarted() -> bool:
        check()
        seen.add(check._pid)
        return len(seen - {0}) == 2

    eventually(restarted, what="the end of the first check, and a second one")
    check.cancel()
    assert not check._pid
