"""Rows of a CSV file (RFC 4180: commas, double quotes, line ends inside quotes) by the task's column mapping.

JSON lines belong in `formats.py`.
"""

import csv
from collections.abc import Iterator
from typing import Any, NamedTuple

from finetune_platform.curation.formats import Draft, read_row
from finetune_platform.curation.lines import Line
from finetune_platform.curation.rejections import RefusedRow, nearest, shown
from finetune_platform.errors import BadInput
from finetune_platform.rows import Message
from finetune_platform.task import CsvColumns, SourceFormat

LABELS = {"true": True, "1": True, "false": False, "0": False}
"""How a cell says whether an answer is wanted."""

_TOO_LONG = "too long\n"
"""Stands for a line that was not loaded."""


class CsvRecord(NamedTuple):
    """One record: the line it starts on, its fields or what is wrong, and its first bytes."""

    number: int
    fields: list[str] | RefusedRow
    content: bytes


def read_records(lines: Iterator[Line], place: str, max_bytes: int) -> Iterator[CsvRecord]:
    """Every record that is not blank, the header among them.

    Args:
        lines: The file's lines.
        place: The file, as messages name it.
        max_bytes: Longest record; only a quote that is never closed makes a longer one.

    Raises:
        BadInput: A quote is never closed, so that nothing after it can be read.
    """
    # The module's limit of 131,072 characters a field is below what `curation.max_line_mb` promises.
    csv.field_size_limit(max(csv.field_size_limit(), max_bytes))
    feed = _Feed(lines)
    reader = csv.reader(feed, strict=True)
    while True:
        feed.start_record()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error) or "field larger" in str(error):
                raise BadInput(
                    f"{place}:{feed.first}: a quote opened here is never closed; the lines after it cannot be read",
                    'close the quote, and write a quote inside a field as ""',
                ) from error
            yield CsvRecord(feed.first, RefusedRow("invalid_csv", f"not CSV: {error}"), feed.content)
            continue
        if fields:
            yield CsvRecord(feed.first, _checked(fields, feed), feed.content)


def column_positions(header: list[str] | RefusedRow, columns: CsvColumns, place: str) -> dict[str, int]:
    """Where each mapped column stands, by its name in `columns:`.

    Raises:
        BadInput: A column is not in the header, or stands there twice.
    """
    if isinstance(header, RefusedRow):
        raise BadInput(f"{place}: the header cannot be read: {header.detail}", "correct the first line of the file")
    names = [name.strip() for name in header]
    positions = {}
    for field, name in columns.model_dump(exclude_none=True).items():
        if names.count(name) == 1:
            positions[field] = names.index(name)
            continue
        if name in names:
            problem = f'column "{name}" stands in the header {names.count(name)} times'
        else:
            problem = f'column "{name}" is not in the header ({shown_header(names)}){nearest(name, names)}'
        raise BadInput(f"{place}: {problem}", f"correct columns.{field} in the task file, or the header")
    return positions


def read_record(fields: list[str], positions: dict[str, int], width: int, fmt: SourceFormat) -> Draft:
    """One record as a draft: a row of the JSON format `fmt`, whose keys the mapped columns are.

    Raises:
        RefusedRow: It has more or fewer fields than the header, or is no good row of that format.
    """
    if len(fields) != width:
        raise RefusedRow("wrong_columns", f"the row has {len(fields)} fields, the header {width}")
    values: dict[str, Any] = {field: fields[position] for field, position in positions.items()}
    system = values.pop("system", "").replace("\r\n", "\n")
    if fmt == "unpaired_preference":
        values["label"] = LABELS.get(values["label"].strip().lower(), values["label"])
    draft = read_row(values, fmt)
    if not system.strip():
        return draft
    return draft._replace(messages=[Message(role="system", content=system), *draft.messages], own_system_prompt=True)


def shown_header(names: list[str]) -> str:
    """The header as a message quotes it, with a hint where commas are not what separates it."""
    for separator, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(names) == 1 and separator in names[0]:
            return f"{shown(names[0])}: separated by {called}; save it with commas"
    return ", ".join(names[:12]) + (", …" if len(names) > 12 else "")


class _Feed:
    """Lines as text for `csv.reader`, remembering which of them made the current record."""

    def __init__(self, lines: Iterator[Line]) -> None:
        self._lines = lines
        self.start_record()

    def start_record(self) -> None:
        self.first = 0
        self.content = b""
        self.too_long: Line | None = None

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        while not self.first and line.blank:
            line = next(self._lines)
        self.first = self.first or line.number
        if len(self.content) < 4096:
            self.content += line.data + b"\n"
        if not line.complete:
            self.too_long = line
            return _TOO_LONG
        # Bytes that are not UTF-8 travel as lone surrogates, so that quoting is still read right.
        return line.data.decode("utf-8", "surrogateescape") + "\n"


def _checked(fields: list[str], feed: _Feed) -> list[str] | RefusedRow:
    if feed.too_long is not None:
        return line_too_long(feed.too_long)
    try:
        "".join(fields).encode("utf-8")
    except UnicodeEncodeError:
        return RefusedRow("not_utf8", "the row holds bytes that are not UTF-8; save the file as UTF-8")
    return fields


def line_too_long(line: Line) -> RefusedRow:
    """The refusal of a line that was not loaded."""
    return RefusedRow(
        "line_too_long",
        f"the line has {line.size:,} bytes ({line.size / 1e6:.1f} MB); curation.max_line_mb allows less",
    )
