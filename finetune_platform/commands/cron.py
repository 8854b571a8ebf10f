"""Whether a five-field cron expression can be kept: names, ranges, steps and lists, field by field."""

import re

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}
_PART = re.compile(r"^(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>\d+))?$")


def cron_problem(cron: str) -> str | None:
    """What is wrong with `cron`, None where nothing is."""
    texts = cron.split()
    if len(texts) != len(FIELDS):
        return f"{len(texts)} fields instead of minute, hour, day of month, month, day of week"
    problems = (_field_problem(text, *field) for text, field in zip(texts, FIELDS, strict=True))
    return next((problem for problem in problems if problem), None)


def _field_problem(text: str, name: str, low: int, high: int) -> str | None:
    for part in text.split(","):
        match = _PART.match(part)
        if match is None:
            return f'{name} "{part}" is not *, a number, a range or a step'
        ends = [_number(end, name, low) for end in (match["first"], match["last"]) if end is not None]
        if any(not low <= end <= high for end in ends):
            return f'{name} "{part}" is not within {low}-{high}'
        if ends != sorted(ends):
            return f'{name} "{part}" runs backwards'
        if match["step"] is not None and int(match["step"]) == 0:
            return f'{name} "{part}" has a step of 0'
    return None


def _number(text: str, name: str, low: int) -> int:
    """The number that a field's text means; -1, which no field takes, where it means none."""
    names = NAMES.get(name, [])
    if text.lower() in names:
        return names.index(text.lower()) + low
    return int(text) if text.isdecimal() else -1
