"""Variables of other programs: the server ignores them, with a warning."""

from __future__ import annotations

import pytest

from sidecar.config.table import all_options
from sidecar.config.variables import find_foreign

KNOWN = {
    variable
    for name in ("host", "port", "metrics_port", "embedded", "uri")
    for variable in all_options()[name].variables
}


@pytest.mark.parametrize(
    ("name", "value", "ignored"),
    [
        ("HOST", "vm", "not an IP address"),
        ("HOST", "x86_64-conda-linux-gnu", "not an IP address"),
        ("HOST", "", "not an IP address"),
        ("HOST", "tcp://10.0.0.1:5000", "not an IP address"),
        ("HOST", "0.0.0.0", ""),
        ("HOST", "::1", ""),
        ("HOST", "localhost", ""),
        ("PORT", "tcp://10.0.0.1:5000", "not a number"),
        ("PORT", "", "not a number"),
        ("PORT", "8080", ""),
        ("FLUX_SIDECAR_PORT", "tcp://10.0.0.1:5000", "Kubernetes"),
        ("FLUX_SIDECAR_METRICS_PORT", "udp://10.0.0.1:80", "Kubernetes"),
        ("FLUX_SIDECAR_METRICS_PORT", "9090", ""),
        ("FLUX_SIDECAR_URI", "local:///run/flux/local", ""),
    ],
)
def test_ignored_variables(name: str, value: str, ignored: str) -> None:
    foreign = find_foreign({name: value}, KNOWN)
    assert not foreign.unknown
    assert (name in foreign.ignored) == bool(ignored)
    assert not ignored or (ignored in foreign.ignored[name] and foreign.ignored[name].startswith(f"{name}={value}"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FLUX_SIDECAR_EMBEDED", "did you mean FLUX_SIDECAR_EMBEDDED?"),
        ("FLUX_SIDECAR_METRIC_PORT", "did you mean FLUX_SIDECAR_METRICS_PORT?"),
        ("FLUX_SIDECAR_XYZZY", "flux-sidecar serve --help"),
        ("FLUX_SIDECAR_SERVICE_HOST", ""),
        ("FLUX_SIDECAR_SERVICE_PORT_HTTP", ""),
        ("FLUX_SIDECAR_PORT_5000_TCP_ADDR", ""),
        ("FLUX_SIDECAR_METRICS_PORT_80_TCP", ""),
        ("FLUX_SIDECAR", ""),
        ("SIDECAR_EMBEDED", ""),
        ("FLUX_URI", ""),
    ],
)
def test_misspelled_variables(name: str, text: str) -> None:
    foreign = find_foreign({name: "1"}, KNOWN)
    assert not foreign.ignored
    assert bool(foreign.unknown) == bool(text)
    assert not text or (foreign.unknown[0].startswith(name) and text in foreign.unknown[0])
