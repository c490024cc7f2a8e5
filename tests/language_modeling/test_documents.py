"""Sources of documents (text files, tables, registry packages), and the split to which each document goes."""

import csv
import gzip
import io
import re
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from experiments.harness.errors import DataError
from experiments.language_modeling import documents
from experiments.language_modeling.decode import news_articles, pg19
from experiments.language_modeling.documents import (
    Document,
    Source,
    file_document,
    folded_key,
    folder_source,
    hold_out,
    table_sources,
    text_document,
)
from tests.language_modeling.smoke_runs import write_books
from tests.language_modeling.tables_on_disk import write_json_lines, write_parquet


def texts(source: Source, skip: int = 0) -> list[str]:
    return ["".join(document.pieces()) for document in source(skip)]


def test_a_text_file_is_read_in_pieces_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeffline\r\nnaïve 😀 中文\n\n" * 5
    (tmp_path / "a.txt").write_bytes(text.encode())
    for read_bytes in range(1, 8):  # every character is split at some cut
        monkeypatch.setattr(documents, "READ_BYTES", read_bytes)
        pieces = list(file_document(tmp_path / "a.txt").pieces())
        assert "".join(pieces) == text
        assert max(len(piece.encode()) for piece in pieces) < read_bytes + 4


@pytest.mark.parametrize("read_bytes", [1, 3, 4, 1 << 20])
@pytest.mark.parametrize(("content", "offset"), [(b"abc\xff", 3), ("é😀".encode() + b"\xe4\xb8", 6), (b"\xf0\x9fx", 0)])
def test_invalid_utf_8_is_refused_with_its_byte_offset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, offset: int, read_bytes: int
) -> None:
    monkeypatch.setattr(documents, "READ_BYTES", read_bytes)
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UnicodeDecodeError) as theirs:
        content.decode()
    assert theirs.value.start == offset
    with pytest.raises(DataError, match=rf"bad\.txt is not UTF-8: .* at byte {offset}\."):
        list(file_document(tmp_path / "bad.txt").pieces())


def test_pg19_is_read_from_text_files_and_from_tables(tmp_path: Path) -> None:
    as_files = pg19(str(write_books(tmp_path / "files")))
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        rows = {"short_book_title": ["x"] * len(texts(as_files[split])), "text": texts(as_files[split])}
        write_parquet(tmp_path / "tables" / "data" / f"{name}-00000-of-00001-ab12.parquet", rows)
    as_tables = pg19(str(tmp_path / "tables"))
    for split in ("train", "val", "test"):
        assert texts(as_tables[split]) == texts(as_files[split])
        assert texts(as_tables[split], 2) == texts(as_files[split], 2) == texts(as_files[split])[2:]


def test_table_shards_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for shard in (2, 0, 1):
        rows = {"text": [f"{shard}.{row}" for row in range(4)]}
        write_parquet(tmp_path / f"train-{shard:05d}-of-00003.parquet", rows)
    source = table_sources(str(tmp_path), {"train": "train-*.parquet"})["train"]
    assert texts(source) == [f"{shard}.{row}" for shard in range(3) for row in range(4)]
    for skip in (1, 3, 4, 5, 11, 12):
        assert texts(source, skip) == texts(source)[skip:]


def test_compressed_json_lines_are_read(tmp_path: Path) -> None:
    for number, pages in enumerate((["a", "b \u2028 c"], ["d\n"])):
        write_json_lines(tmp_path / "en" / f"c4-train.{number:05d}-of-01024.json.gz", pages)
    source = table_sources(str(tmp_path), {"train": "en/c4-train.000[01]*.json.gz"})["train"]
    assert texts(source) == ["a", "b \u2028 c", "d\n"]
    assert texts(source, 2) == ["d\n"]


INVALID_TEXT = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"b\xff"], pa.binary()).buffers())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"content": ["a"]}, r"row 0 of .*/t-\*\.parquet has no column text, only content"),
        ({"text": ["a", None]}, r"row 1 of .*/t-\*\.parquet has no text: its text is null"),
        ({"text": [b"a", b"b", b"\xff"]}, r"row 2 of .*/t-\*\.parquet cannot be decoded \(UnicodeDecodeError: .*0xff"),
        ({"text": INVALID_TEXT}, r"t-\*\.parquet cannot be read at row [01] \(.*0xff"),
        (None, r"t-\*\.parquet cannot be read at row 0"),
    ],
)
def test_a_row_without_text_and_a_file_that_is_no_table_are_refused(
    tmp_path: Path, columns: dict[str, Any] | None, message: str
) -> None:
    path = tmp_path / "t-0.parquet"
    if columns:
        write_parquet(path, columns)
    else:
        path.write_bytes(b"<html>not found</html>")
    source = table_sources(str(tmp_path), {"train": "t-*.parquet"})["train"]
    with pytest.raises(DataError, match=message):
        texts(source)


def test_news_articles_get_titles_and_lose_near_duplicates(tmp_path: Path) -> None:
    story = "the minister said on Monday that the bridge over the river will be closed until next spring"
    rows = [
        ("1", "Bridge", story),
        ("2", "Empty", ""),
        ("3", "Bridge, again", f"{story.upper()} at least"),
        ("4", "Note", "more on page two"),
        (
            "5",
            "Fair",
            f"{story} but the fair, with its wheels and its music, goes on as in every other year since 1990",
        ),
    ]
    table = io.StringIO()
    csv.writer(table).writerows([("article_id", "title", "text"), *rows])
    with zipfile.ZipFile(tmp_path / "NewsArticles.zip", "w") as archive:
        archive.writestr("NewsArticles.csv", table.getvalue())
    source = news_articles(str(tmp_path))["train"]
    assert texts(source) == [f"Bridge\n\n{story}", f"Fair\n\n{rows[4][2]}"]
    assert texts(source, 1) == texts(source)[1:]


