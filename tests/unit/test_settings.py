"""Options: one source for flags, variables, help and documentation; and errors that say what to change."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

import sidecar
from docs import generate
from sidecar import cli, options, settings
from sidecar.option_groups import GROUPS
from sidecar.settings import Settings
from tests.harness import BIN, SIDECAR

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("FLUX_")} | variables
    return subprocess.run([SIDECAR, *arguments], env=environment, text=True, capture_output=True, timeout=60)


def test_without_an_instance_it_says_how_to_start_one() -> None:
    done = run("serve")
    assert done.returncode == 2
    assert "flux start flux-sidecar serve" in done.stderr
    assert "--embedded" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--embedded", "--host", "0.0.0.0"], "add --no-auth if that is meant"),
        (["--embedded", "--host", "::"], "add --no-auth if that is meant"),
        (["--embedded", "--uri", "local:///x"], "exclude each other"),
        (["--embedded", "--port", "70000"], "--port 70000 is not a port"),
        (["--embedded", "--max-body", "0"], "--max-body must be more than 0"),
        (["--embedded", "--kill-timeout", "-1"], "must not be negative"),
        (["--embedded", "--cores", "-1"], "--cores must not be negative"),
        (["--embedded", "--cores", "65537"], "--cores must be 65,536 at most"),
        (["--embedded", "--cores", "99999999999999999999"], "--cores must be 65,536 at most"),
        (["--embedded", "--option-flags=-ompi"], "is not of the form -oKEY=VALUE"),
        (["--embedded", "--option-flags", "'"], "cannot be read"),
        (["--embedded", "--idle-stop", "soon"], "--idle-stop 'soon' is no duration"),
        (["--embedded", "--idle-stop", "0"], "--idle-stop '0' is no duration"),
        (["--embedded", "--idle-stop", "1h 30"], "--idle-stop '1h 30' is no duration"),
        (["--embedded", "--send-timeout", "1 hour"], "'1 hour' is no duration: use seconds, or"),
        (["--embedded", "--send-timeout", "0s"], "--send-timeout must be more than 0"),
        (["--embedded", "--store", "/proc/no/where.sqlite"], "--store /proc/no/where.sqlite"),
        (["--embedded", "--host", "0.0.0.0"], "flux-sidecar token new NAME --file FILE"),
        (["--embedded", "--require-auth"], "No method of authentication is set. Give one or more of"),
        (["--embedded", "--no-auth", "--login-password", "x"], "a method of authentication (login) exclude each other"),
        (["--embedded", "--tokens", "/no/where"], "--tokens /no/where"),
        (["--embedded", "--no-tcp"], "give --socket"),
        (["--embedded", "--socket-users", "alice=submit"], "give --socket too"),
        (["--embedded", "--socket", "/tmp/s", "--socket-users", "alice=root"], "scopes are read, submit, admin"),
        (["--embedded", "--oidc-issuer", "http://login.example.org"], "is not HTTPS"),
        (["--embedded", "--oidc-issuer", "https://x.org", "--oidc-scopes", "users"], "is not of the form NAME=SCOPE"),
        (["--embedded", "--kubernetes-auth", "--kubernetes-api", "http://10.0.0.1"], "by https://"),
        (
            ["--embedded", "--allowed-origins", "portal.example.org"],
            "is not an origin; write it as https://portal.example.org",
        ),
        (["--embedded", "--trusted-proxies", "ingress"], "--trusted-proxies: 'ingress'"),
        (["--embedded", "--rate-limit", "-1"], "must not be negative"),
        (["--embedded", "--max-streams", "0"], "--max-streams must be more than 0"),
    ],
)
def test_what_cannot_work_is_refused(arguments: list[str], text: str) -> None:
    done = run("serve", *arguments)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["1", "true", "false", "anything"])
def test_require_auth_means_yes_whatever_it_holds(value: str) -> None:
    """As the predecessor read it: who has set it to 0 gets a server that asks, and not one that does not."""
    done = run("serve", "--embedded", FLUX_REQUIRE_AUTH=value)
    assert done.returncode == 2
    assert "FLUX_REQUIRE_AUTH" in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("serve", "--embedded", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "Choose another --port" in done.stderr


def test_a_port_for_metrics_in_use() -> None:
    """The port that is taken is named, and the option that sets it."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", "--embedded", "--port", "0", "--metrics-port", port)
    assert done.returncode == 2
    assert f"--metrics-port: cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_an_address_that_is_not_this_machines() -> None:
    done = run("serve", "--embedded", "--port", "0", "--host", "192.0.2.1", "--no-auth")
    assert done.returncode == 2
    assert "--host" in done.stderr


@pytest.mark.parametrize(("path", "text"), [("{}/" + "a" * 200, "107"), ("{}/file/socket", "exists"), ("{}", "in use")])
def test_a_socket_that_cannot_be(tmp_path: Path, path: str, text: str) -> None:
    """The socket is what is wrong, and not the port."""
    (tmp_path / "file").touch()
    done = run("serve", "--embedded", "--port", "0", "--socket", path.format(tmp_path))
    assert done.returncode == 2
    assert "--socket" in done.stderr
    assert text in done.stderr
    assert "--port" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("serve", "--embedded", "--port", "0", "--store", str(tmp_path / "file" / "jobs.sqlite"))
    assert done.returncode == 2
    assert "--port" not in done.stderr


