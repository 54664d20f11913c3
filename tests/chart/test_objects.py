"""The objects of the chart: important fields, and validity for Kubernetes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sidecar.cluster.rules import CLUSTER_RULES, FLUX_GROUP, JOB_CHANGE, SECRET
from sidecar.config import addresses
from sidecar.config.values import read_list
from tests.chart.rendered import (
    CHART,
    EVERYTHING,
    FOR_JOB,
    FOR_LAUNCHER,
    KUBERNETES,
    Objects,
    containers,
    kinds,
    merged,
    refused,
    render,
    variables,
)
from tests.support.harness import HELM, ROOT

pytestmark = pytest.mark.helm

VARIANTS: dict[str, dict[str, Any]] = {
    "sidecar": {},
    "launcher": {"mode": "launcher"},
    "job": {"workload": "job"},
    "sidecar-3": {"size": 3},
    "launcher-3": {"mode": "launcher", "size": 3},
    "job-3": {"workload": "job", "size": 3},
    "everything-sidecar": EVERYTHING,
    "everything-launcher": merged(EVERYTHING, FOR_LAUNCHER),
    "everything-job": merged(EVERYTHING, FOR_JOB),
}
variants = pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS)


def name(values: dict[str, Any]) -> str:
    return str(values.get("nameOverride", "flux"))


def volumes(objects: Objects, container: str) -> dict[str, str]:
    """Return the mounts of a container of a MiniCluster, with those that the operator creates, also of earlier
    containers.
    """
    spec = next(each for (kind, _), each in objects.items() if kind == "MiniCluster")["spec"]
    found: dict[str, str] = {}
    for each in spec["containers"]:
        found |= {name: "/dev/shm" if v.get("emptyDir") else v["path"] for name, v in each.get("volumes", {}).items()}
        if each["name"] == container:
            break
    return found


@variants
def test_lint(values: dict[str, Any]) -> None:
    argv = [str(HELM), "lint", "--strict", str(CHART), "--kube-version", KUBERNETES, "--values", "-"]
    done = subprocess.run(argv, input=json.dumps(values), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@variants
def test_kubernetes_knows_every_field(values: dict[str, Any]) -> None:
    others = {"MiniCluster", "HTTPRoute", "PodMonitor", "ServiceMonitor", "PrometheusRule"}
    for (kind, _), each in render(values).items():
        if kind not in others:
            kubernetes_validate.validate(each, "1.33", strict=True)


@pytest.mark.crd
@variants
def test_operator_knows_every_field(values: dict[str, Any]) -> None:
    """With the operator's own CRD, if there is one: of a cluster, or from a file."""
    crd = _crd()
    if crd is None:
        pytest.skip("the cluster has no operator")
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for (kind, _), each in render(values).items():
        if kind == "MiniCluster":
            jsonschema.validate(each, _closed(schema), cls=jsonschema.Draft7Validator)


def _crd() -> dict[str, Any] | None:
    name = "miniclusters.flux-framework.org"
    if file := os.environ.get("MINICLUSTER_CRD"):
        with open(file) as text:
            return dict(next(each for each in yaml.safe_load_all(text) if each and each["metadata"]["name"] == name))
    if "KUBECONFIG" not in os.environ:
        return None
    done = subprocess.run(["kubectl", "get", "crd", name, "-o", "json"], capture_output=True, text=True, timeout=60)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else None


