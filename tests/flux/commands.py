"""Runs Flux's own commands, a child process each: to start Python anew for each of them takes most of the time.

It is started with FLUX_URI; each line of its input is a command as words, `["submit", "-n2", "hostname"]`. It answers
with a line each: what the command has printed, and what it has said on its standard error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback

from flux.cli.alloc import AllocCmd
from flux.cli.batch import BatchCmd
from flux.cli.submit import SubmitCmd

_SUBMITTING = {"submit": SubmitCmd, "batch": BatchCmd, "alloc": AllocCmd}


def carry_out(words: list[str]) -> None:
    """Be the command, as the script of its name would."""
    if words[0] not in _SUBMITTING:
        os.execvp("flux", ["flux", *words])  # noqa: S606 - it is to run without a shell
    sys.argv = [f"flux-{words[0]}", *words[1:]]
    _SUBMITTING[words[0]](f"flux {words[0]}").run_command()


def run(words: list[str]) -> tuple[str, str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            try:
                carry_out(words)
            except SystemExit:
                pass
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
        out.seek(0)
        err.seek(0)
        return out.read(), err.read()


for line in sys.stdin:
    print(json.dumps(run(json.loads(line))), flush=True)
