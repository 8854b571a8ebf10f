"""What was acknowledged survives the death of its process, a torn line and a full disk."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from finetune_platform.errors import StorageFailed
from finetune_platform.serving.segments import decode, encode
from finetune_platform.serving.write_ahead import NotLogged, WriteAhead

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "log"


def waiting(files: WriteAhead) -> list[Any]:
    """Every record of the closed files, in order."""
    files.rotate()
    return [record for segment in files.closed() for record in files.read(segment)]


@hypothesis_settings(max_examples=50, deadline=None)
@given(records=st.lists(st.dictionaries(st.sampled_from("xy"), JSON, max_size=2), max_size=5), data=st.data())
def test_a_file_cut_anywhere_gives_every_whole_record_and_nothing_else(records: list[Any], data: st.DataObject) -> None:
    lines = [encode(record) for record in records]
    content = b"".join(lines)
    assert decode(content) == (records, [])
    cut = data.draw(st.integers(0, len(content)))
    whole = sum(1 for n in range(len(lines)) if len(b"".join(lines[: n + 1])) - 1 <= cut)
    assert decode(content[:cut])[0] == records[:whole]


@hypothesis_settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20), data=st.data())
def test_a_changed_byte_is_found_and_spoils_one_record_only(text: str, data: st.DataObject) -> None:
    before, spoiled, after = (encode({"n": n, "text": text}) for n in range(3))
    place = data.draw(st.integers(0, len(spoiled) - 2))
    changed = bytearray(spoiled)
    changed[place] ^= data.draw(st.integers(1, 255))
    records, torn = decode(before + bytes(changed) + after)
    # The byte between checksum and record carries nothing.
    assert place == 8 or (records == [{"n": 0, "text": text}, {"n": 2, "text": text}] and torn)


def test_records_are_read_as_appended_across_files_that_grow_no_larger_than_said(root: Path) -> None:
    files = WriteAhead(root, segment_bytes=500)
    for n in range(40):
        files.append({"n": n, "text": "ä" * 20})
    assert files.segment_closed.is_set()
    assert waiting(files) == [{"n": n, "text": "ä" * 20} for n in range(40)]
    assert len(files.closed()) > 3
    assert max(segment.path.stat().st_size for segment in files.closed()) <= 500
    assert files.waiting_bytes == sum(segment.path.stat().st_size for segment in files.closed())
    files.close()


def test_a_record_larger_than_a_file_has_one_of_its_own(root: Path) -> None:
    files = WriteAhead(root, segment_bytes=500)
    for size in (10, 2000, 10):
        files.append({"text": "x" * size})
    assert [len(record["text"]) for record in waiting(files)] == [10, 2000, 10]
    assert len(files.closed()) == 3
    files.close()


def test_threads_append_at_the_same_time_and_nothing_is_lost(root: Path) -> None:
    files = WriteAhead(root, segment_bytes=2000, sync_every_s=0.001)
    threads = [
        threading.Thread(target=lambda t=t: [files.append({"t": t, "n": n}) for n in range(200)]) for t in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = waiting(files)
    assert sorted((record["t"], record["n"]) for record in found) == [(t, n) for t in range(4) for n in range(200)]
    files.close()


def test_what_waits_at_the_end_is_taken_over_once_and_leaves_nothing_behind(root: Path) -> None:
    first = WriteAhead(root)
    first.append({"n": 1})
    first.rotate()
    second = WriteAhead(root)
    assert second.closed() == []  # The first process lives.
    first.close()
    assert second.adopt() == 1
    third = WriteAhead(root)
    assert waiting(second) == [{"n": 1}]
    assert waiting(third) == []
    for segment in second.closed():
        second.remove(segment)
    second.close()
    third.close()
    assert [path.name for path in root.iterdir() if path.is_dir()] == []


def test_a_process_that_dies_later_is_taken_over_by_a_neighbour_that_runs(root: Path) -> None:
    neighbour = WriteAhead(root)
    first = WriteAhead(root)
    first.append({"n": 1})
    assert neighbour.adopt() == 0
    first.close()
    assert neighbour.adopt() == 1
    assert waiting(neighbour) == [{"n": 1}]
    neighbour.close()


def test_a_torn_line_is_set_aside_and_told(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = WriteAhead(root)
    files.append({"n": 1})
    files.append({"n": 2})
    files.close()
    (path,) = root.glob("*/*.log")
    path.write_bytes(path.read_bytes() + encode({"n": 3})[:-5])
    successor = WriteAhead(root)
    assert waiting(successor) == waiting(successor) == [{"n": 1}, {"n": 2}]
    assert [record.getMessage() for record in caplog.records if "set aside" in record.message]
    (aside,) = (root / "torn").iterdir()
    assert aside.read_bytes() == encode({"n": 3})[:-5]
    successor.close()
    WriteAhead(root).close()


def test_more_than_may_wait_is_refused_and_taken_again_when_there_is_room(root: Path) -> None:
    files = WriteAhead(root, max_bytes=1000)
    taken = 0
    with pytest.raises(NotLogged, match=r"(?s)log: 9\d\d bytes wait for the lake.*mend: "):
        for taken in range(100):
            files.append({"n": taken})
    files.rotate()
    (segment,) = files.closed()
    assert len(files.read(segment)) == taken
    files.remove(segment)
    files.append({"n": "again"})
    files.close()
    with pytest.raises(NotLogged, match="closed"):
        files.append({"n": 1})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root and the right to mount")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_refuses_and_spoils_nothing_that_was_taken_or_comes_later(small_disk: Path) -> None:
    files = WriteAhead(small_disk / "log")
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 700_000)
    taken = []
    with pytest.raises(NotLogged, match="disk is full"):
        for n in range(100):
            files.append({"n": n, "text": "x" * 10_000})
            taken.append(n)
    ballast.unlink()
    for n in (1000, 1001):
        files.append({"n": n, "text": ""})
    assert [record["n"] for record in waiting(files)] == [*taken, 1000, 1001]
    files.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match="a file stands"):
        WriteAhead(tmp_path / "file" / "log")


def test_only_its_owner_may_read_it(root: Path) -> None:
    files = WriteAhead(root)
    files.append({"n": 1})
    assert [p.stat().st_mode & 0o077 for p in (root, files.folder, *files.folder.iterdir())] == [0, 0, 0]
    files.close()


WRITER = """
import sys
from pathlib import Path
from finetune_platform.serving.write_ahead import WriteAhead