def _closed(schema: Any) -> Any:
    """The API server prunes unknown fields; here they are errors."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, dict) and "apiVersion" not in properties:
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed = {"type": ["integer", "string"]}
    return closed


@variants
def test_service_selects_pod_0(values: dict[str, Any]) -> None:
    objects = render(values)
    service = objects["Service", f"{name(values)}-api"]["spec"]
    assert service["selector"] == {"job-name": name(values), "batch.kubernetes.io/job-completion-index": "0"}
    port = variables(containers(objects)["flux" if values.get("mode") == "launcher" else "flux-sidecar"])
    assert str(service["ports"][0]["targetPort"]) == port["FLUX_SIDECAR_PORT"]
    # For ports of a container the operator would create a Service that selects every pod.
    for (kind, _), each in objects.items():
        if kind == "MiniCluster":
            assert not [c for c in each["spec"]["containers"] if "ports" in c]


@variants
def test_nothing_is_privileged(values: dict[str, Any]) -> None:
    objects = render(values)
    uid = values.get("uid", 1000)
    for title, container in containers(objects).items():
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, title
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (uid, uid)
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert "privileged" not in context
        if title not in ("init", "flux"):
            assert context["readOnlyRootFilesystem"] is True, title
    text = json.dumps(list(objects.values()))
    for word in ("hostPath", "hostNetwork", "hostPID", "hostIPC"):
        assert f'"{word}"' not in text


@variants
def test_no_image_is_latest(values: dict[str, Any]) -> None:
    for container in containers(render(values)).values():
        tag = container["image"].rpartition(":")[2]
        assert tag not in ("", "latest", container["image"])


def test_digest_takes_precedence_over_the_tag() -> None:
    digest = "sha256:" + "a" * 64
    found = containers(render({"image": {"tag": "1.0", "digest": digest}}))
    assert {each["image"] for each in found.values()} == {f"flux-sidecar@{digest}"}


@variants
def test_token_is_kept_and_only_its_digest_is_mounted(values: dict[str, Any]) -> None:
    objects = render(values)
    secret = objects["Secret", f"{name(values)}-token"]
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    token = base64.b64decode(secret["data"]["token"])
    assert len(token) > 40
    lines = base64.b64decode(objects["Secret", f"{name(values)}-callers"]["data"]["tokens"]).decode().split("\n")
    assert lines[0] == f"flux:admin:{hashlib.sha256(token).hexdigest()}"
    assert lines[1:] == values.get("auth", {}).get("callers", [])
    workload = json.dumps([each for (kind, _), each in objects.items() if kind in ("MiniCluster", "Job")])
    assert f"{name(values)}-token" not in workload


@pytest.mark.parametrize("size", [1, 3])
def test_minicluster_with_a_sidecar(size: int) -> None:
    spec = render({"size": size})["MiniCluster", "flux"]["spec"]
    broker, server = spec["containers"]
    assert (spec["interactive"], spec["size"]) == (True, size)
    assert broker["runFlux"] is True
    # A command would be ignored: the broker has no initial program.
    assert "command" not in broker
    assert server["noWrapEntrypoint"] is True
    assert "command" not in server
    assert server["environment"]["FLUX_URI"] == "local:///mnt/flux/config/run/flux/local"
    assert not [name for name in broker["environment"] if name.startswith("FLUX_")]


def test_minicluster_with_a_launcher() -> None:
    spec = render({"mode": "launcher"})["MiniCluster", "flux"]["spec"]
    (broker,) = spec["containers"]
    assert spec["interactive"] is False
    assert broker["launcher"] is True  # otherwise the server would be submitted as a job
    # The operator pastes it between double quotes, and expands it unquoted.
    assert not set(broker["command"]) & set("\"'$`\\")
    assert "FLUX_URI" not in broker["environment"]


@pytest.mark.parametrize("mode", ["sidecar", "launcher"])
def test_workarounds_for_the_operator(mode: str) -> None:
    spec = render({"mode": mode, "uid": 1234})["MiniCluster", "flux"]["spec"]
    broker = spec["containers"][0]
    # The exit code of Flux is discarded, unless the script exits before its own end.
    assert broker["commands"]["post"].split("\n")[0] == "code=$?"
    assert broker["commands"]["post"].split("\n")[-2] == "exit $code"
    # A follower that is deleted must not count as succeeded.
    assert """[ "$JOB_COMPLETION_INDEX" = 0 ] || trap 'exit 143' TERM""" in broker["commands"]["pre"]
    # A single executable word, and no shell: the script is written before the broker starts.
    assert broker["lifeCycle"]["preStopExec"] == "/mnt/flux/pre-stop"
    lines = broker["commands"]["pre"].rstrip("\n").split("\n")
    assert "cat > /mnt/flux/pre-stop <<'END'" in lines
    # With `quiet` the operator appends a redirection: the last line must be a command, not END.
    assert lines[-1] == "true"
    # It copies only fsGroup.
    assert spec["pod"]["securityContext"] == {"fsGroup": 1234}
    # The init container creates directories that the broker must own.
    assert spec["flux"]["container"]["securityContext"]["runAsUser"] == 1234
    assert spec["flux"]["container"]["disable"] is True


def test_flux_view_of_the_operator() -> None:
    values = {"application": {"image": "example/app:1"}, "flux": {"view": "example/flux-view-ubuntu:tag-noble"}}
    spec = render(values)["MiniCluster", "flux"]["spec"]
    assert "disable" not in spec["flux"]["container"]
    assert spec["flux"]["container"]["image"] == values["flux"]["view"]
    assert [c["image"] for c in spec["containers"]] == ["example/app:1", "flux-sidecar:0.1.0"]


def test_volumes_of_the_server_are_not_those_of_jobs() -> None:
    values = {
        "store": {"enabled": True},
        "tls": {"existingSecret": "tls"},
        "application": {
            "sharedMemory": "1Gi",
            "volumes": [{"name": "mine", "path": "/in", "configMapName": "inputs"}],
        },
    }
    objects = render(values)
    # The operator names the volume of a ConfigMap after the ConfigMap.
    assert volumes(objects, "flux") == {"inputs": "/in", "shared-memory": "/dev/shm"}
    assert {"callers", "tls", "store"} < set(volumes(objects, "flux-sidecar"))


READ_ONLY = {"application": {"securityContext": {"readOnlyRootFilesystem": True}}}


def test_jobs_with_a_read_only_root_have_a_tmp() -> None:
    """The operator's script and Flux itself write to /tmp."""
    for values in ({}, {"mode": "launcher"}):
        objects = render(merged(values, READ_ONLY))
        # The name is that of the operator's own emptyDir; the ConfigMap is in the release, but not mounted.
        (volume,) = [
            each
            for each in objects["MiniCluster", "flux"]["spec"]["containers"][0]["volumes"].items()
            if each[1]["path"] == "/tmp"
        ]
        assert volume == ("spack-software", {"configMapName": "flux-tmp", "path": "/tmp"})
        assert ("ConfigMap", "flux-tmp") in objects
        assert "/tmp" not in volumes(render(values), "flux").values()
    pod = render(merged({"workload": "job"}, READ_ONLY))["Job", "flux"]["spec"]["template"]["spec"]
    mounts = {
        c["name"]: {m["mountPath"]: m["name"] for m in c["volumeMounts"]}
        for c in [*pod["initContainers"], *pod["containers"]]
    }
    assert mounts["flux"]["/tmp"] != mounts["flux-sidecar"]["/tmp"]  # jobs do not see files of the server
    assert mounts["flux"]["/var/tmp"] == mounts["flux"]["/tmp"]  # Flux's state directory
    assert {"name": mounts["flux"]["/tmp"], "emptyDir": {}} in pod["volumes"]


