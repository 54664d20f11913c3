"""Jobs of many kinds, by name, as command lines of Flux.

``{name}`` in a command is replaced by the jobid of the job that was submitted before as ``name``; ``{dir}`` by a directory.
"""

from __future__ import annotations

import json
from typing import Any

_LINES = r'for i in 1 2 3; do printf "%s\n" "$FLUX_TASK_RANK.$i"; done; printf "end of $FLUX_TASK_RANK" >&2'

#: Jobs that end by themselves.
ENDING: dict[str, str] = {
    # resources
    "one task": "submit true",
    "tasks": "submit -n4 hostname",
    "more tasks than cores": "submit -n1000 hostname",
    "nodes": "submit -N2 hostname",
    "nodes and tasks": "submit -N2 -n5 hostname",
    "exclusive": "submit -N1 --exclusive hostname",
    "exclusive tasks": "submit -N2 -n4 -x hostname",
    "cores per task": "submit -n2 -c2 hostname",
    "gpus": "submit -n2 -g1 hostname",
    "gpus zero": "submit -n1 -g0 hostname",
    "cores": "submit --cores=4 hostname",
    "cores on nodes": "submit -N2 --cores=4 hostname",
    "tasks per node": "submit -N2 --tasks-per-node=3 hostname",
    "tasks per node of cores": "submit --cores=8 --tasks-per-node=2 hostname",
    "tasks per core": "submit --cores=4 --tasks-per-core=2 hostname",
    "tasks per core of nodes": "submit -N2 --tasks-per-core=2 hostname",
    "gpus per node": "submit -N2 --gpus-per-node=1 hostname",
    "per resource": "submit -N2 -o per-resource.type=node -o per-resource.count=2 hostname",
    "per resource exclusive": "submit -N2 -x -o per-resource.type=core hostname",
    "per resource of no type": "submit -n2 -o per-resource.count=2 hostname",
    "per resource of another type": "submit -n2 -o per-resource.type=socket hostname",
    "per resource of count zero": "submit -n2 -o per-resource.type=node -o per-resource.count=0 hostname",
    "requires a host": "submit --requires=host:node2 hostname",
    "requires no host": "submit --requires=host:nowhere hostname",
    "requires a rank": "submit -n2 --requires=rank:1,3 -N2 hostname",
    "task map": "submit -N2 -n4 --taskmap=cyclic hostname",
    # attributes
    "named": "submit --job-name=a-name true",
    "named empty": "submit --setattr=system.job.name= true",
    "a path": "submit /bin/true",
    "a path that is a directory": "submit /usr/bin/",
    "another name of the system": "submit --setattr=system.job.other=x true",
    "an attribute": "submit '--setattr=user.note={{\"a\":1}}' true",
    "a project and a bank": "submit --setattr=system.project=p --bank=b true",
    "time limit": "submit -t 5m true",
    "time limit zero": "submit -t 0 true",
    "environment": "submit --env=-* --env=A=b env",
    "directory": "submit --cwd=/tmp pwd",
    "no such directory": "submit --cwd=/no/such/directory pwd",
    "constraint": "submit --requires=-host:node0 true",
    "resource limits": "submit --rlimit=-*,core true",
    "staged file": "submit --add-file=a={dir}/input sh -c 'cat $FLUX_JOB_TMPDIR/a'",
    "copies": "submit --cc=1-3 sh -c 'echo $FLUX_JOB_CC'",
    "waitable": "submit --flags=waitable true",
    "debug": "submit --flags=debug true",
    "expedited": "submit --urgency=expedite true",
    "urgent": "submit --urgency=20 true",
    # ends
    "fails": "submit false",
    "exit code": "submit sh -c 'exit 7'",
    "exit codes": "submit -n4 sh -c 'exit $FLUX_TASK_RANK'",
    "killed": "submit sh -c 'kill -9 $$'",
    "segmentation": "submit sh -c 'kill -SEGV $$'",
    "killed shell": "submit sh -c 'kill -9 $PPID'",
    "no such command": "submit no-such-command",
    "not executable": "submit /etc/passwd",
    "times out": "submit -t 0.1s sleep 30",
    "times out and ignores it": "submit -t 0.1s -o exit-timeout=1s sh -c 'trap \"\" ALRM; sleep 1'",
    "exits on error": "submit -n2 -o exit-on-error sh -c 'test $FLUX_TASK_RANK = 0 || sleep 30; exit 3'",
    "one task leaves": "submit -n2 -o exit-timeout=0.1s sh -c 'test $FLUX_TASK_RANK = 0 || sleep 30'",
    # output
    "lines": f"submit sh -c '{_LINES}'",
    "lines of ranks": f"submit -N2 -n4 sh -c '{_LINES}'",
    "unbuffered": f"submit -u -n2 sh -c '{_LINES}'",
    "unbuffered parts": "submit -u sh -c 'printf a; printf b >&2; printf c; printf \"\\n\"'",
    "not text": "submit printf '\\377\\000a\\nb\\377'",
    "no newline": "submit printf line",
    "empty lines": "submit printf '\\n\\n a\\r\\n\\n'",
    "to a file": "submit --output={dir}/out-{{{{id}}}} echo to a file",
    "to a file of each task": "submit -n2 --output={dir}/out-{{{{id}}}}-{{{{task.id}}}} echo to a file",
    "both to a file": "submit --output={dir}/both --error={dir}/both echo to a file",
    "errors to a file": "submit --error={dir}/err sh -c 'echo out; echo err >&2'",
    "errors to a file with a warning": "submit --error={dir}/err2 --cwd=/no/such sh -c 'echo out; echo err >&2'",
    "to no such file": "submit --output=/no/such/file echo out",
    "labels": "submit -n2 -l echo text",
    "limited": "submit -o output.limit=1K sh -c 'head -c 3000 /dev/zero | tr \"\\0\" x; echo; echo last >&2'",
    "limited on both": "submit -n2 -o output.limit=10 sh -c 'seq 1 20; seq 1 20 >&2'",
    "input": "submit --input={dir}/input cat",
    "pty": "submit -o pty sh -c 'test -t 1 && echo a terminal'",
    "pty captured": "submit -o pty.capture sh -c 'test -t 1 && echo a terminal'",
    "pty of ranks": "submit -n2 -o pty.ranks=all sh -c 'test -t 1 && echo a terminal'",
    # the shell
    "verbose": "submit -o verbose=2 true",
    "no such option": "submit -o no-such-option true",
    "no such initrc": "submit -o userrc=/no/such/rc true",
    "affinity": "submit -n2 -o cpu-affinity=per-task -o gpu-affinity=off true",
    "invalid affinity": "submit -o cpu-affinity=nonsense true",
    "no plugin": "submit -o mpi=none -o pmi=off true",
    "no hwloc": "submit -o hwloc.xmlfile=1 true",
    "bad task map": "submit --taskmap=nonsense true",
    "bad limit": "submit -o output.limit=nonsense true",
    "signal": "submit -t 60s --signal=SIGUSR1@59s sh -c 'trap \"exit 3\" USR1; for i in $(seq 300); do sleep 0.1; done'",
    # dependencies
    "after ok": "submit --dependency=afterok:{one task} true",
    "after any": "submit --dependency=afterany:{fails} true",
    "after not ok": "submit --dependency=afternotok:{fails} true",
    "after ok of a failure": "submit --dependency=afterok:{exit code} true",
    "after not ok of a success": "submit --dependency=afternotok:{nodes} true",
    "after a start": "submit --dependency=after:{one task} true",
    "after two": "submit --dependency=afterany:{fails} --dependency=afterok:{one task} true",
    "begin time": "submit --begin-time=now true",
    "singleton": "submit --job-name=alone --dependency=singleton true",
    "no such scheme": "submit --dependency=nonsense:1 true",
    "no such job": "submit --dependency=afterok:f1 true",
    # instances
    "batch": "batch -n1 --conf=resource.noverify=true --output={dir}/batch.out --wrap true",
    "batch to the log": "batch -N2 -n2 -c2 --output=none --job-name=to-the-log --wrap echo a batch job",
}

