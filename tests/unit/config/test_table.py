"""The table of all options."""

from __future__ import annotations

from sidecar.config import table
from tests.support.command_line import run_command


def test_every_option_is_in_the_help() -> None:
    text = run_command("serve", "--help").stdout
    for option in table.all_options().values():
        assert option.flag in text
        assert option.variables[0] == "FLUX_SIDECAR_" + option.name.upper()
    assert all(f"─ {title} ─" in text for title in table.by_group())
    assert "flux start flux-sidecar serve" in text.partition("Examples:")[2]


def test_options_of_several_values_exist() -> None:
    assert table.LISTS - {"scopes"} <= table.all_options().keys()  # that one is of `token new`


def test_choices_and_negative_flags_are_documented() -> None:
    options = {option.flags: option for option in table.all_options().values()}
    assert "`console`, `json`" in options["`--log-format`"].description
    assert "`read`, `submit`, `admin`" in options["`--tls-client-scope`"].description
    assert options["`--tcp`, `--no-tcp`"].shown_default == "yes"
    assert "`--no-auth`" in options
