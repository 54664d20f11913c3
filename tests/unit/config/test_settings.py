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
from cyclopts import CycloptsError

import sidecar
from docs import generate
from sidecar import cli
from sidecar.config import addresses, options, settings
from sidecar.config.groups import GROUPS
from sidecar.config.settings import Settings
from tests.support.harness import BIN, SIDECAR

ROOT = Path(__file__).parents[3]


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
        (
            ["--embedded", "--metrics-port", "5000"],
            "--metrics-port must be a port from 1 to 65535, and not that of --port",
        ),
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
    assert text in " ".join(done.stderr.replace("│", "").split())
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["1", "true", "false", "anything"])
def test_require_auth_means_yes_whatever_it_holds(value: str) -> None:
    """As the predecessor read it: who has set it to 0 gets a server that asks, and not one that does not."""
    done = run("serve", "--embedded", FLUX_REQUIRE_AUTH=value)
    assert done.returncode == 2
    assert "FLUX_REQUIRE_AUTH" in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("port", "7413.9", "expected a whole number; got '7413.9'"),
        ("port", "30.0", "expected a whole number; got '30.0'"),
        ("port", "1e3", "expected a whole number; got '1e3'"),
        ("port", "9" * 30, "expected a whole number of at most 18 digits"),
        ("max_body", "1.9", "expected a whole number of bytes, as in 1048576 for 1 MiB; got '1.9'"),
        ("max_body", "1M", "expected a whole number of bytes, as in 1048576 for 1 MiB; got '1M'"),
        ("max_in_flight", "64MiB", "expected a whole number of MiB, as in 64; got '64MiB'"),
        ("cores", "half", "expected a whole number; got 'half'"),
        ("rate_limit", "many", "expected a number below 10^12; got 'many'"),
        ("rate_limit", "nan", "expected a number below 10^12; got 'nan'"),
        ("kill_timeout", "999999d", "'999999d' is not a duration; use at most 3650d"),
        ("linger", "inf", "'inf' is not a duration; use at most 3650d"),
        ("embedded", "maybe", "expected true, yes or 1, or false, no or 0; got 'maybe'"),
    ],
)
def test_a_value_of_another_kind_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str, value: str, text: str
) -> None:
    """As a flag and as a variable: the text names which of them it was, and what to write."""
    flag, variable = f"--{option.replace('_', '-')}", f"FLUX_SIDECAR_{option.upper()}"
    assert usage_error(f"{flag}={value}").startswith(f"Invalid value for {flag}: {text}")
    monkeypatch.setenv(variable, value)
    assert usage_error().startswith(f"Invalid value for {variable}: {text}")


def refused(**given: object) -> str:
    """Return why a server with such options does not start."""
    with pytest.raises(options.SettingsError) as caught:
        Settings(embedded=True, **given).check()  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    "host", ["http://localhost", "localhost:5000", "127.0.0.1:80", "300.1.1.1", "", " ", "[::1]", "a b", "-x"]
)
def test_what_is_not_an_address_is_not_listened_on(host: str) -> None:
    text = f"--host: {host!r} is not an address; use a name or an IP address, without scheme, port and brackets"
    assert text in refused(host=host)
    assert text in refused(host=host, no_auth=True)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("http://web.io/", "write the name alone: web.io"),
        ("https://web.io:443", "write the name alone: web.io"),
        ("*", "every name cannot be accepted; list the names, or write *.example.org"),
        (".dot.io", "write *.dot.io for every name below"),
        ("a.*.io", "write a name, as in lead.example.org, or *.example.org"),
        ("*.*.io", "write a name"),
        ("*.", "write a name"),
        ("a..io", "write a name"),
        ("web.io/x", "write a name"),
        ("web.io:port", "write a name"),
        ("a b", "write a name"),
    ],
)
def test_a_host_that_no_request_can_have_is_refused(host: str, text: str) -> None:
    found = refused(allowed_hosts=f"lead.example.org, {host}")
    assert found.startswith(f"--allowed-hosts: {host!r} is not a host name; {text}")


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("Lead.IO:7412", "lead.io"),
        ("lead.io.", "lead.io"),
        ("gateway", "gateway"),
        ("my_host", "my_host"),
        ("*.Example.org:443", "*.example.org"),
        ("10.0.0.1:80", "10.0.0.1"),
        ("::1", "::1"),
        ("[::1]:80", "[::1]"),
    ],
)
def test_allowed_hosts_are_taken_as_requests_have_them(host: str, known: str) -> None:
    assert addresses.allowed_host(host) == known
    Settings(embedded=True, allowed_hosts=host).check()


