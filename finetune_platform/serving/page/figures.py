"""Figures as a person reads them. None is a dash: nothing was measured."""

NOTHING = "–"
MINUS = "−"


def percent(share: float | None) -> str:
    """`4.8%` of a share in [0, 1]."""
    if share is None:
        return NOTHING
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def rate(share: float | None) -> str:
    """`3.0%`: one digit always, so that columns of measured shares compare."""
    return NOTHING if share is None else f"{100 * share:.1f}%"


def points(difference: float | None) -> str:
    """`−3.1` percentage points of a difference in [-1, 1]."""
    if difference is None:
        return NOTHING
    rounded = round(100 * difference, 1)
    if rounded == 0:
        return "0.0"
    return f"{'+' if rounded > 0 else MINUS}{abs(rounded):.1f}"


def count(n: int | None) -> str:
    """`1,204`."""
    return NOTHING if n is None else f"{n:,}"


def milliseconds(value: float | None) -> str:
    """`640 ms`, `1.3 s`."""
    if value is None:
        return NOTHING
    return f"{value:.0f} ms" if value < 1000 else f"{value / 1000:.1f} s"


def e_value(value: float) -> str:
    """Two digits below ten, whole numbers above, powers where they get long."""
    if value < 0.01:
        return "under 0.01"
    if value < 10:
        return f"{value:.2g}"
    if value < 1e5:
        return f"{value:,.0f}"
    return "over 100,000"


def hours(value: float) -> str:
    """`24 min`, `5.2 h`, `3.5 days`."""
    if value < 1:
        return f"{60 * value:.0f} min"
    return f"{value:.1f}".removesuffix(".0") + " h" if value < 72 else f"{value / 24:.1f}".removesuffix(".0") + " days"
