"""The chart's objects for Prometheus and Grafana. Kubernetes does not know their schemas; this module lists the fields.

Source: the API reference of the Prometheus operator, monitoring.coreos.com/v1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendered import EVERYTHING, containers, kinds, merged, refused, render, variables
from tests.support.harness import Process, embedded, eventually
from tests.support.prometheus import Prometheus

pytestmark = pytest.mark.helm

_SPEC = {
    "PodMonitor": {"selector", "podMetricsEndpoints"},
    "ServiceMonitor": {"selector", "endpoints"},
}
_ENDPOINT = {"path", "scheme", "interval", "authorization", "relabelings", "tlsConfig"}


PROMETHEUS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]


def monitor(kind: str, **metrics: Any) -> dict[str, Any]:
    return {"metrics": {"monitor": kind, **metrics}}


def test_custom_resources_are_optional() -> None:
    assert not {"PodMonitor", "ServiceMonitor", "PrometheusRule"} & kinds(render({}))


@pytest.mark.parametrize("kind", _SPEC)
@pytest.mark.parametrize("more", [{}, {"port": 9090, "from": PROMETHEUS}, {"open": True}])
def test_monitor_selects_pod_0(kind: str, more: dict[str, Any]) -> None:
    objects = render(monitor(kind, **more))
    spec = objects[kind, "flux"]["spec"]
    assert set(spec) == _SPEC[kind]
    (endpoint,) = spec.get("podMetricsEndpoints") or spec["endpoints"]
    assert set(endpoint) <= {*_ENDPOINT, "port"}
    labels = spec["selector"]["matchLabels"]
    service = objects["Service", "flux-api"]
    if kind == "PodMonitor":
        assert labels == service["spec"]["selector"]
        # With a port, the Prometheus operator keeps only pods that declare it, and those of a MiniCluster declare none.
        assert "port" not in endpoint
    else:
        assert labels.items() <= service["metadata"]["labels"].items()
        others = [each for (what, name), each in objects.items() if what == "Service" and name != "flux-api"]
        assert not any(labels.items() <= each["metadata"].get("labels", {}).items() for each in others)
        ports = {port["name"]: port["targetPort"] for port in service["spec"]["ports"]}
        assert ports[endpoint["port"]] == more.get("port", 5000)
    server = variables(containers(objects)["flux-sidecar"])
    assert server["FLUX_SIDECAR_METRICS_PORT"] == str(more.get("port", 0))
    assert ("authorization" in endpoint) != bool(more.get("open"))
    assert server.get("FLUX_SIDECAR_METRICS_OPEN", "") == ("true" if more.get("open") else "")
    assert endpoint["relabelings"][-1] == {"targetLabel": "job", "replacement": "flux"}


def discovered(values: dict[str, Any], address: str) -> list[dict[str, Any]]:
    """Return Prometheus' targets of pod 0: one for each container, and one for each port of a container that declares
    some.

    Source: prometheus/prometheus, discovery/kubernetes/pod.go.
    """
    shown = f"[{address}]" if ":" in address else address
    launcher, job = values.get("mode") == "launcher", values.get("workload") == "job"
    ports: dict[str, list[int]] = {"flux-view": [], "flux": []}
    if job:
        ports = {"curve": [], "flux-sidecar": [5000], "flux": [8050]}
    elif not launcher:
        ports["flux-sidecar"] = []
    return [
        {
            "targets": [f"{shown}:{port}" if port else address],
            "labels": {
                "__meta_kubernetes_pod_ip": address,
                "__meta_kubernetes_pod_name": "flux-0-abcde",
                "__meta_kubernetes_pod_container_name": container,
                "__meta_kubernetes_namespace": "lab",
            },
        }
        for container, declared in ports.items()
        for port in declared or [0]
    ]


@pytest.mark.prometheus
@pytest.mark.parametrize("shape", [{}, {"mode": "launcher"}, {"workload": "job"}], ids=str)
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_prometheus_discovers_the_server_of_pod_0(
    tmp_path: Path, started: Callable[[Process], Any], shape: dict[str, Any], address: str
) -> None:
    """With the rendered relabelings, a real Prometheus keeps one of all targets, and scrapes it."""
    server = started(embedded(tmp_path, "--host", address, "--metrics-open", "--no-auth")).ready()
    port = int(server.url.rpartition(":")[2])
    objects = render({**shape, **monitor("PodMonitor", open=True), "server": {"port": port}})
    (endpoint,) = objects["PodMonitor", "flux"]["spec"]["podMetricsEndpoints"]
    names = {"sourceLabels": "source_labels", "targetLabel": "target_label"}
    relabelings = [{names.get(key, key): value for key, value in each.items()} for each in endpoint["relabelings"]]
    targets = tmp_path / "targets.json"
    targets.write_text(json.dumps(discovered(shape, address)))
    scrape = {
        "job_name": "podMonitor/lab/flux/0",
        "metrics_path": endpoint["path"],
        "scheme": endpoint["scheme"],
        "file_sd_configs": [{"files": [str(targets)]}],
        "relabel_configs": relabelings,
    }
    prometheus = started(Prometheus(tmp_path / "prometheus", yaml.safe_dump([scrape])))
    eventually(lambda: prometheus.query("up == 1"), what="a scrape")
    (up,) = prometheus.query("up")
    shown = f"[{address}]" if ":" in address else address
    assert (up["metric"]["job"], up["metric"]["instance"]) == ("flux", f"{shown}:{port}")
    eventually(lambda: prometheus.query('flux_instance_up{job="flux"} == 1'), what="the server's metrics")


def test_prometheus_has_a_read_only_token() -> None:
    objects = render(monitor("PodMonitor"))
    (endpoint,) = objects["PodMonitor", "flux"]["spec"]["podMetricsEndpoints"]
    named = endpoint["authorization"]["credentials"]
    token = base64.b64decode(objects["Secret", named["name"]]["data"][named["key"]]).decode()
    lines = base64.b64decode(objects["Secret", "flux-callers"]["data"]["tokens"]).decode().splitlines()
    assert f"flux-scrape:read:{hashlib.sha256(token.encode()).hexdigest()}" in lines
    assert objects["Secret", named["name"]]["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert "scrape" not in objects["Secret", "flux-token"]["data"] or len(lines) == 2
    # Without Prometheus there is none.
    assert "scrape" not in render({})["Secret", "flux-token"]["data"]


def test_scrape_over_tls() -> None:
    (endpoint,) = render({**monitor("ServiceMonitor"), "tls": {"existingSecret": "certificate"}})[
        "ServiceMonitor", "flux"
    ]["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"]["serverName"] == "flux-api.lab.svc"
    assert endpoint["tlsConfig"]["ca"]["secret"]["name"] == "certificate"


@pytest.mark.parametrize(
    ("values", "spare"), [({}, 0), ({"maxSize": 8, "size": 3}, 5), ({"maxSize": 8, "minSize": 2, "size": 3}, 6)]
)
def test_rules_select_this_release(tmp_path: Path, values: dict[str, Any], spare: int) -> None:
    rule = render({**values, "metrics": {"rules": True, "labels": {"release": "prometheus"}}})["PrometheusRule", "flux"]
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert set(rule["spec"]) == {"groups"}
    text = json.dumps(rule["spec"])
    assert 'job=~\\".+\\"' not in text
    rules = {each.get("alert", each.get("record")): each for group in rule["spec"]["groups"] for each in group["rules"]}
    assert rules["FluxInstanceLost"]["expr"].strip() == 'flux_instance_up{namespace="lab", job="flux"} == 0'
    assert rules["FluxNodesDown"]["expr"].strip().endswith(f"> {spare}")
    assert "{{ $labels.namespace }}" in rules["FluxInstanceLost"]["annotations"]["summary"]


@pytest.mark.prometheus
def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    rule = render(EVERYTHING)["PrometheusRule", "science"]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(rule["spec"]))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboard() -> None:
    found = render({"metrics": {"dashboard": True}})["ConfigMap", "flux-dashboard"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(found["data"]["flux-sidecar.json"])["uid"] == "flux-sidecar"


def test_access_to_the_metrics() -> None:
    policy = render(EVERYTHING)["NetworkPolicy", "science"]["spec"]
    assert policy["ingress"][-1]["ports"] == [{"port": 9090}]
    others = merged(EVERYTHING, {"metrics": {"port": 0}})
    assert render(others)["NetworkPolicy", "science"]["spec"]["ingress"][-1]["ports"] == [{"port": 5050}]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({**monitor("PodMonitor"), "auth": {"token": False, "kubernetes": True}}, "metrics.existingSecret"),
        (monitor("", existingSecret="s"), "metrics.monitor"),
        (monitor("PodMonitor", port=5000), "metrics.port"),
        ({"metrics": {"from": [{"podSelector": {}}]}, "networkPolicy": {"enabled": False}}, "networkPolicy.enabled"),
        (monitor("Probe"), "monitor"),
        (monitor("PodMonitor", port=9090), "allows no peer to reach metrics.port (9090): set metrics.from"),
    ],
)
def test_invalid_values_are_refused(values: dict[str, Any], text: str) -> None:
    assert text in refused(values)
