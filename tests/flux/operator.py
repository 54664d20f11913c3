"""Brokers as the Flux Operator's entrypoints start them, on one machine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import harness
from tests.support.harness import Broker


def operator_options(directory: Path, name: str, more: str = "") -> list[str]:
    """The options that the operator's generated entrypoint gives to every broker, on one machine.

    ``more`` is added to the configuration, which all brokers share.
    """
    config = directory / "config"
    for folder in ("etc/flux/system/cron.d", "etc/flux/config", f"run/{name}", f"var/{name}"):
        (config / folder).mkdir(parents=True, exist_ok=True)
    certificate = config / "curve.cert"
    if not certificate.exists():
        subprocess.run(["flux", "keygen", str(certificate)], check=True, timeout=60)
    text = f"""
[access]
allow-guest-user = true
allow-root-owner = true
[resource]
noverify = true
[[resource.config]]
hosts = "mc-[0-1]"
cores = "0-1"
[bootstrap]
curve_cert = "{certificate}"
hosts = [
  {{ host = "mc-0", bind = "ipc://{directory}/tbon", connect = "ipc://{directory}/tbon" }},
  {{ host = "mc-1" }},
]
{more}
"""
    file = config / "etc/flux/config/broker.toml"
    if not file.exists() or file.read_text() != text:  # a broker that was just started may be reading it
        file.write_text(text)
    return [
        f"-Scron.directory={config}/etc/flux/system/cron.d",
        "-Stbon.fanout=256",
        f"-Srundir={config}/run/{name}",
        f"-Sstatedir={config}/var/{name}",
        f"-Slocal-uri=local://{config}/run/{name}/local",
        "-Stbon.connect_timeout=5s",
        "-Slog-stderr-level=6",
        "-Slog-stderr-mode=local",
        f"-Shostname={name}",
    ]


def flux_start_as_operator(directory: Path, name: str, *rest: str, more: str = "") -> list[str]:
    config = f"{directory}/config/etc/flux/config"
    options = operator_options(directory, name, more)
    return ["flux", "start", "-o", "--config", config, *options, *rest]


class Lead(Broker):
    def __init__(self, directory: Path, more: str = "") -> None:
        options = operator_options(directory, "mc-0", more)
        self.uri = f"local://{directory}/config/run/mc-0/local"
        argv = ["flux", "broker", "--config-path", f"{directory}/config/etc/flux/config", *options, "-Sbroker.rc2_none"]
        harness.Process.__init__(self, argv, directory)


def start_follower(directory: Path, more: str = "") -> harness.Process:
    return harness.Process(flux_start_as_operator(directory, "mc-1", more=more), directory)


def follower_socket(directory: Path) -> Path:
    return directory / "config/run/mc-1/local"