def test_a_module_that_is_missing_is_not_always_flux() -> None:
    from sidecar.cli import _unloadable

    assert "flux-sidecar[flux]" in _unloadable(ImportError("No module named 'flux'", name="flux.job"))
    assert "pip install '.[flux]' flux-python==" in _unloadable(
        ImportError("libflux-core.so.2: cannot open", name="_flux._core")
    )
    text = _unloadable(ImportError("No module named 'joserfc'", name="joserfc"))
    assert "joserfc" in text
    assert "libflux" not in text


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.5.5"])
def test_loopback_needs_no_auth(host: str) -> None:
    loopback = Settings(embedded=True, host=host)
    loopback.check()
    assert not loopback.authenticates


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "localhost.example.org", ""])
def test_every_other_address_needs_authentication_or_no_auth(host: str) -> None:
    with pytest.raises(options.SettingsError, match="add --no-auth if that is meant"):
        Settings(embedded=True, host=host).check()
    Settings(embedded=True, host=host, no_auth=True).check()
    Settings(embedded=True, host=host, login_password="a password").check()


def test_a_socket_beside_an_open_port_is_warned_of() -> None:
    """Who asks for a socket wants to know who calls; the port beside it lets everybody on the machine do everything."""

    def warned(**options: object) -> bool:
        return any("--no-tcp" in text for text in Settings(embedded=True, **options).warnings())  # type: ignore[arg-type]

    assert warned(socket="/run/socket")
    assert not warned()
    assert not warned(socket="/run/socket", tcp=False)
    assert not warned(socket="/run/socket", login_password="a password")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("250ms", 0.25), ("30m", 1800), ("1.5h", 5400), ("1d", 86400), (".5", 0.5), (" 2. ", 2),
     ("1h30m", 5400), ("1d 12h", 129600), ("1H", 3600), ("1m500ms", 60.5)],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert Settings(embedded=True, idle_stop=text).idle_stop_seconds == pytest.approx(seconds)


def test_no_idle_stop() -> None:
    assert Settings(embedded=True).idle_stop_seconds is None


def test_our_variables_come_before_the_predecessors() -> None:
    assert settings.env_names("port") == ("FLUX_SIDECAR_PORT", "PORT")
    assert "--port 99999" in run("serve", "--embedded", FLUX_SIDECAR_PORT="99999", PORT="5000").stderr
    assert "--port 99999" in run("serve", "--embedded", PORT="99999").stderr


def test_variables_that_others_set() -> None:
    """They are told, also where the server cannot start for another reason."""
    shell = {"HOST": "vm", "PORT": "tcp://10.0.0.1:5000", "FLUX_SIDECAR_METRICS_PORT": "tcp://10.0.0.1:80"}
    stderr = run("serve", FLUX_SIDECAR_EMBEDED="1", **shell).stderr
    assert "There is no Flux instance to serve" in stderr
    assert "did you mean FLUX_SIDECAR_EMBEDDED?" in stderr
    assert all(f"{name}={value} is ignored" in stderr for name, value in shell.items())
    given = run("serve", "--host", "::1", "--port=0", **shell).stderr
    assert "HOST=" not in given
    assert " PORT=" not in given
    assert "Listening on 0.0.0.0 (from the variable HOST)" in run("serve", "--embedded", HOST="0.0.0.0").stderr
    assert "--port 99999 (from the variable PORT)" in run("serve", "--embedded", PORT="99999").stderr


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "https://{}:5000"), ("[::]", "https://{}:5000"), ("127.0.0.1", "")]
)
def test_the_address_that_is_announced_can_be_called(host: str, url: str) -> None:
    given = f"https://{host}:5000"
    assert cli.callable_url(given) == (url.format(socket.gethostname()) or given)


