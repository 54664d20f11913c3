"""Percent-encoded text: refuse bytes that are not UTF-8, which parsers replace by U+FFFD."""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote_plus, unquote_to_bytes

from sidecar.domain.errors import InvalidRequest
from sidecar.http.faults import quote, quote_name

_MAX_NAME = 200  # characters of a parameter's name in an error
_ADVICE = "the text is not UTF-8; percent-encode it as UTF-8 (é is %C3%A9)."


def check(path: str, query: str) -> None:
    """Check that an address is UTF-8.

    Args:
        path: percent-encoded.
        query: percent-encoded.

    Raises:
        InvalidRequest: it is not; the error names each parameter.
    """
    if "%" in path and not _is_utf8(path):
        raise InvalidRequest(f"The path: {_ADVICE}")
    if "%" in query and not _is_utf8(query):
        raise _faults(query)


def pairs(form: str) -> list[tuple[str, str]]:
    """Return the names and values of a URL-encoded form.

    Raises:
        InvalidRequest: their text is not UTF-8; the error names each parameter.
    """
    try:
        return parse_qsl(form, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        raise _faults(form) from None


def _faults(text: str) -> InvalidRequest:
    errors = [f"{_name(pair)}: {_ADVICE}" for pair in text.split("&") if not _is_utf8(pair)]
    return InvalidRequest(" ".join(errors), errors=errors)


def _name(pair: str) -> str:
    name = pair.partition("=")[0][:_MAX_NAME]
    return quote_name(unquote_plus(name)) if _is_utf8(name) else quote(name)


def _is_utf8(text: str) -> bool:
    try:
        unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return False
    return True
