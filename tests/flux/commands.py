"""Run Flux's commands in a child process each; starting Python for each of them would take most of the time.

FLUX_URI is set. Each line of the input is a command line as JSON, `["submit", "-n2", "hostname"]`; each line of the
output has the standard output and standard error of one command.
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


def execute(words: list[str]) -> None:
    """Run the command in this process, as its script would."""
    if words[0] not in _SUBMITTING:
        os.execvp("flux", ["flux", *words])  # noqa: S606 - no shell is needed
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
                execute(words)
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