files = WriteAhead(Path(sys.argv[1]), segment_bytes=200_000)
print("ready", flush=True)
n = 0
while True:
    files.append({"id": f"{sys.argv[2]}-{n}", "text": "x" * (n * 7919 % 20_000)})
    sys.stdout.write(f"{sys.argv[2]}-{n}\\n")
    sys.stdout.flush()
    n += 1
"""


def test_a_process_killed_at_any_moment_loses_nothing_that_append_had_taken(root: Path, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for round_ in range(20):
        told = tmp_path / f"told-{round_}"
        with told.open("wb") as out:
            process = subprocess.Popen([sys.executable, "-c", WRITER, str(root), str(round_)], stdout=out)
            limit = time.monotonic() + 30
            while b"ready" not in told.read_bytes() and time.monotonic() < limit:
                time.sleep(0.005)
            time.sleep(random.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            process.wait()
        acknowledged += [line for line in told.read_text().split("\n")[:-1] if line != "ready"]
    successor = WriteAhead(root)
    found = [record["id"] for record in waiting(successor)]
    assert len(acknowledged) > 100
    assert len(found) == len(set(found))
    assert set(acknowledged) <= set(found)
    # A process is told of a record at most one line before it dies.
    assert len(found) - len(acknowledged) <= 2 * 20
    successor.close()