_LASTING = "sleep 1000"
#: Jobs that stay active until they are ended.
LASTING: dict[str, str] = {
    "running": f"submit -N2 -n2 sh -c 'echo started; printf part; {_LASTING}'",
    "running with a limit": f"submit -t 1h {_LASTING}",
    "allocated": "alloc -n1 --bg",
    "held": f"submit --urgency=hold {_LASTING}",
    "held with a limit": f"submit --urgency=hold -t 1h -N1 {_LASTING}",
    "held of tasks per core": f"submit --urgency=hold -N2 --tasks-per-core=2 {_LASTING}",
    "held and exclusive": f"submit --urgency=hold -N2 -x {_LASTING}",
    "depending": f"submit --dependency=afterok:{{running}} {_LASTING}",
    "depending twice": f"submit --dependency=afterok:{{running}} --dependency=afterany:{{held}} {_LASTING}",
    "beginning later": f"submit --begin-time=+1h {_LASTING}",
    "singleton of two": f"submit --urgency=hold --job-name=two --dependency=singleton {_LASTING}",
    "singleton that waits": f"submit --job-name=two --dependency=singleton {_LASTING}",
    "with memos": f"submit --urgency=hold {_LASTING}",
    "raised": f"submit --urgency=hold {_LASTING}",
    "raised twice": f"submit {_LASTING}",
    "raised to the end": f"submit --urgency=hold {_LASTING}",
    "raised as a time-out": f"submit --urgency=hold {_LASTING}",
    "cancelled while pending": f"submit --urgency=hold {_LASTING}",
    "cancelled while running": f"submit {_LASTING}",
    "signalled": f"submit {_LASTING}",
    "signalled with 9": f"submit {_LASTING}",
    "purged": "submit echo purged",
    # Last: the simple scheduler starts no job after one that waits for resources.
    "waiting": f"submit -N4 -x -n4 {_LASTING}",
}

