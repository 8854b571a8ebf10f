"""A file that is one document (`.txt`, `.md`) as a draft of an example of kind `text`.

Texts in JSON lines belong in `formats.py`. Cutting a document belongs to training, which knows the model's tokens.
"""

import io
from typing import BinaryIO

from finetune_platform.curation.formats import Draft
from finetune_platform.curation.rejections import RefusedRow


def read_bytes(stream: BinaryIO, most: int) -> bytes:
    """The beginning of a stream: at most `most` bytes and one more, which tells that there is more."""
    data = io.BytesIO()
    while (left := most + 1 - data.tell()) and (chunk := stream.read(left)):
        data.write(chunk)
    return data.getvalue()


def read_document(data: bytes, max_bytes: int) -> Draft:
    """The text of one file, with `\\n` line ends.

    Raises:
        RefusedRow: It is longer than `max_bytes`, or not UTF-8.
    """
    if len(data) > max_bytes:
        raise RefusedRow(
            "document_too_long",
            f"the document has more than {max_bytes:,} bytes, which is curation.max_line_mb; divide the file, or "
            "raise it",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedRow("not_utf8", f"byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    return Draft([], kind="text", text=text.replace("\r\n", "\n"))
