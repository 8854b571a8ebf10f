"""Sets aside rows that the model would see twice, letter for letter.

Rows that are almost the same stay; `groups.py` keeps them in one split.
"""

from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift

if TYPE_CHECKING:
    from daft import DataFrame


def drop_exact_duplicates(rows: "DataFrame") -> Sifted:
    """Keeps the first row of each `example_id`, in the order of the sources."""
    from daft import Window, col
    from daft.functions import format, row_number, when

    same = Window().partition_by("example_id").order_by("position")
    whole = same.rows_between(Window.unbounded_preceding, Window.unbounded_following)
    numbered = rows.with_columns({"copy": row_number().over(same), "first": col("place").first_value().over(whole)})
    later = col("copy") > 1
    sentence = format("{}: the same row stands at {}", "place", "first")
    judged = numbered.with_columns(
        {"reason": when(later, "exact_duplicate").otherwise(None), "detail": when(later, sentence).otherwise(None)}
    )
    return sift(judged.exclude("copy", "first"), "exact_duplicates")