@pytest.mark.parametrize("workload", ["minicluster", "job"])
def test_own_volume_at_tmp_is_used(workload: str) -> None:
    own = {"application": {"volumes": [{"name": "scratch", "path": "/tmp", "claimName": "scratch"}]}}
    objects = render(merged(merged({"workload": workload}, READ_ONLY), own))
    flux = containers(objects)["flux"]
    if workload == "job":
        assert [m["name"] for m in flux["volumeMounts"] if m["mountPath"] == "/tmp"] == ["scratch"]
    else:
        assert {name for name, each in flux["volumes"].items() if each["path"] == "/tmp"} == {"scratch"}


def test_no_port_is_set_by_service_variables() -> None:
    """In a pod of the operator, a Service named flux-sidecar-metrics would set it: the chart cannot set the field that
    prevents it.
    """
    for values in VARIANTS.values():
        server = containers(render(values))["flux" if values.get("mode") == "launcher" else "flux-sidecar"]
        assert {"FLUX_SIDECAR_PORT", "FLUX_SIDECAR_METRICS_PORT"} <= set(variables(server))


def test_callers_can_be_removed_from_a_running_release() -> None:
    """Pod templates are equal with and without callers, so an upgrade revokes removed ones."""
    line = "ci:submit:" + "a" * 64
    for values in ({}, {"workload": "job"}, {"mode": "launcher"}):
        records = set()
        for auth in ({}, {"callers": [line]}, {"token": False, "callers": [line]}):
            objects = render(merged(values, {"auth": auth}))
            records.add(json.dumps(objects["ConfigMap", "flux-record"]["data"]))
            tokens = base64.b64decode(objects["Secret", "flux-callers"]["data"]["tokens"]).decode()
            assert ("flux:admin:" in tokens) == auth.get("token", True)
            assert (line in tokens) == ("callers" in auth)
        assert len(records) == 1
    objects = render({"auth": {"token": False, "kubernetes": True}})
    assert base64.b64decode(objects["Secret", "flux-callers"]["data"]["tokens"]) == b"# no callers"