@pytest.mark.parametrize(
    ("arguments", "variables", "role"),
    [
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": "2"}, (2, "/run/local", 30)),
        ("serve --uri=local:///run/local", {"JOB_COMPLETION_INDEX": "2"}, (2, "/run/local", 30)),
        ("serve", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, (1, "/f", 30)),
        ("serve", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f", "FLUX_SIDECAR_URI": "local:///s"}, (1, "/s", 30)),
        ("serve --completion-index 3 --uri local:///f --follower-wait 5", {}, (3, "/f", 5)),
        ("serve", {"FLUX_SIDECAR_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f", "FLUX_SIDECAR_FOLLOWER_WAIT": "1.5"}, (1, "/f", 1.5)),
        ("serve --uri local:///f", {"JOB_COMPLETION_INDEX": "1", "FLUX_SIDECAR_LINGER": "9"}, (1, "/f", 30)),
        ("serve --uri local:///run/local", {}, None),
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": "0"}, None),
        ("serve --uri local:///run/local", {"JOB_COMPLETION_INDEX": ""}, None),
        ("serve --completion-index 0 --uri local:///f", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("serve --embedded", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("serve --help", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("serve --uri local:///f --follower-wait 1m30s", {"JOB_COMPLETION_INDEX": "1"}, (1, "/f", 90)),
        ("serve --uri local:///f --follower-wait soon", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("serve --uri", {"JOB_COMPLETION_INDEX": "1"}, None),
        ("openapi", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
        ("", {"JOB_COMPLETION_INDEX": "1", "FLUX_URI": "local:///f"}, None),
    ],
)  # fmt: skip
def test_who_is_a_follower(
    monkeypatch: pytest.MonkeyPatch, arguments: str, variables: dict[str, str], role: tuple[Any, ...] | None
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = options.early_role(arguments.split())
    assert (found and (found.index, found.socket, found.wait)) == role
    assert found is None or found.linger == float(variables.get("FLUX_SIDECAR_LINGER", 0))


@pytest.mark.parametrize(
    ("given", "host", "port", "url"),
    [
        ("", "", "", "https://kubernetes.default.svc"),
        ("", "10.96.0.1", "443", "https://10.96.0.1:443"),
        ("", "fd00::1", "6443", "https://[fd00::1]:6443"),
        ("https://api.example.org", "10.96.0.1", "443", "https://api.example.org"),
    ],
)
def test_where_the_api_server_is(monkeypatch: pytest.MonkeyPatch, given: str, host: str, port: str, url: str) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    assert options.api_server(given) == url


def test_a_follower_without_a_broker_of_its_own_is_told_so() -> None:
    done = run("serve", "--uri", "ssh://mc-0/run/local", JOB_COMPLETION_INDEX="1")
    assert done.returncode == 2
    assert "This pod is a follower (completion index 1)" in done.stderr
    assert (
        "--follower-wait" in run("serve", "--uri", "local:///f", "--follower-wait=x", JOB_COMPLETION_INDEX="1").stderr
    )


def test_no_job_sees_the_servers_settings() -> None:
    environment = {"FLUX_TOKEN": "t", "FLUX_SIDECAR_STORE": "s", "PORT": "1", "FLUX_URI": "u", "HOME": "/h"}
    assert settings.job_environment(environment) == {"FLUX_URI": "u", "HOME": "/h"}


def test_every_option_is_a_flag_a_variable_and_documented() -> None:
    text = run("serve", "--help").stdout
    for field in dataclasses.fields(Settings):
        flag = "--" + field.name.replace("_", "-")
        assert flag in text
        assert settings.env_names(field.name)[0] == "FLUX_SIDECAR_" + field.name.upper()
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(field.name for field in dataclasses.fields(Settings))


def test_the_documentation_names_choices_and_negative_forms() -> None:
    rows = {row.flag: row for rows in settings.table().values() for row in rows}
    assert "`console`, `json`" in rows["`--log-format`"].text
    assert "`read`, `submit`, `admin`" in rows["`--tls-client-scope`"].text
    assert rows["`--tcp`, `--no-tcp`"].default == "yes"
    assert "`--no-auth`" in rows


@pytest.mark.parametrize("name", generate.PAGES)
def test_documents_made_from_code_are_not_stale(name: str) -> None:
    assert (ROOT / "docs" / name).read_text() == generate.PAGES[name](), "run `make docs`"


def test_the_published_openapi_document_is_not_stale() -> None:
    assert json.loads((ROOT / "docs" / "openapi.json").read_text()) == json.loads(run("openapi").stdout), "make docs"


def test_vendored_files_are_what_they_say() -> None:
    static = ROOT / "sidecar" / "web" / "static"
    rows = re.findall(r"^\| (\S+) \|.*`([0-9a-f]{64})`", (static / "README.md").read_text(), re.MULTILINE)
    assert rows
    for name, digest in rows:
        assert hashlib.sha256((static / name).read_bytes()).hexdigest() == digest, name


def test_the_environment_is_read_in_one_place() -> None:
    for path in (ROOT / "sidecar").rglob("*.py"):
        if path.name not in ("settings.py", "options.py"):
            assert "os.environ" not in path.read_text(), path


def test_the_version_is_one() -> None:
    assert run("--version").stdout.strip() == sidecar.__version__
    assert (BIN / "flux-sidecar").exists()


def test_beside_the_operators_broker_the_instance_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "OPERATOR", str(tmp_path))
    expected = f"local://{tmp_path}/run/flux/local"
    monkeypatch.delenv("FLUX_URI", raising=False)
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    assert Settings().located().uri == ""
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert Settings().located().uri == expected
    assert Settings(embedded=True).located().uri == ""
    assert Settings(uri="local:///own").located().uri == "local:///own"
    # In the pod of a follower it is known before anything is parsed.
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    role = options.early_role(["serve"])
    assert role is not None
    assert (role.index, role.socket) == (2, expected.removeprefix("local://"))
    # What is given counts, be it empty; and a pod of another Job has no such directory.
    monkeypatch.setenv("FLUX_URI", "")
    assert options.operator_uri() == ""
    monkeypatch.delenv("FLUX_URI")
    monkeypatch.setattr(options, "OPERATOR", str(tmp_path / "none"))
    assert options.operator_uri() == ""
