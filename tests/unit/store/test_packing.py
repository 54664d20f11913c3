"""The encoding of cells: a file can be read by every later server, and any content comes back as it was."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.store import dictionary
from sidecar.store.packing import Damaged, is_checked, packed, packed_entries, unpacked
from tests.support import train_dictionary

DOCUMENT = (
    '{"id":123,"f58id":"ƒ3Kk","userid":0,"username":"root","submitter":"","urgency":16,"priority":16,'
    '"state":"INACTIVE","result":"COMPLETED","returncode":0,"name":"café","command":["sleep","1"]}'
).encode()
ENTRIES = (
    b'[{"timestamp":1790000000.5,"name":"submit","context":{"userid":0,"urgency":16,"flags":0,"version":1},'
    b'"state":"NEW"},{"timestamp":1790000000.75,"name":"validate","state":"DEPEND"}]'
)
#: Cells that servers have written.
WRITTEN = {
    b"\x01$\xbfe\x01\x00\xa8233Kkaf\xc3\xa9sleep\",\"1\"]}\x06\x004\x84$\x1f\xc1\x17d\x13\x91\x82\x1dAn(\x11\x1c\x91d\"\x08R\xdd1\x85": DOCUMENT,
    b"\x01 \xb3\xf5\x00\x00090.57]\x07\x00\xf5g\x80\x1b\xe1\xd9X\x8bV?O D.\x187\xe0\x9d\x10\x18\x04": ENTRIES,
    b"\x03$\xbf%\x01\x00h123Kkaf\xc3\xa91\"]}\x06\xfc\xe7\xd0\x06,\xa1@\x0f,\xcf\x13\xe2Sah\xdf)\xdf\x1c\xda\x04R\xdd1\x85": DOCUMENT,
    b"\x03 \xb35\x01\x00(90.7]\x0b\xfc%F\xfa\xebi\xca\xb3\xdf\xb3\xd8\xa8CM\x00D\xf4\xf9\xae9>E<\xc7pL\xa6\xa6\x95\xc8\n": ENTRIES,
    DOCUMENT: DOCUMENT,
}  # fmt: skip


@pytest.mark.parametrize("cell", WRITTEN, ids=["first", "first-entries", "second", "second-entries", "json"])
def test_cells_of_earlier_servers(cell: bytes) -> None:
    assert unpacked(cell) == WRITTEN[cell]


def test_dictionaries_do_not_change() -> None:
    digests = [hashlib.sha256(text).hexdigest()[:16] for text in (dictionary.FIRST, dictionary.SECOND)]
    assert digests == ["95aef0a16a6da5e0", "7c180e1cd5191fd0"]


@given(st.binary(max_size=300) | st.sampled_from([DOCUMENT, b"{}", b"[" + b"0," * 100_000 + b"0]"]))
def test_any_document_comes_back(content: bytes) -> None:
    text = json.dumps({"name": content.decode(errors="replace")}).encode()
    assert unpacked(packed(text)) == text


def test_one_changed_bit_is_found() -> None:
    cell = packed(DOCUMENT)
    assert is_checked(cell)
    for bit in range(8, 8 * len(cell)):
        changed = bytearray(cell)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            found = unpacked(bytes(changed))
        except Damaged:
            continue
        assert found == DOCUMENT  # a bit of the frame that has no meaning


def test_an_impossible_size_is_refused_at_once() -> None:
    with pytest.raises(Damaged, match="size"):
        unpacked(b"\x03\xe4" + (1 << 50).to_bytes(8, "little") + packed(DOCUMENT)[4:])


def test_documents_of_any_words_become_small() -> None:
    texts = [text for text, _ in zip(train_dictionary.samples(seed=2), range(3000), strict=False)]
    rows = [text for text in texts if text.startswith(b"[")]
    documents = [text for text in texts if not text.startswith(b"[")]
    assert sum(len(packed(text)) for text in documents) < 0.3 * sum(map(len, documents))
    assert sum(len(packed_entries([text])) for text in rows) < 0.25 * sum(map(len, rows))
