"""One source file as examples and refused rows, in the order of its lines.

Where files are belongs in `locations.py`, how bytes become lines in `lines.py`, what a row of each format must
look like in `formats.py` and `csv_rows.py`. This file joins them and judges the file as a whole.
"""

import io
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

from finetune_platform.curation.csv_rows import column_positions, line_too_long, read_record, read_records
from finetune_platform.curation.document_rows import read_bytes, read_document
from finetune_platform.curation.formats import Draft, OtherFormat, parse_json, read_row
from finetune_platform.curation.lines import BOM, HashingStream, Line, read_lines
from finetune_platform.curation.rejections import RefusedRow, Rejected, rejected
from finetune_platform.errors import BadInput
from finetune_platform.locations import SourceFile
from finetune_platform.manifests import SourceRecord
from finetune_platform.rows import Example
from finetune_platform.task import JSON_LINES, Curation, Source, SourceFormat


class SourceReader:
    """Reads one file once; what it found as a whole stands in `record` afterwards.

    Args:
        file: The file.
        source: Its entry in the task file.
        curation: `max_line_mb` and `max_rejected_share` are used.
    """

    def __init__(self, file: SourceFile, source: Source, curation: Curation) -> None:
        self.file, self.source, self.curation = file, source, curation
        self.max_bytes = int(curation.max_line_mb * 1_000_000)
        self.reasons: Counter[str] = Counter()
        self.first: dict[str, Rejected] = {}
        self.bytes_read = 0
        self.record = SourceRecord(uri=file.uri, sha256="", format=source.format, rows=0, rejected=0)
        self._first_row = 0
        self._head = b""
        self._other: SourceFormat | None = None

    def read(self) -> Iterator[Example | Rejected]:
        """Every row that is not blank: an example, or the reason why not.

        Raises:
            BadInput: The file as a whole is wrong: empty, of another format, of two formats, not UTF-8 at all.
        """
        hashing = HashingStream(self.file.open())
        with io.BufferedReader(hashing, 1 << 18) as stream:
            for row in self._rows(stream):
                self.bytes_read = hashing.bytes_read
                self._count(row)
                yield row
            while stream.read(1 << 20):
                pass
        self.record.sha256 = hashing.sha256
        self._judge()

    def _rows(self, stream: BinaryIO) -> Iterator[Example | Rejected]:
        if self.source.format == "csv":
            return self._csv(stream)
        if self.source.format == "text" and not self.file.uri.lower().endswith(JSON_LINES):
            return self._document(stream)
        return self._json_lines(stream)

    def _document(self, stream: BinaryIO) -> Iterator[Example | Rejected]:
        data = read_bytes(stream, self.max_bytes + len(BOM))
        self._expect_no_utf16(data)
        try:
            yield self._example(read_document(data.removeprefix(BOM), self.max_bytes), 1)
        except RefusedRow as refusal:
            yield rejected(self.file.uri, 1, refusal, data)

    def _json_lines(self, stream: BinaryIO) -> Iterator[Example | Rejected]:
        for line in self._lines(stream):
            if line.blank:
                continue
            try:
                if not line.complete:
                    raise line_too_long(line)
                yield self._example(read_row(parse_json(line.data), self.source.format), line.number)
            except RefusedRow as refusal:
                if isinstance(refusal, OtherFormat):
                    self._other = self._other or refusal.looks_like
                yield rejected(self.file.uri, line.number, refusal, line.data)

    def _csv(self, stream: BinaryIO) -> Iterator[Example | Rejected]:
        assert self.source.columns is not None  # the task model refuses csv without them
        records = read_records(self._lines(stream), self.file.uri, self.max_bytes)
        header = next(records, None)
        if header is None:
            return
        if looks_like_json(header.content):
            raise self._other_format("JSON lines", "messages, or another one of JSON lines,", header.number)
        place = f"{self.file.uri}:{header.number}"
        positions = column_positions(header.fields, self.source.columns, place)
        width = len(header.fields) if isinstance(header.fields, list) else 0
        for number, fields, content in records:
            try:
                if isinstance(fields, RefusedRow):
                    raise fields
                yield self._example(read_record(fields, positions, width, self.source.columns.row_format), number)
            except RefusedRow as refusal:
                yield rejected(self.file.uri, number, refusal, content)

    def _lines(self, stream: BinaryIO) -> Iterator[Line]:
        for line in read_lines(stream, self.max_bytes):
            if line.number == 1:
                self._expect_no_utf16(line.data)
            if not self._head and not line.blank:
                self._head = line.data[:4096]
            yield line

    def _expect_no_utf16(self, beginning: bytes) -> None:
        if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise BadInput(f"{self.file.uri}:1: the file is UTF-16", "save it as UTF-8")

    def _example(self, draft: Draft, number: int) -> Example:
        messages = draft.messages
        if self.source.replace_system_prompt and not draft.own_system_prompt:
            messages = [m for m in messages if m.role != "system"]
        return Example(
            kind=draft.kind,
            messages=messages,
            rejected=draft.rejected,
            desirable=draft.desirable,
            text=draft.text,
            tools=draft.tools,
            task_type=draft.task_type,
            difficulty=draft.difficulty,
            label_source=self.source.label_source,
            source_uri=self.file.uri,
            source_row=number,
            group_id=draft.group,
        )

    def _count(self, row: Example | Rejected) -> None:
        if isinstance(row, Example):
            self.record.rows += 1
            self._first_row = self._first_row or row.source_row
        else:
            self.record.rejected += 1
            self.reasons[row.reason] += 1
            self.first.setdefault(row.reason, row)

    def _judge(self) -> None:
        rows, refused, mixed = self.record.rows, self.record.rejected, self.reasons["mixed_format"]
        if rows + refused == 0 and not self.source.optional:
            content = "has a header and no rows" if self._head else "is empty"
            raise BadInput(f"{self.file.uri}: the file {content}", "put rows into it, or take it out of sources")
        if rows == 0 and self._other:
            raise self._other_format(self._other, self._other, self.first["mixed_format"].source_row)
        if rows == 0 and self.reasons["invalid_json"] == refused > 0:
            self._judge_kind()
        if mixed > self.curation.max_rejected_share * (rows + refused):
            raise BadInput(
                f"{self.file.uri}: two formats in one file: {self.source.format} first at line {self._first_row}, "
                f"another at {mixed:,} of {rows + refused:,} rows. {self.first['mixed_format'].detail}",
                "split the file in two and give each its own entry and format under sources",
            )

    def _judge_kind(self) -> None:
        """A JSON source without one JSON line: is it another kind of file?"""
        number = self.first["invalid_json"].source_row
        if self._head.lstrip().startswith(b"[") or self._head.strip() == b"{":
            raise self._other_format("one JSON document over many lines", "", number)
        if b"," in self._head and not looks_like_json(self._head):
            raise self._other_format("CSV", "csv", number)

    def _other_format(self, looks: str, right: str, number: int) -> BadInput:
        return BadInput(
            f"{self.file.uri}:{number}: the source's format is {self.source.format}, but the file looks like {looks}",
            f"set format: {right} for this source" if right else "write one JSON object a line",
        )


def looks_like_json(head: bytes) -> bool:
    """Whether a file's first line opens a JSON value."""
    return head.lstrip().startswith((b"{", b"["))
