"""Arbitrary data from Flux: journal responses with any JSON in any member of jobspec, R, events, annotations and memos."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

#: Values that Python's encoder cannot write, by their placeholders.
_WRITTEN = {
    "@deep70@": "[" * 70 + "]" * 70,
    "@deep500@": '{"a":' * 500 + "1" + "}" * 500,
    "@deep1990@": "[" * 1990 + "]" * 1990,
    "@huge@": "9" * 400,
    "@longest@": "9" * 5000,
    "@infinite@": "1e999",
    "@nan@": "NaN",
}
_PLACEHOLDER = re.compile("|".join(f'"{name}"' for name in _WRITTEN))


def text(value: Any) -> bytes:
    """Write a value as JSON, with the placeholders replaced."""
    return _PLACEHOLDER.sub(lambda match: _WRITTEN[match[0].strip('"')], json.dumps(value)).encode()


TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "\0", "a\0b", "\ud800", "\u202e", "<script>", "{{ 7*7 }}", "%s%n%d", "a" * 5000, "é" * 40000, "\n\ndata: x"]),
)  # fmt: skip
NUMBERS = st.one_of(
    st.integers(-2, 40),
    st.sampled_from([2**31, 2**32, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63) - 1, 10**30, 300_000_000]),
    st.sampled_from([0.5, -0.0, 1e15, 1e300, -1e300, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS, st.sampled_from(sorted(_WRITTEN)))


def _nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(LEAVES, inner, st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3))


ANY = _nested(_nested(LEAVES))


def or_odd(usual: Any, *odd: Any) -> st.SearchStrategy[Any]:
    """Mostly the expected value of a member; otherwise an unexpected one, or any JSON."""
    return st.one_of(st.just(usual), st.just(usual), st.sampled_from(odd) if odd else ANY, ANY)


def members(**known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object of which any member may be missing or unexpected; or not an object at all."""
    usual = st.fixed_dictionaries({}, optional=known)
    return st.one_of(usual, usual, usual, ANY)


_CHILDREN = or_odd(
    [{"type": "core", "count": 1}], [{"type": "core", "count": [1, 2]}], [{"type": ["core"], "count": 1}]
)
_SLOT = members(
    type=or_odd("slot"),
    count=or_odd(1, 2**62, 300_000_000, True, "x", {"min": 1}),
    label=or_odd("task"),
    **{"with": _CHILDREN},
)
_NODE = members(
    type=or_odd("node", "slot", "rack"), count=or_odd(2, 2**62), exclusive=ANY, **{"with": st.lists(_SLOT, max_size=2)}
)
_OPTIONS = members(
    **{"per-resource": members(type=or_odd("core", "node", ["node"]), count=or_odd(1, [1, 2], "x", 2**40, True, 300_000_000))},
    input=ANY,
)  # fmt: skip
_SYSTEM = members(
    duration=or_odd(60, "x", 1e300, -1, True), cwd=or_odd("/tmp"), queue=or_odd("batch", 7), project=or_odd("p", 5), bank=or_odd("b"),
    job=members(name=or_odd("n", "n" * 100_000)), shell=members(options=_OPTIONS), dependencies=ANY, environment=ANY,
)  # fmt: skip
_OURS = members(submitter=or_odd("alice"), key=ANY, request=ANY)
JOBSPECS = members(
    version=or_odd(1),
    resources=st.one_of(st.lists(st.one_of(_SLOT, _NODE), max_size=2), ANY),
    tasks=st.one_of(st.lists(members(command=or_odd(["true"], "true", [1], ["x" * 70_000] * 2), slot=or_odd("task"), count=members(per_slot=or_odd(1), total=or_odd(4, "x", 2**62))), max_size=2), ANY),
    attributes=members(system=_SYSTEM, user=members(**{"flux-sidecar": _OURS})),
)  # fmt: skip
IDSETS = or_odd("0-3", "0-4294967295", "0-99999999999999999999", "4-1", "x", "0,2,4", 7, "[0-1]", "0-4294967294")
RESOURCES = members(
    version=or_odd(1),
    execution=members(
        R_lite=st.one_of(st.lists(members(rank=IDSETS, children=members(core=IDSETS, gpu=IDSETS)), max_size=3), ANY),
        nodelist=or_odd(["n[0-3]"], ["n[0-4294967295]"], [5], "n0"), starttime=or_odd(1.0), expiration=or_odd(9.0, "x", -1, 1e300),
    ),
)  # fmt: skip
ANNOTATIONS = members(sched=members(reason_pending=or_odd("no cores"), resource_summary=ANY), user=ANY)

