"""The table of all options: for the documentation, for error texts, and to clean the environment."""

from __future__ import annotations

import dataclasses
import functools
import os
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from sidecar.config import options
from sidecar.config.settings import Settings
from sidecar.config.variables import find_foreign

LISTS = frozenset(
    {
        "allowed_hosts",
        "allowed_origins",
        "trusted_proxies",
        "socket_users",
        "oidc_scopes",
        "launchers",
        "scopes",
        "oidc_admins",
        "job_environment",
    }
)
"""Options that take several values, separated by commas."""


class Option(NamedTuple):
    """An option of ``serve``."""

    name: str
    group: str
    """Title of its group."""
    kind: Any
    """Type of its value."""
    default: object
    help: str
    variables: tuple[str, ...]
    """In order of precedence."""
    can_be_negated: bool
    """Whether there is a flag ``--no-NAME``."""

    @property
    def flag(self) -> str:
        """Its flag."""
        return options.flag(self.name)

    @property
    def flags(self) -> str:
        """Its flags for the documentation."""
        return f"`{self.flag}`, `--no-{self.flag[2:]}`" if self.can_be_negated else f"`{self.flag}`"

    @property
    def shown_default(self) -> str:
        """Its default for the documentation."""
        return {"": "", "True": "yes", "False": ""}.get(str(self.default), f"`{self.default}`")

    @property
    def description(self) -> str:
        """Its help for the documentation, with the values to choose from."""
        if typing.get_origin(self.kind) is not Literal:
            return self.help
        choices = ", ".join(f"`{value}`" for value in typing.get_args(self.kind))
        return f"{self.help} One of {choices}."


@functools.cache
def all_options() -> dict[str, Option]:
    """Return every option by name, in the order of ``--help``."""
    table = {}
    groups = typing.get_type_hints(Settings).values()
    for group in groups:
        hints = typing.get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            kind, parameter = hints[field.name].__origin__, hints[field.name].__metadata__[0]
            table[field.name] = Option(
                name=field.name,
                group=options.TITLES[group],
                kind=kind,
                default=field.default,
                help=parameter.help,
                variables=tuple(parameter.env_var),
                can_be_negated=kind is bool and parameter.negative is None,
            )
    return table


def by_group() -> dict[str, list[Option]]:
    """Return every option by the title of its group."""
    groups: dict[str, list[Option]] = {}
    for option in all_options().values():
        groups.setdefault(option.group, []).append(option)
    return groups


def clean_environment(arguments: Sequence[str]) -> list[str]:
    """Remove variables from the environment that are not settings of this server.

    Empty variables of options that do not take text are removed too: manifests contain them for values that were left
    out.

    Args:
        arguments: of the command line; if an option's flag is given, its variable is ignored without a warning.

    Returns:
        Warnings about variables that are ignored or misspelled.
    """
    table = all_options().values()
    _remove_empty(name for option in table if option.kind is not str for name in option.variables)
    given = {flag for argument in arguments if (flag := argument.partition("=")[0]).startswith("--")}
    owners = {name: option for option in table for name in option.variables}
    foreign = find_foreign(os.environ, owners)
    warnings = list(foreign.unknown)
    for name, text in foreign.ignored.items():
        del os.environ[name]
        option = owners[name]
        if option.flag not in given and option.variables[0] not in os.environ:
            warnings.append(text)
    return warnings


def _remove_empty(names: Iterable[str]) -> None:
    for name in names:
        if os.environ.get(name) == "":
            del os.environ[name]
