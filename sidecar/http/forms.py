"""Parse forms of both encodings (HTML Standard 4.10.21, RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from aiohttp import web
from multidict import MultiDict

from sidecar.domain.errors import InvalidRequest
from sidecar.http import percent
from sidecar.http.faults import quote_name

MULTIPART = "multipart/form-data"
URLENCODED = "application/x-www-form-urlencoded"
_MAX_FIELDS = 1000
_MAX_BOUNDARY = 200  # characters; 70 in RFC 2046
_MAX_PART_HEAD = 512  # bytes of a field's headers
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110's term
_PARAMETER = re.compile(rf';[ \t]*({_TOKEN})=(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*')


def parse(request: web.Request, raw: bytes) -> MultiDict[str]:
    """Parse a form, in which names may repeat.

    Raises:
        InvalidRequest: the form is malformed or contains files.
    """
    if request.content_type == MULTIPART:
        return MultiDict(_parts(_boundary(request), raw))
    if raw.count(b"&") >= _MAX_FIELDS:
        raise _too_many()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequest("The form cannot be read: it is not UTF-8.") from None
    return MultiDict(percent.pairs(text))


def _boundary(request: web.Request) -> bytes:
    from email.message import Message

    message = Message()
    message["Content-Type"] = request.headers["Content-Type"]
    boundary = message.get_param("boundary")
    if not isinstance(boundary, str) or not boundary or len(boundary) > _MAX_BOUNDARY or not boundary.isascii():
        raise InvalidRequest("The form cannot be read: its Content-Type names no boundary.")
    return boundary.encode()


def _parts(boundary: bytes, raw: bytes) -> Iterator[tuple[str, str]]:
    delimiter = b"\r\n--" + boundary
    data = b"\r\n" + raw
    if data.count(delimiter) > _MAX_FIELDS + 1:
        raise _too_many()
    _, *parts = data.split(delimiter)
    if not parts or not parts[-1].startswith(b"--"):
        raise InvalidRequest("The form cannot be read: its end is missing.")
    for part in parts[:-1]:
        head, empty, value = part.partition(b"\r\n\r\n")
        name = _name(head) if len(head) <= _MAX_PART_HEAD else ""
        if not empty or not name:
            raise InvalidRequest("The form cannot be read: a field has no name.")
        try:
            yield name, value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(f"{quote_name(name)}: the text is not UTF-8.") from None


def _name(head: bytes) -> str:
    """Return the name of a field from the headers of its part.

    Raises:
        InvalidRequest: the field is a file, encoded, or not UTF-8.
    """
    name = ""
    try:
        lines = head.decode().split("\r\n")
    except UnicodeDecodeError:
        raise InvalidRequest("The form cannot be read: the name of a field is not UTF-8.") from None
    for line in lines:
        header, _, text = line.partition(":")
        if header.strip().lower() == "content-disposition":
            kind, separator, rest = text.partition(";")
            parameters = _parameters(separator + rest)
            if kind.strip().lower() != "form-data" or any(each.startswith("filename") for each in parameters):
                raise InvalidRequest("Files are not supported: send the fields of the form as text.")
            name = parameters.get("name", "")
        elif header.strip().lower() == "content-transfer-encoding" and text.strip().lower() not in (
            "7bit",
            "8bit",
            "binary",
        ):
            raise InvalidRequest("Content-Transfer-Encoding: none is supported; send fields unencoded.")
    return name


def _parameters(text: str) -> dict[str, str]:
    """Return the parameters of a Content-Disposition.

    aiohttp's parser would warn of each malformed one, and Python keeps the text of every warning.

    Args:
        text: from the first semicolon on.

    Raises:
        InvalidRequest: a parameter is malformed or repeated.
    """
    parameters: dict[str, str] = {}
    text, position = text.strip(), 0
    while position < len(text):
        match = _PARAMETER.match(text, position)
        if match is None or match[1].lower() in parameters:
            raise InvalidRequest("The form cannot be read: a field's Content-Disposition is malformed.")
        position = match.end()
        parameters[match[1].lower()] = match[3] or re.sub(r"\\(.)", r"\1", match[2] or "")
    return parameters


def _too_many() -> InvalidRequest:
    return InvalidRequest(f"The form has more than {_MAX_FIELDS} fields.")