_CONTEXTS: dict[str, st.SearchStrategy[Any]] = {
    "validate": ANY, "depend": ANY, "start": ANY, "release": ANY, "free": ANY, "flux-restart": ANY, "clean": ANY,
    "priority": members(priority=or_odd(16, "x", 2**64, -1)),
    "urgency": members(urgency=or_odd(31, None, "high", 99, True)),
    "alloc": members(annotations=ANNOTATIONS),
    "annotations": members(annotations=ANNOTATIONS),
    "finish": members(status=or_odd(0, 256, 15, -1, 2**40, "x", True)),
    "exception": members(type=or_odd("cancel", 5, "x" * 70_000), severity=or_odd(0, 2, "x", None, 2**40, True), note=or_odd("n", {}, "n" * 70_000)),
    "memo": st.one_of(st.dictionaries(TEXTS, ANY, max_size=3), ANY),
    "dependency-add": members(description=or_odd("d", [], "d" * 70_000)),
    "dependency-remove": members(description=or_odd("d")),
    "jobspec-update": st.one_of(members(**{"attributes.system.duration": or_odd(5), "resources": ANY, "tasks": ANY, "attributes": ANY, ".".join("a" * 2000): ANY, "attributes.system.job.name": ANY}), ANY),
    "resource-update": members(expiration=or_odd(7.0, "x", 1e300)),
}  # fmt: skip
_TIMES = or_odd(2.0, -1, 1e300, "x", "@infinite@", None)


def _event(name: str) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"timestamp": _TIMES, "name": st.just(name)}, optional={"context": _CONTEXTS.get(name, ANY)}
    )


EVENTS = st.one_of(
    st.sampled_from(sorted(_CONTEXTS)).flatmap(_event),
    TEXTS.filter(lambda name: name not in ("submit", "invalidate")).flatmap(_event),
    ANY.filter(lambda value: not isinstance(value, dict)),
)
_SUBMIT = st.fixed_dictionaries(
    {"timestamp": _TIMES, "name": st.just("submit")},
    optional={"context": members(userid=or_odd(0, "root", 2**40, -1), urgency=or_odd(16, "x", None, 77))},
)


class OddJob(NamedTuple):
    """A job of the journal: its first response and the later ones, as text without the ID."""

    first: dict[str, Any]
    later: list[dict[str, Any]]

    @property
    def events(self) -> list[Any]:
        """All its events, and what replaces one."""
        return [event for each in (self.first, *self.later) for event in each["events"]]

    def responses(self, id_: int) -> list[bytes]:
        return [text({"id": id_, **each}) for each in (self.first, *self.later)]


@st.composite
def odd_jobs(draw: st.DrawFn) -> OddJob:
    """Jobs with a submit event that are valid to Flux, and otherwise arbitrary; half of them end."""
    more = [draw(_event("validate")), *draw(st.lists(EVENTS, max_size=6))]
    if draw(st.booleans()):
        more.append(draw(_event("clean")))
    first: dict[str, Any] = {"events": [draw(_SUBMIT)]}
    optional = draw(st.fixed_dictionaries({}, optional={"jobspec": JOBSPECS, "R": RESOURCES}))
    if draw(st.booleans()):  # history: all in one response
        return OddJob({"events": first["events"] + more, **optional}, [])
    with_r = {"R": optional.pop("R")} if "R" in optional else {}
    return OddJob({**first, **optional}, [{"events": [event], **with_r} for event in more])


def examples(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    """Return a number of examples at once, to be used together."""
    found: list[Any] = []

    @settings(
        max_examples=number,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


#: Jobspecs many of which Flux accepts: it checks only some members, with its validators off.
ACCEPTABLE = st.builds(
    lambda spec, system, duration, usual: {
        **(spec if isinstance(spec, dict) else {}),
        **usual,
        "attributes": {**_object(_object(spec).get("attributes")), "system": {**_object(system), "duration": duration}},
    },
    JOBSPECS,
    _SYSTEM,
    st.sampled_from([0, 0.5, 60, 1e300]),
    st.sampled_from([{}, {"version": 1, "resources": [{"type": "slot", "count": 1, "label": "task", "with": [{"type": "core", "count": 1}]}], "tasks": [{"command": ["true"], "slot": "task", "count": {"per_slot": 1}}]}]),
)  # fmt: skip
MEMOS = st.dictionaries(TEXTS, ANY, min_size=1, max_size=3)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
