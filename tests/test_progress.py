"""Progress lines: readable, parseable, with a rate that counts only this run's work."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_platform.progress import Progress, Ticker, duration, parse_progress


def rate_of(line: str) -> float:
    found = re.search(r"([\d.]+) \w+/s", line)
    assert found, line
    return float(found[1])


def seconds_left(line: str) -> int:
    found = re.search(r"(\d+):(\d+) left", line)
    assert found, line
    return int(found[1]) * 60 + int(found[2])


def test_a_line_is_read_back() -> None:
    lines: list[str] = []
    Ticker(lines.append, "training stage 1", 116, "steps", "rows", every_s=0).at(48, 768, "loss 0.731")
    found = parse_progress(lines[0])
    assert found is not None
    assert found[:4] == ("training stage 1", 48, 116, "steps")
    assert re.fullmatch(r"[\d.]+ rows/s \| \d\d:\d\d left \| loss 0\.731", found.detail)


@given(
    st.from_regex(r"[\w][\w \-]{0,20}[\w]", fullmatch=True), st.integers(0, 10**9), st.integers(0, 10**9), st.booleans()
)
def test_any_progress_is_read_back(stage: str, done: int, total: int, resumed: bool) -> None:
    lines: list[str] = []
    Ticker(lines.append, stage, total, "rows", every_s=0, already_done=done if resumed else 0).at(done)
    found = parse_progress(lines[0])
    assert found is not None
    assert found[:4] == Progress(stage, done, total, "rows", "")[:4]


@pytest.mark.parametrize("line", ["", "converting x (1/3 tokenizer)", "12/34 rows", "a 1/2 rows", "a 1/x rows | b"])
def test_other_lines_are_no_progress(line: str) -> None:
    assert parse_progress(line) is None


def test_lines_are_spaced_and_the_last_one_is_never_dropped() -> None:
    lines: list[str] = []
    ticker = Ticker(lines.append, "reading", 100, "rows", every_s=60)
    for done in range(1, 101):
        ticker.at(done)
    assert [line.split(" | ")[0] for line in lines] == ["reading 1/100 rows", "reading 100/100 rows"]


def test_rate_and_time_left_count_from_the_start() -> None:
    lines: list[str] = []
    ticker = Ticker(lines.append, "generating", 300, "rows", every_s=0)
    time.sleep(0.1)
    ticker.at(100)
    assert 100 < rate_of(lines[0]) <= 1000
    assert seconds_left(lines[0]) <= 2


def test_resumed_work_does_not_count_what_was_done_before() -> None:
    lines: list[str] = []
    ticker = Ticker(lines.append, "training", 1_000_000, "steps", every_s=0, already_done=900_000)
    time.sleep(0.1)
    ticker.at(900_010)
    assert rate_of(lines[0]) <= 100
    assert seconds_left(lines[0]) >= 900


def test_before_the_first_unit_there_is_no_rate_to_tell() -> None:
    lines: list[str] = []
    Ticker(lines.append, "training", 10, "steps", already_done=4).at(4)
    assert lines == ["training 4/10 steps | started"]


@pytest.mark.parametrize(("seconds", "clock"), [(0, "00:00"), (59.6, "01:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations_read_like_clocks(seconds: float, clock: str) -> None:
    assert duration(seconds) == clock