def test_job_that_boots_flux_by_itself() -> None:
    objects = render({"workload": "job", "size": 3})
    assert "MiniCluster" not in kinds(objects)
    spec = objects["Job", "flux"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 3, 3)
    assert spec["podReplacementPolicy"] == "Failed"  # a rank must not exist twice
    pod = spec["template"]["spec"]
    assert pod["subdomain"] == "flux"
    # Jobs cannot read a token; the server's container has its own.
    assert pod["automountServiceAccountToken"] is False
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in [*pod["initContainers"], *pod["containers"]]}
    assert "account" in mounts["flux-sidecar"]
    assert "account" not in mounts["flux"]
    assert "callers" not in mounts["flux"]
    # A variable FLUX_SIDECAR_PORT of an unrelated Service would be an option.
    assert pod["enableServiceLinks"] is False
    sidecar = pod["initContainers"][-1]
    assert (sidecar["name"], sidecar["restartPolicy"]) == ("flux-sidecar", "Always")
    service = objects["Service", "flux"]["spec"]
    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    toml = objects["ConfigMap", "flux-flux"]["data"]["broker.toml"]
    assert 'hosts = [{ host = "flux-[0-2]" }]' in toml
    assert "tcp://%h.flux.lab.svc.cluster.local:%p" in toml
    # Resources that Flux discovers by itself would not return after they were lost.
    assert 'path = "/mnt/flux/R"' in toml
    assert objects["ConfigMap", "flux-flux"]["data"]["resources"] == "--hosts=flux-[0-2] --local"


def test_pod_template_of_a_job_contains_no_version() -> None:
    """It is immutable: `helm upgrade` to another version of the chart would fail."""
    template = render({"workload": "job"})["Job", "flux"]["spec"]["template"]["metadata"]
    assert not [label for label in template["labels"] if "version" in label or "chart" in label]


@pytest.mark.parametrize("workload", ["minicluster", "job"])
def test_role_allows_the_servers_requests(workload: str) -> None:
    rules = render({"workload": workload})["Role", "flux"]["rules"]
    allowed = {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    only = {rule for rule in CLUSTER_RULES if rule.group == FLUX_GROUP} | {JOB_CHANGE}
    wanted = {tuple(rule) for rule in CLUSTER_RULES if workload == "minicluster" or rule not in only}
    assert allowed == {*wanted, tuple(SECRET)}
    # Jobs of mode launcher can read the pod's token: it only allows access to their own cluster.
    for rule in rules:
        if set(rule["resources"]) & {"miniclusters", "miniclusters/scale", "jobs"}:
            assert rule["resourceNames"] == ["flux"]
        if rule["resources"] == ["secrets"]:  # the Secret with the digests, without a token
            assert rule["resourceNames"] == ["flux-callers"]


def test_manual_role_allows_the_same() -> None:
    """That of the examples, which is also in docs/security.md, in another form."""
    role = next(yaml.safe_load_all((ROOT / "examples/rbac/cluster.yaml").read_text()))
    written = re.search(r"```yaml\nrules:\n(.*?)```", (ROOT / "docs/security.md").read_text(), re.DOTALL)
    assert written is not None
    for rules in (role["rules"], yaml.safe_load(written[1])):
        allowed = [
            (group, resource, verb)
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
            for verb in rule["verbs"]
        ]
        assert sorted(allowed) == sorted([*map(tuple, CLUSTER_RULES), tuple(SECRET)])
        assert all("resourceNames" in rule for rule in rules if rule["resources"] == ["secrets"])


@pytest.mark.parametrize("kubernetes", [False, True])
def test_jobs_beside_a_server_cannot_read_its_token(kubernetes: bool) -> None:
    """A pod's own token would be in every container; the server's is in a Secret that only its container mounts."""
    objects = render({"auth": {"kubernetes": kubernetes}})
    pod = objects["MiniCluster", "flux"]["spec"]["pod"]
    assert pod["automountServiceAccountToken"] is False
    secret = objects["Secret", "flux-account"]
    assert secret["type"] == "kubernetes.io/service-account-token"
    assert secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] == pod["serviceAccountName"]
    assert "account" not in volumes(objects, "flux")
    assert volumes(objects, "flux-sidecar")["account"] == "/var/run/secrets/kubernetes.io/serviceaccount"
    # The volumes of a container are mounted into later containers.
    assert [c["name"] for c in objects["MiniCluster", "flux"]["spec"]["containers"]] == ["flux", "flux-sidecar"]