#: Commands on these jobs, in this order.
DONE = (
    "job memo {with memos} a.b=1 b=2 c.d=text",
    "job memo {with memos} a.c=2 b=null",
    "job memo {with memos} c.d=null d={{}} e=[1,2]",
    "job memo {with memos} a.b=3 f.g.h=1",
    "job memo {with memos} f.g.i=2 f.j=null",
    "job memo --volatile {with memos} volatile.a=1",
    "job memo {running} step=1",
    "job memo {running} step.of=2",
    "job memo {running} gone=1",
    "job memo {running} gone=null",
    "update {held with a limit} duration=2h",
    "update {running with a limit} duration=+1h",
    "job urgency {held} 5",
    "job urgency {held} hold",
    "job urgency {waiting} 31",
    "job raise --severity=3 --type=first {raised} a note",
    "job raise --severity=2 --type=second {raised}",
    "job raise --severity=5 --type=third {raised} a later note",
    "job raise --severity=1 --type=odd {raised twice} one",
    "job raise --severity=1 --type=odd {raised twice} two",
    "job raise --severity=0 --type=fatal {raised to the end} why",
    "job raise --severity=0 --type=timeout {raised as a time-out}",
    "cancel -m because {cancelled while pending}",
    "cancel {cancelled while running}",
    "job kill -s TERM {signalled}",
    "job kill -s KILL {signalled with 9}",
)
#: Those that are still active afterwards.
ALIVE = (
    "running", "running with a limit", "allocated", "held", "held with a limit", "held of tasks per core",
    "held and exclusive", "waiting", "depending", "depending twice", "beginning later", "singleton of two",
    "singleton that waits", "with memos", "raised", "raised twice",
)  # fmt: skip

#: Jobs that Flux refuses at submit.
REFUSED = {
    "requires no host", "no such scheme", "no such job", "no attributes", "a duration that is text",
    "a queue that is a number",
}  # fmt: skip
#: Jobs that it refuses if the other job has already ended, and otherwise ends with an exception.
MAY_BE_REFUSED = {"after ok of a failure", "after not ok of a success"}

#: Jobs for an instance with the queues batch, which is the default, and debug.
QUEUES = {
    "of the default queue": "submit -t 30s true",
    "of a queue": "submit -q debug true",
    "of no such queue": "submit -q nonsense true",
    "moved": f"submit -t 30s --urgency=hold {_LASTING}",
}

#: Requests for that instance, and the invalid parameter of each, if any.
CHECKED: tuple[tuple[dict[str, Any], str], ...] = (
    ({}, ""),
    ({"runtime": 90}, "runtime"),
    ({"runtime": 0}, "runtime"),
    ({"runtime": 60}, ""),
    ({"runtime": 90, "queue": "batch"}, "runtime"),
    ({"runtime": 90, "queue": "debug"}, ""),
    ({"runtime": 0, "queue": "debug"}, ""),
    ({"num_nodes": 2}, ""),
    ({"num_nodes": 3}, "num_nodes"),
    ({"num_nodes": 3, "queue": "debug"}, ""),
    ({"queue": "default"}, "queue"),
    ({"queue": "nonsense"}, "queue"),
)

_CORE = {"type": "core", "count": 2}


def _slot(count: Any, *children: Any, label: str = "task", **more: Any) -> dict[str, Any]:
    return {"type": "slot", "count": count, "label": label, "with": [*children], **more}


def _of(kind: str, count: Any, *children: Any, **more: Any) -> dict[str, Any]:
    return {"type": kind, "count": count, **({"with": [*children]} if children else {}), **more}


