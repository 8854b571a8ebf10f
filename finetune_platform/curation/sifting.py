"""What every step of curation returns: the rows it keeps, and the others with their reason.

A step adds the columns `reason` and `detail` (null for a kept row) and calls `sift`. While they are curated, rows
carry two columns beside `EXAMPLE_SCHEMA`: `position` (order in the sources) and `place` (`file:line`).
"""

from typing import TYPE_CHECKING, NamedTuple

from finetune_platform.rows import REJECTED_CONTENT_CHARS, REJECTED_SCHEMA

if TYPE_CHECKING:
    from daft import DataFrame


class Sifted(NamedTuple):
    """Rows kept, with the columns they came with, and rows set aside, as `REJECTED_SCHEMA` and `position`."""

    kept: "DataFrame"
    rejected: "DataFrame"


def with_places(rows: "DataFrame") -> "DataFrame":
    """Rows in the order of their sources, numbered and named for messages.

    Args:
        rows: Columns of `EXAMPLE_SCHEMA`, as `collect` wrote them; `desirable` may be missing, as it does in raw rows
            of before there were unpaired preferences.
    """
    from daft import DataType, col, lit
    from daft.functions import format, monotonically_increasing_id

    if "desirable" not in rows.column_names:
        rows = rows.with_column("desirable", lit(None).cast(DataType.bool()))
    return rows.with_columns(
        {
            "position": monotonically_increasing_id(),
            "place": format("{}:{}", col("source_uri"), col("source_row")),
        }
    ).collect()


def sift(judged: "DataFrame", stage: str) -> Sifted:
    """Divides rows by whether a reason was found against them.

    Args:
        judged: Rows with `reason` and `detail`; both null keeps the row.
        stage: The step's name, for the record of what it refused.
    """
    from daft import col, lit
    from daft.functions import coalesce, format, left

    judged = judged.collect()
    pair = format("{} rejected: {}", "messages", "rejected")
    content = coalesce(col("text"), pair, col("messages"))
    found = {"stage": lit(stage), "content": left(content, REJECTED_CONTENT_CHARS)}
    refused = judged.where(col("reason").not_null()).with_columns(found)
    return Sifted(
        judged.where(col("reason").is_null()).exclude("reason", "detail").collect(),
        refused.select(*REJECTED_SCHEMA.names, "position").collect(),
    )