def test_launcher_container_has_the_pods_token_but_never_a_delegators() -> None:
    objects = render({"mode": "launcher"})
    assert objects["MiniCluster", "flux"]["spec"]["pod"]["automountServiceAccountToken"] is True
    assert ("Secret", "flux-account") not in objects
    assert "jobs can read the token" in refused({"mode": "launcher", "auth": {"kubernetes": True}})


def test_liveness_probe_of_a_job_leaves_time_for_a_stop() -> None:
    server = containers(render({"workload": "job"}))["flux-sidecar"]
    assert server["livenessProbe"]["exec"]["command"] == ["flux-sidecar-ready", "/livez"]
    # The kubelet then ends the container by a signal.
    assert variables(server)["FLUX_SIDECAR_STOP_ON_SIGNAL"] == "false"
    assert "FLUX_SIDECAR_STOP_ON_SIGNAL" not in variables(containers(render({}))["flux-sidecar"])
    # A MiniCluster has no probes.
    assert variables(containers(render({}))["flux-sidecar"])["FLUX_SIDECAR_END_WHEN_DEAD"] == "60"


@pytest.mark.parametrize(("values", "quorum"), [({"size": 3}, "3"), ({"size": 3, "minSize": 2, "maxSize": 5}, "2")])
def test_server_knows_the_number_of_brokers(values: dict[str, Any], quorum: str) -> None:
    assert variables(containers(render(values))["flux-sidecar"])["FLUX_SIDECAR_QUORUM"] == quorum


def test_no_token_without_permissions() -> None:
    objects = render({"rbac": {"create": False}})
    assert ("Secret", "flux-account") not in objects
    assert not kinds(objects) & {"Role", "RoleBinding", "ClusterRoleBinding"}
    assert objects["MiniCluster", "flux"]["spec"]["pod"]["automountServiceAccountToken"] is False


def test_external_host_names_are_allowed() -> None:
    server = containers(render(EVERYTHING))["flux-sidecar"]
    assert variables(server)["FLUX_SIDECAR_ALLOWED_HOSTS"] == "flux.example.org,flux.example.net"
    more = {"server": {"environment": {"FLUX_SIDECAR_ALLOWED_HOSTS": "lb.example.org"}}}
    server = containers(render(merged(EVERYTHING, more)))["flux-sidecar"]
    assert variables(server)["FLUX_SIDECAR_ALLOWED_HOSTS"] == "flux.example.org,flux.example.net,lb.example.org"


def test_host_names_below_a_domain_are_allowed() -> None:
    """The server accepts every host name that the chart accepts."""
    given = {"enabled": True, "hosts": ["*.jobs.example.org", "a-1.example.org", "gateway"]}
    server = containers(render({"ingress": given}))["flux-sidecar"]
    hosts = variables(server)["FLUX_SIDECAR_ALLOWED_HOSTS"]
    assert read_list("--allowed-hosts", hosts, addresses.allowed_host) == given["hosts"]


def test_network_policy() -> None:
    policy = render({})["NetworkPolicy", "flux"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    each_other, api = policy["ingress"]
    assert "ports" not in each_other
    assert api["ports"] == [{"port": 5000}]


@variants
def test_helm_test_runs_a_job(values: dict[str, Any]) -> None:
    pod = render(values)["Pod", f"{name(values)}-test"]
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert (
        "hook-succeeded" in pod["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
    )  # otherwise it would outlive the release
    assert pod["spec"]["activeDeadlineSeconds"] > values.get("test", {}).get("timeoutSeconds", 240)
    (container,) = pod["spec"]["containers"]
    assert "/v1/jobs/submit" in container["args"][0]
    compile(container["args"][0], "test.py", "exec")
