"""The documents name tests as evidence: each of them exists, under the name that is given."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]
_DOCS = _TESTS.parent / "docs"
#: The short names of folders that security.md uses; docs/design.md writes paths in full.
_FOLDERS = {"C": "contract", "U": "unit", "F": "flux"}
_CODE = re.compile(r"`([^`]+)`")


def _named(document: str) -> list[tuple[str, str]]:
    """Return file and test (empty: the whole file) of every reference in the tables of a document."""
    references = []
    for line in (_DOCS / document).read_text().splitlines():
        if not line.startswith("|"):
            continue
        folder, file = "", ""
        for part in re.split(r"(\b[CUF] (?=`)|`[^`]+`)", line.rpartition("|")[0].rpartition("|")[2]):
            if part.strip() in _FOLDERS:
                folder = _FOLDERS[part.strip()]
            elif match := _CODE.fullmatch(part):
                path, _, test = match[1].partition("::")
                if path.endswith(".py") and path.rpartition("/")[2].startswith("test_"):
                    file = f"{folder}/{path}" if folder else path
                    references.append((file, test))
                elif path.startswith("test_") and file:
                    references.append((file, path))
    return references


@pytest.mark.parametrize("document", ["security.md", "design.md"])
def test_every_test_that_a_table_names_exists(document: str) -> None:
    references = _named(document)
    assert references, "the tables name no test: the pattern no longer fits the document"
    for file, test in references:
        path = _TESTS / file
        assert path.is_file(), f"{document} names {file}, which does not exist"
        if test:
            name = test.partition("[")[0]
            assert re.search(rf"^\s*(async )?def {name}\(", path.read_text(), re.MULTILINE), (
                f"{document} names {file}::{test}, which does not exist"
            )
