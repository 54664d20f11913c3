"""Which variables of the broker jobs inherit."""

from __future__ import annotations

from sidecar.domain.inherited import InheritedVariables
from sidecar.domain.model import Environment

VARIABLES = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "OMP_NUM_THREADS": "1",
    "SECRET": "x",
    "FLUX_EXEC_PATH": "/f",
    "MY_PATH": "y",
}


def test_all_by_default() -> None:
    assert InheritedVariables().of(Environment(VARIABLES, "/w")) == Environment(VARIABLES, "/w")


def test_names_and_patterns_beside_the_standard_ones() -> None:
    kept = InheritedVariables(["OMP_*", "MY_PATH"]).of(Environment(VARIABLES, "/w"))
    assert kept.variables.keys() == {"PATH", "LC_ALL", "OMP_NUM_THREADS", "FLUX_EXEC_PATH", "MY_PATH"}
    assert kept.cwd == "/w"


def test_a_pattern_matches_the_whole_name() -> None:
    assert "MY_PATH" not in InheritedVariables(["MY"]).of(Environment(VARIABLES, "/w")).variables
