"""Each value is described, validated, and has an effect."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from docs import chart
from tests.chart.rendered import CHART, DEFAULTS, EVERYTHING, FOR_JOB, FOR_LAUNCHER, SCHEMA, merged, refused, template

helm = pytest.mark.helm


def described(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every value of the schema that is not a group of others."""
    for name, each in schema["properties"].items():
        if "properties" in each:
            yield from described(each, (*path, name))
        else:
            yield (*path, name), each


LEAVES = {path: each for path, each in described(SCHEMA) if path != ("global",)}


def at(values: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def without(values: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    result = copy.deepcopy(values)
    del at(result, path[:-1])[path[-1]]
    return result


def paths(values: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in values.items():
        if isinstance(value, dict) and (*path, name) not in LEAVES:
            yield from paths(value, (*path, name))
        else:
            yield (*path, name)


def test_schema_and_values_have_the_same_keys() -> None:
    assert set(paths(DEFAULTS)) == set(LEAVES)


def test_every_value_is_validated() -> None:
    """By its name, so that a value that is null is named."""
    text = (CHART / "templates/_checks.tpl").read_text()
    found = re.search(r'define "flux-sidecar.names" -}}\n(.*?){{- end', text, re.DOTALL)
    assert found is not None
    groups = {name: list(value) for name, value in DEFAULTS.items() if isinstance(value, dict)}
    assert yaml.safe_load(found[1]) == {"": list(DEFAULTS), **groups}


def test_every_value_is_described() -> None:
    assert not [path for path, each in LEAVES.items() if not each["description"].endswith(".")]


def test_readme_agrees_with_the_schema() -> None:
    assert (CHART / "README.md").read_text() == chart.page(), "run `make docs`"
    assert (CHART / "values.yaml").read_text() == chart.values(), "run `make docs`"


#: Values that cannot be combined with the others, and what they need instead.
APART: dict[tuple[str, ...], dict[str, Any]] = {
    ("workload",): FOR_JOB,
    ("size",): {"size": 4},
    ("mode",): FOR_LAUNCHER,
    ("image", "digest"): {"image": {"digest": "sha256:" + "a" * 64}},
    ("auth", "token"): {"auth": {"token": False}},
    ("auth", "existingSecret"): {"auth": {"token": False, "callers": [], "existingSecret": "callers"}},
    ("store", "existingClaim"): {"store": {"existingClaim": "history", "storageClass": ""}},
    ("serviceAccount", "create"): {"serviceAccount": {"create": False}},
    ("rbac", "create"): {"rbac": {"create": False}},
    ("networkPolicy", "enabled"): {"networkPolicy": {"enabled": False, "from": []}, "metrics": {"from": []}},
    ("metrics", "open"): {"metrics": {"open": True, "existingSecret": ""}},
    ("flux", "cores"): merged(FOR_JOB, {"flux": {"brokerConfig": ""}}),
    ("clusterDomain",): merged(FOR_JOB, {"flux": {"brokerConfig": ""}}),
}
_RANDOM = ("token:", "tokens:", "seed:", "scrape:")


def lines(values: dict[str, Any]) -> list[str]:
    """Return the rendered lines, without those that change each time; or that it is refused, which is an effect too."""
    done = template(values)
    if done.returncode != 0:
        return ["refused"]
    random = _RANDOM if values.get("auth", {}).get("token", True) else ("seed:",)
    return [line for line in done.stdout.splitlines() if not line.strip().startswith(random)]


def _volume(name: str, path: str) -> dict[str, str]:
    return {"name": name, "path": path, "claimName": name}


_VAR_TMP = _volume("a", "/var/tmp")


@helm
@pytest.mark.parametrize("path", LEAVES, ids=".".join)
def test_every_value_has_an_effect(path: tuple[str, ...]) -> None:
    bases = [EVERYTHING, merged(EVERYTHING, FOR_JOB)]
    if path == ("auth", "callers"):  # only in a digest, which changes each time
        bases = [merged(EVERYTHING, {"auth": {"token": False}})]
    if path in APART:
        special = merged(EVERYTHING, APART[path])
        assert lines(special) != ["refused"], template(special).stderr
        pairs = [(special, EVERYTHING if path[-1] not in ("cores", "clusterDomain") else without(special, path))]
    else:
        pairs = [(base, without(base, path)) for base in bases]
    assert any(lines(one) != lines(other) for one, other in pairs)


def _server(**variables: str) -> dict[str, Any]:
    return {"server": {"environment": variables}}


def _only(**variables: str) -> dict[str, Any]:
    return {"auth": {"token": False}, **_server(**variables)}


_SECRET = {"name": "login", "key": "password"}
_DIGEST = "a" * 64


def _context(**fields: Any) -> dict[str, Any]:
    return {"application": {"securityContext": fields}}


def _peer(peer: dict[str, Any]) -> dict[str, Any]:
    return {"networkPolicy": {"from": [peer]}}


def _route(**parent: Any) -> dict[str, Any]:
    return {"httpRoute": {"enabled": True, "hostnames": ["flux.example.org"], "parentRefs": [parent]}}


@helm
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"application": {"resources": {"limit": {"memory": "1Gi"}}}}, "'limit' not allowed"),
        ({"server": {"resources": {"request": {"cpu": "1"}}}}, "'request' not allowed"),
        ({"application": {"resources": {"claims": [{"name": "gpu"}]}}}, "'claims' not allowed"),
        (_context(readOnlyRootFileSystem=True), "'readOnlyRootFileSystem' not allowed"),
        (_context(fsGroup=1000), "'fsGroup' not allowed"),
        (_context(readOnlyRootFilesystem="true"), "want boolean"),
        (_context(capabilities="ALL"), "want object"),
        (_context(capabilities={"ad": ["SYS_PTRACE"]}), "'ad' not allowed"),
        (_context(seccompProfile={"type": "runtimedefault"}), "RuntimeDefault"),
        (_context(seccompProfile={"type": "Localhost"}), "localhostProfile"),
        (_context(runAsUser=3000000000), "runAsUser"),
        (_peer({"podselector": {}}), "'podselector' not allowed"),
        (_peer({}), "minProperties"),
        (_peer({"namespaceSelector": {"matchlabels": {"team": "a"}}}), "'matchlabels' not allowed"),
        (_peer({"namespaceSelector": {"matchLabels": {"team": "a b"}}}), "a b"),
        (_peer({"podSelector": {"matchExpressions": [{"key": "team", "operator": "In"}]}}), "values"),
        (_peer({"ipBlock": {"cidr": "10.0.0.0"}}), "cidr"),
        (_peer({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}), "maxProperties"),
        ({"metrics": {"from": [{"namespaceselector": {}}]}}, "'namespaceselector' not allowed"),
        (_route(nme="gateway"), "'nme' not allowed"),
        (_route(namespace="infra"), "missing property 'name'"),
    ],
)
def test_unknown_fields_of_objects_are_refused(values: dict[str, Any], text: str) -> None:
    """The API server drops unknown fields: a misspelt selector would allow access for all pods."""
    assert text in refused(values)


