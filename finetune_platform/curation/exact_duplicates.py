"""Sets aside rows that the model would see twice, letter for letter.

Rows that are almost the same stay; `groups.py` keeps them in one split.
"""

from typing import TYPE_CHECKING

from finetune_platform.curation.sifting import Sifted, sift

if TYPE_CHECKING:
    from daft import DataFrame


def drop_exact_duplicates(rows: "DataFrame") -> Sifted:
    """Keeps the first row of each `example_id`, in the order of the sources."""
    from daft import col
    from daft.functions import format, when

    firsts = rows.groupby("example_id").agg(col("position").min().alias("first"))
    places = rows.select(col("position").alias("first"), col("place").alias("first_place"))
    compared = rows.join(firsts, on="example_id").join(places, on="first")
    later = col("position") > col("first")
    sentence = format("{}: the same row stands at {}", "place", "first_place")
    judged = compared.with_columns(
        {"reason": when(later, "exact_duplicate").otherwise(None), "detail": when(later, sentence).otherwise(None)}
    )
    return sift(judged.exclude("first", "first_place"), "exact_duplicates")