@pytest.mark.parametrize(
    "page", ["portal.example.org", "https://a.org/x", "https://", "*", "https://*.a.org", "https://a@b.org"]
)
def test_a_page_that_no_browser_names_is_refused(page: str) -> None:
    assert f"--allowed-origins: {page!r} is not an origin; write it as https://" in refused(allowed_origins=page)


def test_pages_are_taken_as_browsers_name_them() -> None:
    pages = ["https://Portal.example.org:443", "http://a.org:80", "http://a.org:443"]
    assert [*map(addresses.origin, pages)] == ["https://portal.example.org", "http://a.org", "http://a.org:443"]


def test_a_network_that_is_not_one_is_refused() -> None:
    assert "'10.0.0.1/8' is not an address or a network; the network of this address is 10.0.0.0/8" in refused(
        trusted_proxies="10.0.0.1/8"
    )
    assert "'ingress' is not an address or a network; write it as 10.0.0.0/8" in refused(trusted_proxies="ingress")


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--allowed-hosts", "give it once, with its values separated by commas"),
        ("--launchers", "give it once, with its values separated by commas"),
        ("--option-flags", "give it once, as in --option-flags='-oKEY=VALUE -oKEY=VALUE'"),
        ("--port", "give it once"),
    ],
)
def test_an_option_that_is_given_twice(flag: str, text: str) -> None:
    assert usage_error(f"{flag}=1", f"{flag}=2") == f"{flag} is given more than once: {text}."


@pytest.mark.parametrize(
    "uri",
    ["foo", "tcp://1.2.3.4", "local:/x", "local://", "ssh://host", "ssh:///x", "loop://", "shmem://x", "/tmp/flux/local", " "],
)  # fmt: skip
def test_an_instance_that_libflux_cannot_connect_to_is_refused(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """It would be tried for ever; also where the variable of Flux itself names it."""
    text = f"{uri!r} is not the address of a Flux instance; use local://PATH or ssh://HOST/PATH"
    monkeypatch.delenv("FLUX_URI", raising=False)
    with pytest.raises(options.SettingsError, match=re.escape(f"--uri: {text}")):
        Settings(uri=uri).check()
    monkeypatch.setenv("FLUX_URI", uri)
    with pytest.raises(options.SettingsError, match=re.escape(f"--uri (from the variable FLUX_URI): {text}")):
        Settings(uri=uri).check()


@pytest.mark.parametrize(
    "uri",
    ["local:///run/flux/local", "local://relative", "ssh://host/run/local", "ssh://me@host:22/x?y", "/", "..", "../..",
     "/ƒ2oKj3/f4", "/123"],
)  # fmt: skip
def test_an_instance_that_libflux_can_connect_to(uri: str) -> None:
    Settings(uri=uri).check()


def usage_error(*arguments: str) -> str:
    """Return what is said of a command line that cannot be parsed."""
    with pytest.raises(CycloptsError) as caught:
        cli.app.parse_args(["serve", *arguments], exit_on_error=False, print_error=False)
    return cli._usage_error(caught.value)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every option but those that take text; the next variable of the option counts instead."""
    names = [name for field in dataclasses.fields(Settings) for name in settings.env_names(field.name)]
    others = {name: "" for name in names if name not in ("FLUX_SIDECAR_HOST", "HOST")}
    stderr = run("serve", "--embedded", **{**others, "PORT": "99999"}).stderr
    assert "--port 99999 (from the variable PORT)" in stderr
    monkeypatch.setenv("FLUX_SIDECAR_COMPLETION_INDEX", "")
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "2")
    found = options.early_role(["serve", "--uri", "local:///f"])
    assert found is not None
    assert found.index == 2


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


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "localhost.example.org"])
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