@helm
@pytest.mark.parametrize(
    "values",
    [
        _context(
            capabilities={"add": ["SYS_PTRACE"]}, seccompProfile={"type": "Localhost", "localhostProfile": "a.json"}
        ),
        _context(allowPrivilegeEscalation=True, privileged=True, procMount="Default", seLinuxOptions={"level": "s0"}),
        _peer({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}),
        _peer({"ipBlock": {"cidr": "2001:db8::/32"}}),
        _peer({"namespaceSelector": {}, "podSelector": {"matchExpressions": [{"key": "a/b", "operator": "Exists"}]}}),
        _peer({"podSelector": {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["a", ""]}]}}),
        _route(name="gateway", namespace="infra", sectionName="https", port=443, kind="Gateway"),
        _route(name="gateway", group="gateway.networking.k8s.io"),
    ],
)
def test_known_fields_of_objects_are_accepted(values: dict[str, Any]) -> None:
    done = template(values)
    assert done.returncode == 0, done.stderr


@helm
@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"sizes": 3}, "sizes"),
        ({"size": 0}, "size"),
        ({"size": "3"}, "size"),
        ({"uid": 0}, "uid"),
        ({"image": {"tag": "latest"}}, 'image.tag: "latest" may be another image tomorrow'),
        ({"image": {"tag": "a/b"}}, 'image.tag: "a/b" is not a tag'),
        ({"image": {"repository": ""}}, "image.repository: name the image"),
        ({"image": {"repository": "a/b:1.2"}}, 'has a tag: use "a/b", and move the tag to image.tag'),
        ({"image": {"repository": "a.b:5000/c:1"}}, 'use "a.b:5000/c", and'),
        ({"image": {"repository": "a/b@sha256:" + "a" * 64}}, "move it to image.digest"),
        ({"image": {"repository": "https://ghcr.io/a/b"}}, 'has a scheme: use "ghcr.io/a/b"'),
        (
            {"image": {"repository": "Reg/Flux"}},
            'upper-case letters, which image names cannot have: use "reg/',
        ),
        ({"image": {"repository": "a b"}}, "has spaces"),
        ({"image": {"repository": "a/b/"}}, "is not an image name"),
        ({"application": {"image": "example/app:latest"}}, 'application.image: "example/app:latest" may be another'),
        ({"application": {"image": "example.org:5000/app"}}, "has no tag"),
        ({"application": {"image": " example/app:1"}}, "has spaces"),
        ({"flux": {"view": "example/view"}}, "flux.view"),
        (
            {"metrics": {"port": 80}},
            "metrics.port: only root can listen on 80, and the server runs as user 1000: use 1024",
        ),
        ({"metrics": {"port": 5000}}, "metrics.port: 5000 is also server.port"),
        ({"metrics": {"port": 9090}, "service": {"port": 9090}}, "metrics.port: 9090 is also service.port"),
        ({"metrics": {"port": 8050}}, "metrics.port: 8050 is the port of the brokers"),
        ({"server": {"port": 8050}}, "server.port: 8050 is the port of the brokers"),
        ({"store": {"enabled": True, "size": "."}}, "/store/size"),
        ({"store": {"enabled": True, "size": "0"}}, "/store/size"),
        ({"store": {"enabled": True, "size": "10K"}}, "/store/size"),
        ({"store": {"keepJobs": -1}}, "/store/keepJobs"),
        ({"store": {"keepFor": "30 d"}}, "/store/keepFor"),
        ({"ingress": {"enabled": True, "hosts": ["10.0.0.1"]}}, "10.0.0.1"),
        ({"ingress": {"enabled": True, "hosts": ["a..b"]}}, "a..b"),
        ({"ingress": {"enabled": True, "hosts": ["a" * 64 + ".b"]}}, "/ingress/hosts/0"),
        ({"ingress": {"enabled": True, "hosts": ["*"]}}, "/ingress/hosts/0"),
        ({"ingress": {"enabled": True, "hosts": ["a.b"], "className": "Bad Name"}}, "Bad Name"),
        ({"ingress": {"enabled": True, "hosts": ["a.b"], "tls": [{"secretName": "S_x"}]}}, "S_x"),
        ({"ingress": {"enabled": True, "hosts": ["a.b"], "annotations": {"a b": "c"}}}, "a b"),
        ({"service": {"annotations": {"a b": "c"}}}, "a b"),
        ({"workload": "job", "job": {"backoffLimit": 2147483648}}, "backoffLimit"),
        ({"workload": "job", "job": {"ttlSecondsAfterFinished": 2147483648}}, "ttlSecondsAfterFinished"),
        ({"workload": "job", "clusterDomain": ".cluster.local."}, "clusterDomain"),
        ({"minicluster": {"connectTimeout": "banana"}}, "banana"),
        ({"server": {"idleStop": "."}}, "idleStop"),
        ({"server": {"idleStop": "1.2.3m"}}, "idleStop"),
        ({"server": {"idleStop": "30 m"}}, "idleStop"),
        ({"flux": {"brokerOptions": ["-Sx=$(id)"]}}, "brokerOptions"),
        ({"flux": {"brokerOptions": ["-Sx=`id`"]}}, "brokerOptions"),
        ({"flux": {"brokerOptions": ["-Sx=a\\"]}}, "brokerOptions"),
        ({"flux": {"brokerOptions": ["-Sx='a"]}}, "brokerOptions"),
        ({"flux": {"brokerOptions": ["-Sx=a\tb"]}}, "brokerOptions"),
        ({"server": {"environment": {"FLUX_SIDECAR_RATE_LIMIT": 100}}}, "RATE_LIMIT"),
        ({"auth": {"callers": ["fxs_abcdef"]}}, "callers"),
        ({"ingress": {"enabled": True}}, "hosts"),
        ({"httpRoute": {"enabled": True}}, "parentRefs"),
        ({"application": {"volumes": [{"name": "data", "path": "/data"}]}}, "volumes"),
        ({"application": {"volumes": [{"name": "data", "path": "/data", "hostPath": "/"}]}}, "hostPath"),
        ({"workload": "job", "mode": "launcher"}, "mode launcher needs workload minicluster"),
        ({"workload": "job", "maxSize": 3}, "the size of a plain Job is fixed"),
        ({"workload": "job", "flux": {"view": "view:1"}}, "flux.view needs workload minicluster and mode sidecar"),
        ({"mode": "launcher", "flux": {"view": "view:1"}}, "flux.view needs workload minicluster and mode sidecar"),
        ({"flux": {"cores": 2}}, "flux.cores needs workload job"),
        ({"size": 3, "maxSize": 2}, "maxSize is less than size"),
        ({"minSize": 2}, "minSize is greater than size"),
        ({"auth": {"existingSecret": "mine"}}, "set auth.token to false"),
        ({"rbac": {"create": False}, "auth": {"kubernetes": True}}, "system:auth-delegator"),
        ({"auth": {"token": False}}, "no caller could authenticate"),
        ({"server": {"environment": {"FLUX_SIDECAR_NO_AUTH": "true"}}}, "excludes every authentication method"),
        (_only(FLUX_SIDECAR_KUBERNETES_AUTH="false"), "no caller could authenticate"),
        (_only(FLUX_SIDECAR_NO_AUTH="off"), "no caller could authenticate"),
        (_only(FLUX_SIDECAR_NO_AUTH="n"), "no caller could authenticate"),
        (_only(FLUX_TOKEN=""), "no caller could authenticate"),
        (_only(FLUX_SIDECAR_OIDC_ISSUER=""), "no caller could authenticate"),
        (_only(FLUX_SIDECAR_NO_AUTH="yes", FLUX_TOKEN="x"), "leave FLUX_TOKEN out"),
        ({"auth": {"token": False, "callers": [f"#a:read:{_DIGEST}"]}}, "callers"),
        ({"auth": {"callers": [f" a:read:{_DIGEST}"]}}, "callers"),
        ({"auth": {"callers": [f"a\nb:read:{_DIGEST}"]}}, "callers"),
        ({"auth": {"callers": [f"fxs_a:read:{_DIGEST}"]}}, "begins with a token"),
        (_server(FLUX_SIDECAR_PORT="6000"), "server.environment.FLUX_SIDECAR_PORT would override"),
        (_server(FLUX_SIDECAR_PORT="6000"), "set server.port"),
        (_server(FLUX_SIDECAR_HOST="127.0.0.1"), "leave it out"),
        (_server(FLUX_SIDECAR_METRICS_PORT="9090"), "set metrics.port"),
        (_server(FLUX_SIDECAR_STORE="/x"), "set store.enabled"),
        (_server(FLUX_SIDECAR_KEEP_JOBS="5"), "set store.keepJobs"),
        (_server(FLUX_SIDECAR_KEEP_FOR="5d"), "set store.keepFor"),
        (_server(FLUX_SIDECAR_TOKENS="/x"), "set auth.callers, or auth.existingSecret"),
        (_server(FLUX_SIDECAR_TLS_CERT="/x"), "set tls.existingSecret"),
        (_server(FLUX_SIDECAR_END_FILE="/x"), "leave it out"),
        (_server(FLUX_SIDECAR_QUORUM="1"), "set minSize"),
        (_server(FLUX_SIDECAR_MINICLUSTER="x"), "set nameOverride"),
        (_server(FLUX_SIDECAR_COMPLETION_INDEX="1"), "Kubernetes sets it in each pod"),
        (_server(FLUX_SIDECAR_END_WHEN_DEAD="5"), "it is 60 s"),
        ({"workload": "job", **_server(FLUX_SIDECAR_LINGER="0")}, "leave it out"),
        (
            {"server": {"secretEnvironment": {"FLUX_SIDECAR_PORT": _SECRET}}},
            "server.secretEnvironment.FLUX_SIDECAR_PORT would override",
        ),
        (
            {"mode": "launcher", "application": {"environment": {"FLUX_SIDECAR_PORT": "1"}}},
            "application.environment.FLUX_SIDECAR_PORT would override",
        ),
        (
            {"server": {"environment": {"FLUX_TOKEN": "x"}, "secretEnvironment": {"FLUX_TOKEN": _SECRET}}},
            "FLUX_TOKEN is set in server.environment and in server.secretEnvironment",
        ),
        (
            {"application": {"environment": {"A": "x"}, "secretEnvironment": {"A": _SECRET}}},
            "A is set in application.environment and in application.secretEnvironment",
        ),
        (
            {
                "mode": "launcher",
                "application": {"environment": {"A": "x"}},
                "server": {"secretEnvironment": {"A": _SECRET}},
            },
            "A is set in application.environment and in server.secretEnvironment",
        ),
        ({"server": {"resources": {"limits": {"cpu": "50m"}}}}, "set server.resources.requests.cpu too"),
        ({"server": {"resources": {"limits": {"memory": "100M"}}}}, "(128Mi) is greater than its limit (100M)"),
        ({"application": {"resources": {"requests": {"cpu": 2}, "limits": {"cpu": 1.5}}}}, "application.resources"),
        ({"flux": {"resources": {"requests": {"cpu": "1e3"}, "limits": {"cpu": "999"}}}}, "flux.resources"),
        ({"application": {"resources": {"limits": {"memory": "4GB"}}}}, "memory"),
        ({"application": {"sharedMemory": "1 Gi"}}, "sharedMemory"),
        ({"application": {"volumes": [_volume("callers", "/in")]}}, "a volume of the cluster itself"),
        ({"workload": "job", "application": {"volumes": [_volume("tmp", "/in")]}}, "a volume of the cluster itself"),
        ({"application": {"volumes": [_volume("a", "/in"), _volume("a", "/out")]}}, "is used twice"),
        ({"application": {"volumes": [_volume("a", "/in"), _volume("b", "/in")]}}, "is used twice"),
        ({"application": {"volumes": [_volume("a", "/in"), _volume("b", "/in/")]}}, "is used twice"),
        ({"application": {"volumes": [_volume("a", "/mnt/flux/")]}}, "used by the cluster itself"),
        ({"application": {"volumes": [_volume("a", "/var/lib/flux-sidecar")]}}, "used by the cluster itself"),
        ({"application": {"volumes": [_volume("a", "/home/flux-operator")]}}, "used by the cluster itself"),
        ({"application": {"volumes": [_volume("a", "/")]}}, "used by the cluster itself"),
        ({"application": {"sharedMemory": "1Gi", "volumes": [_volume("a", "/dev/shm")]}}, "used by the cluster itself"),
        ({"workload": "job", "application": {"volumes": [_volume("a", "/home/flux")]}}, "used by the cluster itself"),
        (
            merged(_context(readOnlyRootFilesystem=True), {"workload": "job", "application": {"volumes": [_VAR_TMP]}}),
            "used by the cluster itself",
        ),
        ({"application": {"volumes": [_volume("a", "/in:out")]}}, "path"),
        ({"application": {"volumes": [_volume("a.b", "/in")]}}, "a.b"),
        ({"application": {"volumes": [_volume("a" * 64, "/in")]}}, "name"),
        ({"application": {"volumes": [{"name": "a", "path": "/in", "claimName": "My_Claim"}]}}, "My_Claim"),
        ({"application": {"volumes": [{"name": "a", "path": "/in", "secretName": "My_Secret"}]}}, "My_Secret"),
        ({"application": {"volumes": [{"name": "a", "path": "/in", "configMapName": "in.d"}]}}, "cannot have dots"),
        ({"uid": 2147483648}, "uid"),
        ({"size": 100001}, "size"),
        ({"maxSize": 3000000000}, "maxSize"),
        ({"application": {"environment": {"a b": "c"}}}, "a b"),
        ({"application": {"environment": {"1A": "c"}}}, "1A"),
        ({"server": {"secretEnvironment": {"A=B": {"name": "s", "key": "k"}}}}, "A=B"),
        ({"application": {"secretEnvironment": {"A": {"name": "My_Secret", "key": "k"}}}}, "My_Secret"),
        ({"application": {"secretEnvironment": {"A": {"name": "s", "key": "a/b"}}}}, "a/b"),
        ({"application": {"resources": {"limits": {"memroy": "1Gi"}}}}, "memroy"),
        ({"application": {"resources": {"limits": {"gpu": 1}}}}, "gpu"),
        ({"application": {"resources": {"limits": {"memory": "10K"}}}}, "10K"),
        ({"application": {"resources": {"requests": {"cpu": -1}}}}, "minimum"),
        (
            {"application": {"resources": {"limits": {"memory": "400m"}}}},
            "application.resources.limits.memory: 400m is a fraction",
        ),
        ({"application": {"resources": {"requests": {"cpu": "-1"}}}}, "-1"),
        ({"application": {"resources": {"requests": {"nvidia.com/gpu": 1}}}}, "limits.nvidia.com/gpu to 1"),
        (
            {"application": {"resources": {"requests": {"nvidia.com/gpu": 1}, "limits": {"nvidia.com/gpu": 2}}}},
            "must equal its limit (2)",
        ),
        ({"application": {"resources": {"limits": {"nvidia.com/gpu": "0.5"}}}}, "whole number"),
        (
            {"application": {"resources": {"limits": {"hugepages-2Mi": "100Mi"}}}},
            "set application.resources.limits.memory",
        ),
        (_context(privileged=True), "allowPrivilegeEscalation: set it to true"),
        (_context(capabilities={"add": ["CAP_SYS_ADMIN"]}), "allowPrivilegeEscalation: set it to true"),
        (_context(appArmorProfile={"type": "RuntimeDefault"}), "needs workload job"),
        ({"pod": {"tolerations": [{}]}}, "has no key"),
        ({"pod": {"tolerations": [{"operator": "Equal", "value": "b"}]}}, "has no key"),
        (
            {"pod": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
            "operator Exists allows no value",
        ),
        ({"pod": {"tolerations": [{"key": "a b", "operator": "Exists"}]}}, "a b"),
        ({"pod": {"labels": {"team": "b c"}}}, "b c"),
        ({"pod": {"labels": {"team": "b" * 64}}}, "labels"),
        ({"pod": {"labels": {"job-name": "other"}}}, "used to select the pods"),
        ({"pod": {"nodeSelector": {"a b": "c"}}}, "a b"),
        ({"pod": {"annotations": {"a b": "c"}}}, "a b"),
        ({"pod": {"runtimeClassName": "Kata Q"}}, "Kata Q"),
        ({"tls": {"existingSecret": "My_Secret"}}, "existingSecret"),
        ({"store": {"existingClaim": "a"}}, "store.existingClaim has no effect unless store.enabled is true: set that"),
        ({"store": {"storageClass": "a"}}, "store.storageClass has no effect unless store.enabled"),
        ({"store": {"enabled": True, "existingClaim": "a", "storageClass": "b"}}, "unless the chart makes the claim"),
        (
            merged(_peer({"namespaceSelector": {}}), {"networkPolicy": {"enabled": False}}),
            "networkPolicy.from has no effect unless networkPolicy.enabled is true",
        ),
        ({"ingress": {"hosts": ["a.b"]}}, "ingress.hosts has no effect unless ingress.enabled is true"),
        ({"httpRoute": {"hostnames": ["a.b"]}}, "httpRoute.hostnames has no effect unless httpRoute.enabled is true"),
        ({"clusterDomain": "example.internal"}, "clusterDomain has no effect unless workload is job"),
        ({"server": {"resources": None}}, "server.resources: must not be empty (null): leave the key out"),
        ({"auth": None}, "auth: must not be empty (null): leave the key out"),
        ({"application": None}, "application: must not be empty (null)"),
        ({"size": None}, "size: must not be empty (null)"),
        ({"application": {"volumes": None}}, "application.volumes: must not be empty (null)"),
        ({"workload": "job", "metrics": {"from": None}}, "metrics.from: must not be empty (null)"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], text: str) -> None:
    assert text in refused(values)


