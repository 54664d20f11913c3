"""Settings that the server rejects at its start, or warns about."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sidecar.config import table
from sidecar.config.early import early_role
from sidecar.config.values import SettingsError
from tests.support.command_line import run_command
from tests.support.settings import make_settings


def test_no_instance() -> None:
    done = run_command("serve")
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
        (["--embedded", "--cores", "99999999999999999"], "--cores must be 65,536 at most"),
        (["--embedded", "--option-flags=-ompi"], "is not of the form -oKEY=VALUE"),
        (["--embedded", "--option-flags", "'"], "cannot be read"),
        (["--embedded", "--idle-stop", "soon"], "--idle-stop: 'soon' is not a duration; use seconds, or"),
        (["--embedded", "--idle-stop", "0"], "--idle-stop: '0' is not allowed; leave the option out for never"),
        (["--embedded", "--idle-stop", "1h 30"], "--idle-stop: '1h 30' is not a duration; use seconds, or"),
        (["--embedded", "--send-timeout", "1 hour"], "'1 hour' is not a duration; use seconds, or"),
        (["--embedded", "--send-timeout", "0s"], "--send-timeout must be more than 0"),
        (["--embedded", "--store", "/proc/no/where.sqlite"], "--store /proc/no/where.sqlite"),
        (["--embedded", "--host", "0.0.0.0"], "flux-sidecar token new NAME --file FILE"),
        (["--embedded", "--require-auth"], "No method of authentication is set. Give one or more of"),
        (["--embedded", "--no-auth", "--login-password", "x"], "a method of authentication (login) exclude each other"),
        (["--embedded", "--tokens", "/no/where"], "--tokens /no/where: No such file or directory. Make one with: flux"),
        (["--embedded", "--users", "/no/where"], "--users /no/where: No such file or directory. Make one with: flux"),
        (["--embedded", "--no-auth", "--users", "x"], "a method of authentication (user) exclude each other"),
        (
            ["--embedded", "--metrics-port", "5000"],
            "--metrics-port must be a port from 1 to 65535, and not that of --port",
        ),
        (["--embedded", "--no-tcp"], "give --socket"),
        (["--embedded", "--socket-users", "alice=submit"], "give --socket too"),
        (["--embedded", "--socket", "/tmp/s", "--socket-users", "alice=root"], "scopes are read, submit, admin"),
        (["--embedded", "--oidc-issuer", "http://login.example.org"], "is not HTTPS"),
        (["--embedded", "--oidc-issuer", "https://x.org", "--oidc-scopes", "users"], "is not of the form NAME=SCOPE"),
        (["--embedded", "--kubernetes-auth", "--kubernetes-api", "http://10.0.0.1"], "must start with https://"),
        (
            ["--embedded", "--allowed-origins", "portal.example.org"],
            "is not an origin; write it as https://portal.example.org",
        ),
        (["--embedded", "--trusted-proxies", "ingress"], "--trusted-proxies: 'ingress'"),
        (["--embedded", "--rate-limit", "-1"], "must not be negative"),
        (["--embedded", "--max-streams", "0"], "--max-streams must be more than 0"),
    ],
)
def test_settings_that_cannot_work_are_rejected(arguments: list[str], text: str) -> None:
    done = run_command("serve", *arguments)
    assert done.returncode == 2
    assert text in " ".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_require_auth(value: str) -> None:
    done = run_command("serve", "--embedded", FLUX_REQUIRE_AUTH=value)
    assert done.returncode == 2
    assert "--require-auth (FLUX_REQUIRE_AUTH): No method of authentication is set" in done.stderr


@pytest.mark.parametrize("value", ["0", "false", "No", "off", ""])
def test_require_auth_is_no(value: str) -> None:
    """As in flux-restful 1.1; the start fails later."""
    done = run_command("serve", "--embedded", "--port", "70000", FLUX_REQUIRE_AUTH=value)
    assert done.returncode == 2
    assert "--port 70000 is not a port" in done.stderr


def test_unclear_require_auth_is_refused() -> None:
    """For flux-restful-api 0.2 any value was yes, for 1.1 it is no: neither is guessed."""
    done = run_command("serve", "--embedded", FLUX_REQUIRE_AUTH="maybe")
    assert done.returncode == 2
    assert "got 'maybe'" in " ".join(done.stderr.split())


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Except for options that take text; the option's next variable applies."""
    names = [name for option in table.all_options().values() for name in option.variables]
    others = {name: "" for name in names if name not in ("FLUX_SIDECAR_HOST", "HOST")}
    stderr = run_command("serve", "--embedded", **{**others, "PORT": "99999"}).stderr
    assert "--port 99999 (from the variable PORT)" in stderr
    monkeypatch.setenv("FLUX_SIDECAR_COMPLETION_INDEX", "")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    role = early_role(["serve", "--uri", "local:///f"])
    assert role is not None
    assert role.index == 2


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run_command("serve", "--embedded", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "Choose another --port" in done.stderr


def test_a_port_for_metrics_in_use() -> None:
    """The error names the port and its option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run_command("serve", "--embedded", "--port", "0", "--metrics-port", port)
    assert done.returncode == 2
    assert f"--metrics-port: cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_an_address_of_another_machine() -> None:
    done = run_command("serve", "--embedded", "--port", "0", "--host", "192.0.2.1", "--no-auth")
    assert done.returncode == 2
    assert "--host" in done.stderr


@pytest.mark.parametrize(("path", "text"), [("{}/" + "a" * 200, "107"), ("{}/file/socket", "exists"), ("{}", "in use")])
def test_a_socket_that_cannot_be_made(tmp_path: Path, path: str, text: str) -> None:
    """The error names the socket, not the port."""
    (tmp_path / "file").touch()
    done = run_command("serve", "--embedded", "--port", "0", "--socket", path.format(tmp_path))
    assert done.returncode == 2
    assert "--socket" in done.stderr
    assert text in done.stderr
    assert "--port" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_store_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_command("serve", "--embedded", "--port", "0", "--store", str(tmp_path / "file" / "jobs.sqlite"))
    assert done.returncode == 2
    assert "--port" not in done.stderr


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.5.5.5"])
def test_loopback_needs_no_auth(host: str) -> None:
    loopback = make_settings(embedded=True, host=host)
    loopback.check()
    assert not loopback.authenticates


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "localhost.example.org"])
def test_other_addresses_need_authentication_or_no_auth(host: str) -> None:
    with pytest.raises(SettingsError, match="add --no-auth if that is meant"):
        make_settings(embedded=True, host=host).check()
    make_settings(embedded=True, host=host, no_auth=True).check()
    make_settings(embedded=True, host=host, login_password="a password").check()


def test_warning_about_a_socket_beside_an_open_port() -> None:
    """The socket identifies its users; the port beside it makes every user of the machine admin."""

    def warned(**options: object) -> bool:
        return any("--no-tcp" in text for text in make_settings(embedded=True, **options).warnings())

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
    assert make_settings(idle_stop=text).jobs.idle_stop_seconds == pytest.approx(seconds)


def test_no_idle_stop() -> None:
    assert make_settings().jobs.idle_stop_seconds is None


def test_our_variables_take_precedence_over_the_predecessors() -> None:
    assert table.all_options()["port"].variables == ("FLUX_SIDECAR_PORT", "PORT")
    assert "--port 99999" in run_command("serve", "--embedded", FLUX_SIDECAR_PORT="99999", PORT="5000").stderr
    assert "--port 99999" in run_command("serve", "--embedded", PORT="99999").stderr


def test_warnings_about_variables_of_other_programs() -> None:
    """Also if the server cannot start for another reason."""
    shell = {"HOST": "vm", "PORT": "tcp://10.0.0.1:5000", "FLUX_SIDECAR_METRICS_PORT": "tcp://10.0.0.1:80"}
    stderr = run_command("serve", FLUX_SIDECAR_EMBEDED="1", **shell).stderr
    assert "There is no Flux instance to serve" in stderr
    assert "did you mean FLUX_SIDECAR_EMBEDDED?" in stderr
    assert all(f"{name}={value} is ignored" in stderr for name, value in shell.items())
    given = run_command("serve", "--host", "::1", "--port=0", **shell).stderr
    assert "HOST=" not in given
    assert " PORT=" not in given
    assert "Listening on 0.0.0.0 (from the variable HOST)" in run_command("serve", "--embedded", HOST="0.0.0.0").stderr
    assert "--port 99999 (from the variable PORT)" in run_command("serve", "--embedded", PORT="99999").stderr


def test_a_follower_needs_a_local_broker() -> None:
    done = run_command("serve", "--uri", "ssh://mc-0/run/local", JOB_COMPLETION_INDEX="1")
    assert done.returncode == 2
    assert "This pod is a follower (completion index 1)" in done.stderr
    assert (
        "--follower-wait"
        in run_command("serve", "--uri", "local:///f", "--follower-wait=x", JOB_COMPLETION_INDEX="1").stderr
    )
