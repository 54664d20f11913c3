"""Jobspecs made from requests, and the resources that they request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain import feasibility, jobspec, resource_counts
from sidecar.domain.errors import InvalidRequest
from sidecar.domain.job_request import JobRequest
from sidecar.domain.model import Environment, Node
from sidecar.domain.parameters import shell_warning

HERE = Environment({"PATH": "/bin", "KEPT": "1"}, "/home/user")
COUNT = st.integers(1, 20)


def build(**parameters: object) -> dict[str, object]:
    return jobspec.build(JobRequest(command="run it", **parameters), HERE, {"verbose": 2})  # type: ignore[arg-type]


@given(tasks=COUNT, nodes=st.none() | COUNT, cores=COUNT, gpus=st.integers(0, 4), exclusive=st.booleans())
def test_a_jobspec_requests_the_resources_of_its_request(
    tasks: int, nodes: int | None, cores: int, gpus: int, exclusive: bool
) -> None:
    wanted = {"num_tasks": tasks, "num_nodes": nodes, "cores_per_task": cores, "gpus_per_task": gpus}
    if (nodes and nodes > tasks) or (exclusive and not nodes):
        with pytest.raises(InvalidRequest):
            build(**wanted, exclusive=exclusive)
        return
    want = resource_counts.read(build(**wanted, exclusive=exclusive))
    assert want is not None
    assert (want.nodes, want.cores, want.gpus, want.tasks) == (nodes or 0, cores, gpus, tasks)
    assert want.exclusive == (exclusive and bool(nodes))
    assert want.total_slots >= tasks


def test_environment_directory_and_options() -> None:
    spec = build(envars={"A": "b", "KEPT": "2"}, workdir="/tmp", option_flags="verbose=1,cpu-affinity=off,a.b=text")
    system = jobspec.get(spec, "attributes.system")
    assert system["environment"] == {"PATH": "/bin", "KEPT": "2", "A": "b"}
    assert system["cwd"] == "/tmp"
    options = system["shell"]["options"]
    assert options == {
        "verbose": 1, "cpu-affinity": "off", "a": {"b": "text"}, "input": {"stdin": {"type": "file", "path": "/dev/null"}},
    }  # fmt: skip
    assert jobspec.get(build(), "attributes.system.shell.options.verbose") == 2
    assert jobspec.get(build(), "attributes.system.cwd") == "/home/user"


def test_the_command_is_shown_without_the_wrapper_for_stdin() -> None:
    spec = build(stdin="text")
    assert spec["tasks"][0]["command"] != ["run", "it"]  # type: ignore[index]
    assert jobspec.command(spec) == ["run", "it"]
    assert jobspec.get(spec, "attributes.system.job.name") == "run"
    assert jobspec.get(spec, "attributes.system.files")["stdin"]["data"] == "text"


ODD_VALUES = ["\ud800", "\udc80", "b\0c"]


@pytest.mark.parametrize("value", ODD_VALUES)
@pytest.mark.parametrize("write", [json.dumps, repr, lambda value: value])
def test_variables_that_no_program_accepts(value: str, write: Callable[[object], Any]) -> None:
    """As an object, as JSON text, or as Python's repr."""
    for envars in ({"A": value}, {value: "A"}):
        with pytest.raises(InvalidRequest, match=r"NUL|Unicode"):
            build(envars=write(envars))


@pytest.mark.parametrize("value", ODD_VALUES)
def test_options_that_no_shell_accepts(value: str) -> None:
    for flags in (f"a={json.dumps(value)}", {"a": json.dumps([value])}, {"a": json.dumps({value: 1})}):
        with pytest.raises(InvalidRequest, match=r"NUL|Unicode"):
            build(option_flags=flags)


@pytest.mark.parametrize(
    "resources",
    [
        [],
        [{"type": "rack", "count": 1, "with": []}],
        [{"type": "slot", "count": {"min": 1}, "with": [{"type": "core", "count": 1}]}],
        [{"type": "slot", "count": 1, "with": [{"type": "memory", "count": 1}]}],
        "nonsense",
    ],
)
def test_resources_that_only_a_scheduler_can_count(resources: object) -> None:
    assert resource_counts.read({"resources": resources, "tasks": [{}]}) is None


@given(
    st.lists(st.tuples(COUNT, st.integers(0, 4)), max_size=6),
    COUNT,
    st.none() | st.integers(1, 6),
    COUNT,
    st.integers(0, 2),
)
def test_feasibility_agrees_with_filling_nodes_slot_by_slot(
    sizes: list[tuple[int, int]], tasks: int, nodes: int | None, cores: int, gpus: int
) -> None:
    if nodes and nodes > tasks:
        return
    inventory = [Node(str(i), i, "free", True, c, 0, g, 0) for i, (c, g) in enumerate(sizes)]
    want = resource_counts.read(build(num_tasks=tasks, num_nodes=nodes, cores_per_task=cores, gpus_per_task=gpus))
    assert want is not None
    slots = []
    for node_cores, node_gpus in sizes:
        number = 0
        while node_cores >= cores and node_gpus >= gpus:
            node_cores, node_gpus, number = node_cores - cores, node_gpus - gpus, number + 1
        slots.append(number)
    fits = sum(n >= want.slots for n in slots) >= nodes if nodes else sum(slots) >= tasks
    assert (feasibility.shortage(want, inventory) is None) == fits


@pytest.mark.parametrize(
    ("command", "operator"),
    [
        ("echo hi | wc", "|"), ("echo hi > file", ">"), ("make && ./run", "&&"), ("sleep 9 &", "&"),
        ("a ; b", ";"), ("a 2>&1", "2>&1"), ("a 2> log", "2>"), ("wc < file", "<"), ("a || b", "||"), ("a >> log", ">>"),
    ],
)  # fmt: skip
def test_warning_about_shell_operators(command: str, operator: str) -> None:
    warning = shell_warning(command)
    assert warning.startswith(f"command: {operator!r} is passed to {command.split()[0]} as an argument")
    assert "sh -c" in warning


@pytest.mark.parametrize(
    "command",
    ["sh -c 'echo hi | wc'", "echo 'a | b'", "echo hi|wc", "test 1 -gt 0", "grep a&b", ["echo", "|"], 'echo "a > b"'],
)
def test_no_warning_without_shell_operators(command: str | list[str]) -> None:
    assert shell_warning(command) == ""
