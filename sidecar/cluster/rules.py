"""The rules that a Role in the pod's namespace must have; errors name the one that is missing."""

from __future__ import annotations

from typing import NamedTuple

FLUX_GROUP = "flux-framework.org"


class Rule(NamedTuple):
    """A rule of a Role."""

    group: str
    resource: str
    verb: str

    def __str__(self) -> str:
        return f'{{apiGroups: ["{self.group}"], resources: ["{self.resource}"], verbs: ["{self.verb}"]}}'


PODS = Rule("", "pods", "list")
JOB = Rule("batch", "jobs", "get")
JOB_CHANGE = Rule("batch", "jobs", "patch")
MINICLUSTER = Rule(FLUX_GROUP, "miniclusters", "get")
SCALE = Rule(FLUX_GROUP, "miniclusters/scale", "patch")
EVENT = Rule("", "events", "create")
SECRET = Rule("", "secrets", "get")
"""For --tokens-secret, and for that Secret alone."""

CLUSTER_RULES = (PODS, JOB, JOB_CHANGE, MINICLUSTER, SCALE, EVENT)
"""For ``/v1/cluster`` and Events; each but PODS and JOB only for what it is named after."""
