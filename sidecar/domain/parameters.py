"""Parse the parameters of a submit that clients may write in several ways: command, envars and dependencies."""

from __future__ import annotations

import ast
import json
import re
import shlex

from sidecar.domain import json_size, untrusted
from sidecar.domain.errors import InvalidRequest

_DEPENDENCY = re.compile(r"([A-Za-z][A-Za-z0-9_.-]*):(.+)")
_INVALID = "Invalid submit request"
_LONGEST_TEXT = 64 * 1024  # characters of a text that Python parses word by word, which blocks the event loop
#: A word that a shell interprets as an operator, or that begins with a redirection.
_OPERATOR = re.compile(r"(?<!\S)(?:\|\|?|&&?|;|\d?>>?(?:&\d)?|<<?)(?!\S)")


def parse_command(command: str | list[str]) -> list[str]:
    """Split a command into words as a POSIX shell would, without running a shell.

    Raises:
        InvalidRequest: the command is empty, or a quote is not closed.
    """
    if isinstance(command, list):
        words = command
    else:
        if len(command) > _LONGEST_TEXT:
            raise InvalidRequest(
                f"command: longer than {_LONGEST_TEXT} characters; send it as a list.", message=_INVALID
            )
        try:
            words = shlex.split(command)
        except ValueError as exc:
            text = f"command: {exc}: {command!r}. Close the quote, or send the command as a list of words."
            raise InvalidRequest(text, message=_INVALID) from None
    if not words or not words[0]:
        raise InvalidRequest("A 'command' is minimally required.")
    return words


def shell_warning(command: str | list[str]) -> str:
    """Return a warning if a command contains an operator that only a shell would interpret; otherwise empty.

    Args:
        command: as :func:`parse_command` accepts it. The words of a list are taken literally.
    """
    if isinstance(command, list) or not _OPERATOR.search(command):
        return ""
    words = shlex.split(command)
    operator = next((word for word in words[1:] if _OPERATOR.fullmatch(word)), None)
    if operator is None:  # it is in quotes
        return ""
    return f"command: {operator!r} is passed to {words[0]} as an argument: no shell runs the command. Use sh -c '...'."


def parse_envars(value: dict[str, str] | str | None, name: str = "envars") -> dict[str, str]:
    """Return the variables of ``envars``: an object, its JSON text, or the ``repr`` that the PyPI client sends.

    Args:
        value: of the parameter.
        name: of the parameter, for errors.

    Raises:
        InvalidRequest: it is not an object of strings.
    """
    if not value:
        return {}
    members = json_size.count(value.encode(errors="replace")) if isinstance(value, str) else len(value)
    json_size.check(name, members, _INVALID)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            try:
                value = ast.literal_eval(str(value)) if len(str(value)) <= _LONGEST_TEXT else None
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                value = None
    if not isinstance(value, dict) or not all(isinstance(k, str) and isinstance(v, str) for k, v in value.items()):
        raise InvalidRequest(f'{name}: give an object of strings, {{"NAME": "value"}}.', message=_INVALID)
    for variable, text in value.items():
        if not variable or "=" in variable:
            raise InvalidRequest(f"{name}: {variable!r} is not a variable's name.", message=_INVALID)
        if fault := untrusted.unusable(variable) or untrusted.unusable(text):  # JSON in a text is not checked before
            raise InvalidRequest(f"{name}: {untrusted.shown(variable)}: {fault}.", message=_INVALID)
    return value


def parse_dependencies(value: list[str] | str | None) -> list[dict[str, str]]:
    """Return dependencies, ``afterok:ƒ…``, from a list or a text that is separated by commas.

    Raises:
        InvalidRequest: one is not of the form SCHEME:VALUE.
    """
    json_size.check("dependencies", value.count(",") if isinstance(value, str) else len(value or ()), _INVALID)
    dependencies = []
    for text in value.split(",") if isinstance(value, str) else value or []:
        match = _DEPENDENCY.fullmatch(text.strip())
        if not match:
            raise InvalidRequest(f"dependencies: {text!r} is not SCHEME:VALUE, such as afterok:ƒ….", message=_INVALID)
        dependencies.append({"scheme": match[1], "value": match[2]})
    return dependencies
