"""The variables that jobs inherit from the broker, if not all of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from sidecar.domain.model import Environment

#: What every job inherits, as with flux-restful 1.1.
_STANDARD = (
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TERM", "TZ", "TMPDIR", "PYTHONPATH",
    "LD_LIBRARY_PATH", "MANPATH", "LUA_*", "FLUX_EXEC_PATH", "FLUX_MODULE_PATH", "FLUX_CONNECTOR_PATH",
    "FLUX_PMI_LIBRARY_PATH",
)  # fmt: skip


class InheritedVariables:
    """Select the variables that jobs inherit.

    Args:
        patterns: names of variables, or patterns with ``*``, ``?`` and ``[…]``, beside the standard ones; empty: all.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        chosen = (*_STANDARD, *patterns) if patterns else ("*",)
        self._chosen = re.compile("|".join(map(fnmatch.translate, chosen)))

    def of(self, environment: Environment) -> Environment:
        """Return an environment with these variables only."""
        kept = {name: value for name, value in environment.variables.items() if self._chosen.match(name)}
        return Environment(kept, environment.cwd)