#: Resources and task counts of canonical jobspecs (RFC 14); the simple scheduler accepts most and can run few.
CANONICAL: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "slots of cores": ([_slot(3, _CORE)], {"per_slot": 1}),
    "slots on nodes": ([_of("node", 2, _slot(2, _CORE))], {"per_slot": 1}),
    "several tasks in a slot": ([_slot(2, _CORE)], {"per_slot": 5}),
    "a total": ([_of("node", 2, _slot(2, _CORE))], {"total": 5}),
    "a slot of nodes": ([_slot(2, _of("node", 1))], {"per_slot": 1}),
    "a slot of nodes with cores": ([_slot(2, _of("node", 3, _CORE))], {"per_slot": 1}),
    "a slot of exclusive nodes": ([_slot(2, _of("node", 1, _CORE, exclusive=True))], {"per_slot": 1}),
    "sockets": ([_slot(2, _of("node", 1, _of("socket", 2, _of("core", 4))))], {"per_slot": 1}),
    "sockets within slots": ([_of("node", 2, _slot(1, _of("socket", 1, _CORE)))], {"per_slot": 1}),
    "a rack": ([_of("rack", 2, _of("node", 3, _slot(1, _CORE)))], {"per_slot": 1}),
    "a rack of slots of nodes": (
        [_of("rack", 2, _slot(2, _of("ssd", 1), _of("node", 1, _slot(1, _CORE), exclusive=True), label="r"))],
        {"per_slot": 1},
    ),
    "something beside a node": ([_of("ssd", 7, exclusive=True), _of("node", 1, _slot(1, _CORE))], {"per_slot": 1}),
    "something beside a core": ([_slot(2, _of("memory", 4, unit="GB"), _CORE)], {"per_slot": 1}),
    "gpus beside cores": ([_of("node", 1, _slot(2, _CORE, _of("gpu", 1)))], {"per_slot": 1}),
    "gpus of count zero": ([_slot(1, _CORE, _of("gpu", 0))], {"per_slot": 1}),
    "two kinds of slots": (
        [_of("node", 1, _slot(3, _CORE, label="a"), _slot(2, _of("core", 1), label="task"))],
        {"per_slot": 1},
    ),
    "two trees": ([_of("node", 2, _slot(1, _CORE)), _of("node", 3, _slot(1, _CORE))], {"per_slot": 1}),
    "a range of slots": ([_slot("2-8:2:*", _CORE)], {"per_slot": 1}),
    "a range as an object": ([_slot({"min": 2, "max": 4, "operator": "+", "operand": 1}, _CORE)], {"per_slot": 1}),
    "at least two nodes": ([_of("node", {"min": 2}, _slot(1, _CORE))], {"per_slot": 1}),
    "an exclusive node that is false": ([_of("node", 2, _slot(1, _CORE), exclusive=False)], {"per_slot": 1}),
    "an exclusive slot": ([_of("node", 2, _slot(1, _CORE, exclusive=True))], {"per_slot": 1}),
    "a count of zero": ([_of("node", 0, _slot(1, _CORE))], {"per_slot": 1}),
    "a total of zero": ([_slot(3, _CORE)], {"total": 0}),
    "a total and a slot": ([_slot(3, _CORE)], {"total": 4, "per_slot": 2}),
    "no cores": ([_slot(3, _of("gpu", 1))], {"per_slot": 1}),
    "no slot": ([_of("node", 3, _CORE)], {"per_slot": 1}),
    "no resources": ([], {"per_slot": 1}),
}


def canonical(name: str, version: int = 1, system: dict[str, Any] | None = None) -> str:
    """Return a jobspec of these resources, as JSON."""
    resources, count = CANONICAL[name]
    return json.dumps(
        {
            "version": version,
            "resources": resources,
            "tasks": [{"command": ["true"], "slot": "task", "count": count}],
            "attributes": {"system": {"duration": 3600.0} if system is None else system},
        }
    )


#: Jobspecs with one fault each, which only an instance without validators accepts.
ODD = {
    "version 999": canonical("slots of cores", 999),
    "no duration": canonical("slots of cores", 999, {"cwd": "/tmp"}),
    "no attributes of the system": json.dumps(json.loads(canonical("slots of cores", 999)) | {"attributes": {}}),
    "no attributes": json.dumps(json.loads(canonical("slots of cores", 999)) | {"attributes": None}),
    "a duration that is text": canonical("slots of cores", 1, {"duration": "1h"}),
    "a command that is text": canonical("slots of cores").replace('["true"]', '"true"'),
    "no command": canonical("slots of cores").replace('["true"]', "[]"),
    "a queue that is a number": canonical("slots of cores", 1, {"duration": 0, "queue": 5}),
    "a name that is a number": canonical("slots of cores", 1, {"duration": 0, "job": {"name": 5}}),
    "two tasks": json.dumps(
        (spec := json.loads(canonical("slots of cores"))) | {"tasks": [*spec["tasks"], *spec["tasks"]]}
    ),
}