@helm
@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("2024-run", "beginning with a letter"),
        ("my.rel", "choose another release name, or set nameOverride"),
        ("a" * 49, "has 49 characters; at most 48"),
    ],
)
def test_release_name_that_is_not_a_host_name_is_refused(release: str, text: str) -> None:
    """Helm allows it; the API server would refuse some of the objects, and leave a failed release."""
    assert text in refused({}, release)
    assert template({"nameOverride": "science"}, release).returncode == 0


@helm
@pytest.mark.parametrize(
    "values",
    [
        {"server": {"resources": {"limits": {"cpu": "0.1", "memory": "134217728"}}}},
        {"server": {"resources": {"limits": {"cpu": 1, "memory": "1e9"}}}},
        {"server": {"resources": {"limits": {"memory": 134217728, "nvidia.com/gpu": 1}}}},
        {"networkPolicy": {"enabled": False}},
        {"workload": "job", "clusterDomain": "example.internal"},
        {"server": {"resources": {"limits": {"memory": None}}}},
        {"server": {"resources": {"limits": None}}},
        {"image": {"repository": "registry.example.org:5000/team/flux-sidecar", "tag": "v1.0_a"}},
        {"application": {"image": "example.org:5000/app@sha256:" + "a" * 64}},
        {"application": {"image": "example.org/app:v1.0-RC1"}},
        {"store": {"enabled": True, "size": "100000k"}},
        {"ingress": {"enabled": True, "hosts": ["*.example.org", "localhost", "1a.xn--p1ai"]}},
        {"server": {"idleStop": "1h30m"}},
        {"server": {"idleStop": "1.5"}},
        {"flux": {"brokerOptions": ["-Sbroker.shutdown-timeout=60s", "--config-path=/x"]}},
        {"metrics": {"port": 1024}},
        _only(FLUX_SIDECAR_KUBERNETES_AUTH="Yes"),
        _server(FLUX_SIDECAR_NO_AUTH="false"),
        {"application": {"environment": {"FLUX_SIDECAR_PORT": "1"}}},
        {"application": {"environment": {"A": "x"}}, "server": {"environment": {"A": "y"}, "secretEnvironment": {}}},
        {"auth": {"callers": [f"a b:read,submit:{_DIGEST}"]}},
        {"application": {"resources": {"limits": {"memory": "100000k", "hugepages-2Mi": "4Mi"}}}},
        {"application": {"resources": {"requests": {"example.com/a": 2}, "limits": {"example.com/a": "2"}}}},
        {"application": {"resources": {"limits": {"cpu": 0}}}},
        {"application": {"resources": {"limits": {"cpu": "400m"}}}},
        merged(_context(readOnlyRootFilesystem=True), {"application": {"volumes": [_volume("a", "/tmp//")]}}),
        {"application": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}},
        {"application": {"securityContext": {"privileged": True, "allowPrivilegeEscalation": True}}},
        {"workload": "job", "application": {"securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}},
        {"pod": {"tolerations": [{"operator": "Exists"}, {"key": "hpc", "value": "yes", "effect": "NoSchedule"}]}},
        {"pod": {"labels": {"example.com/team": ""}, "annotations": {"Example.com/note": "a\nb"}}},
        {"application": {"volumes": [_volume("a", "/home/flux/data"), _volume("b", "/tmp")]}},
        {"workload": "job", "application": {"volumes": [{"name": "a", "path": "/in", "configMapName": "in.d"}]}},
        {"workload": "job", "application": {"volumes": [_volume("a", "/var/lib/flux-sidecar")]}},
        {"auth": {"token": False, "kubernetes": True}},
        {"auth": {"token": False}, "server": {"environment": {"FLUX_TOKEN": "secret"}}},
        {
            "auth": {"token": False},
            "server": {"secretEnvironment": {"FLUX_TOKEN": {"name": "login", "key": "password"}}},
        },
        {"auth": {"token": False}, "server": {"environment": {"FLUX_SIDECAR_NO_AUTH": "true"}}},
        {"mode": "launcher", "auth": {"token": False}, "application": {"environment": {"FLUX_TOKEN": "secret"}}},
    ],
)
def test_valid_values_are_accepted(values: dict[str, Any]) -> None:
    done = template(values)
    assert done.returncode == 0, done.stderr