def test_document_keys_ignore_white_space_case_and_pieces() -> None:
    key = folded_key(text_document("", "The Große\n Straße"))
    assert len(key) == 16
    assert key == folded_key(Document("", lambda: ("the gro", "SSE\t\u00a0stra", "", "sse ")))
    assert key != folded_key(text_document("", "The große Strase"))


@pytest.mark.parametrize(
    "twin",
    [
        "\ufeffCafé Ångström ﬁne",
        "Cafe\u0301 A\u030angstro\u0308m fine",
        "Ca\u200bfé Ång\u00adström\u2060 fi\u200dne",
        "CAFÉ\r\nÅNGSTRÖM\u2028\u3000fine",
    ],
)
def test_texts_that_look_the_same_have_the_same_key(twin: str) -> None:
    key = folded_key(text_document("", "Café Ångström fine"))
    assert folded_key(text_document("", twin)) == key
    assert folded_key(Document("", lambda: list(twin))) == key
    assert folded_key(text_document("", "Cafe Angstrom fine")) != key


@example("İ\u0323", [])
@example("İ\u200b\u0323a", [])
@example("ẛ\ufe0f\u0323", [])
@given(
    st.text(st.sampled_from("aeiİß\u017f ﬁ\u0301\u0327\u0323\u200b\ufeff가ㄱ\n")),
    st.lists(st.integers(0, 20), max_size=4).map(sorted),
)
def test_document_keys_do_not_depend_on_pieces_or_unicode_normalization(text: str, cuts: list[int]) -> None:
    key = folded_key(text_document("", text))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, None], strict=True)]
    assert folded_key(Document("", lambda: pieces)) == folded_key(Document("", lambda: list(text))) == key
    for form in ("NFC", "NFD"):
        assert folded_key(text_document("", unicodedata.normalize(form, text))) == key


def test_files_other_than_txt_are_skipped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in (("b.txt", b"b"), ("A.TXT", b"a"), ("._b.txt", b"\0\5\x16\7"), (".DS_Store", b"x")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "more").mkdir()
    for name in ("more/c.txt", "d.txt.gz", "e.text"):
        (tmp_path / name).write_bytes(b"x")
    assert texts(folder_source(tmp_path)) == ["a", "b"]
    assert "3 files of" in caplog.text
    assert all(name in caplog.text for name in ("more/c.txt", "d.txt.gz", "e.text"))
    with pytest.raises(DataError, match="there is no folder"):
        folder_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty contains no \.txt file"):
        folder_source(tmp_path / "empty")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-16"])
@pytest.mark.parametrize("text", ["A plain English text, long enough.", "Простой русский текст."])
def test_utf_16_and_utf_32_files_are_refused(tmp_path: Path, encoding: str, text: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"a\.txt is n"):
        list(file_document(tmp_path / "a.txt").pieces())


def test_a_malformed_json_row_is_refused_with_its_file(tmp_path: Path) -> None:
    for shard in range(2):
        write_json_lines(tmp_path / f"c4.{shard}.json.gz", [f"page {shard} {row}" for row in range(30)])
    for line in (b'{"text": "cut', b"[1]", b'{"text": null}', b'{"text": 5}', b'{"txt": "a"}', b'{"text": "\xff"}'):
        lines = gzip.decompress((tmp_path / "c4.0.json.gz").read_bytes()).splitlines(keepends=True)
        (tmp_path / "c4.1.json.gz").write_bytes(gzip.compress(b"".join([*lines[:17], line + b"\n", *lines[17:]])))
        source = table_sources(str(tmp_path), {"train": "c4.*.json.gz"})["train"]
        read = []
        with pytest.raises(DataError, match=r"row 47\b.*row 17 of c4\.1\.json\.gz"):  # noqa: PT012
            for document in source(40):
                read.append("".join(document.pieces()))
        assert len(read) == 7, "all rows before it"


def test_a_truncated_file_is_refused_with_its_row(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "c4.0.json.gz", [f"{row} {zlib.crc32(b'%d' % row)}" for row in range(5000)])
    content = (tmp_path / "c4.0.json.gz").read_bytes()
    (tmp_path / "c4.0.json.gz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cannot be read at row \d+ \(EOFError: .*\): row \d+ of c4\.0\.json\.gz"):
        texts(table_sources(str(tmp_path), {"train": "c4.*.json.gz"})["train"])


def test_a_documents_split_depends_only_on_its_text() -> None:
    documents = [text_document("", f"text {number}") for number in range(4000)]

    def split(ordered: list[Document]) -> dict[str, list[str]]:
        return {name: texts(source) for name, source in hold_out(lambda skip: iter(ordered[skip:]), 0.1).items()}

    found = split(documents)
    assert sorted(text for part in found.values() for text in part) == sorted(
        f"text {number}" for number in range(4000)
    )
    assert all(abs(len(found[name]) - 400) < 4 * (4000 * 0.1 * 0.9) ** 0.5 for name in ("val", "test"))
    reversed_order = split(documents[::-1])
    assert {name: set(part) for name, part in found.items()} == {n: set(part) for n, part in reversed_order.items()}
    shouted = split([text_document("", f" TEXT  {number}\n") for number in range(4000)])
    assert {name: re.findall(r"\d+", "".join(part)) for name, part in shouted.items()} == {
        name: [text.split()[1] for text in part] for name, part in found.items()
    }
