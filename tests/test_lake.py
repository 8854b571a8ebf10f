"""The lake keeps its promises on a folder and on a real S3 server alike."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from finetune_platform.errors import BadInput, StorageFailed, Unreachable
from finetune_platform.lake import Lake, Once
from finetune_platform.manifests import DatasetManifest, RawManifest

SEGMENTS = st.text(st.sampled_from("abcXYZ019 ._-=%+&@,()äß漢🎉"), min_size=1, max_size=12).filter(
    lambda name: name.strip(". ") == name
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to publish: nested, with an empty file, one that travels in parts, and a Parquet file."""
    folder = tmp_path / "made"
    (folder / "checkpoints" / "step-2").mkdir(parents=True)
    (folder / "checkpoints" / "step-2" / "weights.bin").write_bytes(os.urandom(6_000_000))
    (folder / "empty").write_bytes(b"")
    (folder / "card.md").write_text("# Über")
    pq.write_table(pa.table({"row": [1, 2, 3]}), folder / "train.parquet")
    manifest = RawManifest(artifact_id="raw-1", task="t", code_version="1", rows=3, sources=[], funnel=[])
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_object_is_read_as_written_and_replaced_whole(lake: Lake) -> None:
    lake.put("task/raw/a.txt", b"first, and longer")
    lake.put("task/raw/a.txt", b"second")
    assert lake.get("task/raw/a.txt") == b"second"
    assert b"".join(lake.chunks("task/raw/a.txt")) == b"second"
    assert lake.exists("task/raw/a.txt")
    assert not lake.exists("task/raw")


@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.lists(SEGMENTS, min_size=1, max_size=3).map("/".join), data=st.binary(max_size=300))
def test_any_plain_name_and_any_bytes_come_back(lake: Lake, path: str, data: bytes) -> None:
    try:
        lake.put(path, data)
        assert lake.get(path) == data
        assert [(info.path, info.size) for info in lake.list()] == [(path, len(data))]
    finally:
        lake.delete(path)
    assert lake.list() == []


def test_a_missing_object_is_a_file_not_found_with_its_url(lake: Lake) -> None:
    lake.put("present", b"")
    for read in (lake.get, lake.dataframe, lake.table, lambda path: list(lake.chunks(path))):
        with pytest.raises(FileNotFoundError, match="absent/object"):
            read("absent/object")


def test_listing_goes_by_whole_folder_names_and_is_sorted(lake: Lake) -> None:
    for path in ("t/ds-1/b", "t/ds-1/a", "t/ds-10/a", "u/a"):
        lake.put(path, path.encode())
    assert [info.path for info in lake.list("t/ds-1")] == ["t/ds-1/a", "t/ds-1/b"]
    assert [info.path for info in lake.list("t/ds-1/")] == ["t/ds-1/a", "t/ds-1/b"]
    assert [info.path for info in lake.list()] == ["t/ds-1/a", "t/ds-1/b", "t/ds-10/a", "u/a"]
    assert lake.list("nothing/here") == []


def test_the_etag_changes_with_the_content(lake: Lake) -> None:
    lake.put("raw/a", b"one")
    before = lake.list("raw")
    lake.put("raw/a", b"two")
    assert lake.list("raw") != before


def test_delete_takes_an_object_or_a_folder_and_no_neighbour(lake: Lake) -> None:
    for path in ("t/ds-1/manifest.json", "t/ds-1/deep/a", "t/ds-10/a", "t/b"):
        lake.put(path, b"x")
    lake.delete("t/ds-1")
    lake.delete("t/b")
    lake.delete("t/never-there")
    assert [info.path for info in lake.list()] == ["t/ds-10/a"]
    assert not lake.is_published("t/ds-1")


def test_of_eight_writers_of_a_new_object_exactly_one_wins(lake: Lake) -> None:
    for attempt in range(3):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda n, path=f"race/{attempt}": lake.put_new(path, str(n).encode()), range(8)))
        assert won.count(True) == 1
        assert lake.get(f"race/{attempt}") == str(won.index(True)).encode()


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "/etc/passwd", "a//b", "./a", "", "a/\0b"])
def test_a_path_that_leaves_the_lake_is_refused(local_lake: Lake, path: str) -> None:
    for call in (local_lake.get, local_lake.exists, local_lake.delete, lambda p: local_lake.put(p, b"")):
        with pytest.raises(BadInput, match="path"):
            call(path)


def test_a_published_folder_is_fetched_as_it_was(lake: Lake, folder: Path, tmp_path: Path) -> None:
    assert not lake.is_published("t/raw/raw-1")
    assert lake.publish(folder, "t/raw/raw-1")
    assert lake.is_published("t/raw/raw-1")
    to = tmp_path / "copies" / "raw-1"
    assert lake.fetch("t/raw/raw-1", to) == to
    assert contents(to) == contents(folder)
    assert [p.name for p in to.parent.iterdir()] == ["raw-1"]
    assert lake.manifest(RawManifest, "t/raw/raw-1").rows == 3
    assert lake.dataframe("t/raw/raw-1/train.parquet").to_pydict() == {"row": [1, 2, 3]}
    assert lake.dataframe("t/raw/*/train.parquet").count_rows() == 3


def test_publishing_again_changes_nothing(lake: Lake, folder: Path) -> None:
    lake.publish(folder, "t/raw/raw-1")
    before = lake.list()
    (folder / "card.md").write_text("changed")
    assert not lake.publish(folder, "t/raw/raw-1")
    assert lake.list() == before


def test_publishers_at_the_same_time_all_succeed_and_one_wins(lake: Lake, folder: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda _: lake.publish(folder, "t/raw/raw-1"), range(4)))
    assert won.count(True) == 1
    assert contents(lake.fetch("t/raw/raw-1", tmp_path / "copy")) == contents(folder)


def test_fetches_at_the_same_time_all_find_the_whole_folder(lake: Lake, folder: Path, tmp_path: Path) -> None:
    lake.publish(folder, "t/raw/raw-1")
    to = tmp_path / "copies" / "raw-1"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: contents(lake.fetch("t/raw/raw-1", to)), range(4)))
    assert all(copy == contents(folder) for copy in found)
    assert [p.name for p in to.parent.iterdir()] == ["raw-1"]


KILLED_PUBLISH = """
import itertools, os, pathlib, signal, sys
import obstore
from finetune_platform.lake import Lake, Once

url, folder, path, fatal = sys.argv[1:]
put, calls = obstore.put, itertools.count(1)

def dying_put(*args, **options):
    if next(calls) == int(fatal):
        os.kill(os.getpid(), signal.SIGKILL)
    return put(*args, **options)

obstore.put = dying_put
Lake(url).publish(pathlib.Path(folder), path)
"""


@pytest.mark.parametrize("fatal_put", [1, 3, 5])
def test_a_publish_killed_at_any_object_is_invisible_until_the_same_call_completes_it(
    lake: Lake, folder: Path, tmp_path: Path, fatal_put: int
) -> None:
    # Four files and the manifest: the fifth put is the manifest's.
    command = [sys.executable, "-c", KILLED_PUBLISH, lake.url, str(folder), "t/raw/raw-1", str(fatal_put)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not lake.is_published("t/raw/raw-1")
    with pytest.raises(FileNotFoundError):
        lake.fetch("t/raw/raw-1", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    assert lake.publish(folder, "t/raw/raw-1")
    assert contents(lake.fetch("t/raw/raw-1", tmp_path / "copy")) == contents(folder)


def test_a_folder_without_manifest_cannot_be_published(local_lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    with pytest.raises(BadInput, match=r"made/manifest\.json"):
        local_lake.publish(tmp_path / "made", "t/x")


def test_a_fetch_leaves_what_else_stands_in_the_folder(local_lake: Lake, folder: Path, tmp_path: Path) -> None:
    local_lake.publish(folder, "t/raw/raw-1")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="taken"):
        local_lake.fetch("t/raw/raw-1", taken)
    assert contents(taken) == {"mine.txt": b"keep"}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".taken")]


def test_a_manifest_of_another_kind_is_refused_with_its_place(lake: Lake, folder: Path) -> None:
    lake.publish(folder, "t/raw/raw-1")
    with pytest.raises(BadInput, match=r"t/raw/raw-1/manifest\.json: splits"):
        lake.manifest(DatasetManifest, "t/raw/raw-1")


def test_a_table_grows_by_appends_of_many_writers_from_its_first_row_on(lake: Lake) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: lake.append("t/interactions", pa.table({"n": [n], "text": [f"row {n}"]})), range(8)))
    rows = lake.table("t/interactions").to_pyarrow_table().sort_by("n").to_pylist()
    assert rows == [{"n": n, "text": f"row {n}"} for n in range(8)]
    with pytest.raises(BadInput, match="t/interactions"):
        lake.append("t/interactions", pa.table({"m": [1]}))


def test_an_append_that_is_repeated_by_anybody_at_any_time_happens_once(lake: Lake) -> None:
    def append(n: int) -> bool:
        rows = pa.table({"n": [n], "day": [n % 2]})
        return lake.append("t/interactions", rows, Once("gateway-1", n), partition_by="day")

    with ThreadPoolExecutor(4) as pool:  # The first of them makes the table.
        assert list(pool.map(append, [1] * 4)).count(True) == 1
        assert list(pool.map(append, [2] * 4)).count(True) == 1
    assert not append(1)
    # Other writers, and writers that name no number, are not meant.
    assert lake.append("t/interactions", pa.table({"n": [1], "day": [1]}), Once("gateway-2", 1))
    assert lake.append("t/interactions", pa.table({"n": [1], "day": [1]}))
    table = lake.table("t/interactions")
    assert sorted(table.to_pyarrow_table()["n"].to_pylist()) == [1, 1, 1, 2]
    assert table.metadata().partition_columns == ["day"]
    with pytest.raises(BadInput, match="t/interactions"):
        lake.append("t/interactions", pa.table({"m": [1]}), Once("gateway-1", 3))
    assert append(3)


def test_an_append_that_a_stale_writer_repeats_conflicts_and_is_found(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process commits the same between the look and the commit."""
    import deltalake

    once, rows, write = Once("gateway-1", 7), pa.table({"n": [7]}), deltalake.write_deltalake
    local_lake.append("t", pa.table({"n": [0]}))

    def write_late(*args: Any, **options: Any) -> None:
        monkeypatch.setattr(deltalake, "write_deltalake", write)
        assert local_lake.append("t", rows, once)
        write(*args, **options)

    monkeypatch.setattr(deltalake, "write_deltalake", write_late)
    assert not local_lake.append("t", rows, once)
    assert sorted(local_lake.table("t").to_pyarrow_table()["n"].to_pylist()) == [0, 7]


def test_a_lake_in_a_folder_with_a_space_holds_tables_and_dataframes(tmp_path: Path) -> None:
    lake = Lake(f"file://{tmp_path}/our%20lake")
    lake.append("t/interactions", pa.table({"n": [1]}))
    pq.write_table(pa.table({"n": [2]}), tmp_path / "our lake" / "x.parquet")
    assert lake.table("t/interactions").to_pyarrow_table().num_rows == 1
    assert lake.dataframe("x.parquet").to_pydict() == {"n": [2]}
    assert lake.url_of("x.parquet") == str(tmp_path / "our lake" / "x.parquet")


def test_the_folder_that_a_console_makes_is_no_object(s3_url: str) -> None:
    import boto3

    bucket, _, prefix = s3_url.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/raw/", Body=b"")
    assert Lake(s3_url).list("raw") == []


@pytest.mark.parametrize("url", ["ftp://host/x", "s3:/bucket/x", "s3://", "http://host/x", ""])
def test_an_address_that_means_nothing_is_bad_input(url: str) -> None:
    with pytest.raises(BadInput, match=r"scheme|bucket|address"):
        Lake(url)


CALLS: dict[str, Callable[[Lake, Path], object]] = {
    "get": lambda lake, folder: lake.get("t/a"),
    "put": lambda lake, folder: lake.put("t/a", b"x" * 2_000_000),
    "put_new": lambda lake, folder: lake.put_new("t/a", b"x" * 2_000_000),
    "list": lambda lake, folder: lake.list("t"),
    "publish": lambda lake, folder: lake.publish(folder, "t/raw-1"),
    "append": lambda lake, folder: lake.append("t/a", pa.table({"n": list(os.urandom(2_000_000))})),
    "table": lambda lake, folder: lake.table("t/a"),
    "dataframe": lambda lake, folder: lake.dataframe("t/*.parquet"),
}
WRITES = ("put", "put_new", "publish", "append")


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_away_is_told_within_seconds(
    call: str, folder: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    started = time.monotonic()
    with pytest.raises(Unreachable, match=f"(?s){s3_url}/t.*does not answer.*mend: .*AWS_ENDPOINT_URL"):
        CALLS[call](Lake(s3_url), folder)
    assert time.monotonic() - started < 12


@pytest.mark.slow
def test_an_address_that_swallows_connections_is_told_within_seconds(
    s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as queue:
        for _ in range(3):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{full.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(Unreachable, match="does not answer"):
            Lake(s3_url).get("t/a")
        assert time.monotonic() - started < 15


@pytest.mark.parametrize("call", ["get", "list", "put", "publish"])
def test_refused_credentials_are_told_as_such(
    call: str, folder: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Unreachable, match=r"refused the credentials(?s:.*)mend: .*access key"):
        CALLS[call](Lake(s3_url), folder)


@pytest.mark.parametrize("call", ["get", "list"])
def test_a_bucket_that_does_not_exist_is_told_as_such(call: str, folder: Path, s3_url: str) -> None:
    with pytest.raises(Unreachable, match=r"s3://no-such-bucket/x/t.*no such bucket"):
        CALLS[call](Lake("s3://no-such-bucket/x"), folder)


def test_credentials_of_a_profile_are_enough(s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profiles = tmp_path / "credentials"
    profiles.write_text("[team]\naws_access_key_id = test-key\naws_secret_access_key = test-secret\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_PROFILE", "team")
    lake = Lake(s3_url)
    lake.put("a", b"x")
    lake.append("t", pa.table({"n": [1]}))
    assert (lake.get("a"), lake.table("t").to_pyarrow_table().num_rows) == (b"x", 1)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(Unreachable, match="nobody"):
        Lake(s3_url).get("a")


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


@pytest.mark.parametrize("call", WRITES)
def test_a_full_disk_is_told_and_nothing_half_written_stays(call: str, folder: Path, small_disk: Path) -> None:
    whole = {len(data) for data in contents(folder).values()}
    lake = Lake(str(small_disk))
    with pytest.raises(StorageFailed, match=f"(?s){small_disk}/t.*disk is full.*mend: free some space"):
        CALLS[call](lake, folder)
    assert not lake.is_published("t/raw-1")
    left = [len(data) for data in contents(small_disk).values()]
    assert set(left) <= whole
    assert call == "publish" or left == []


def test_a_fetch_to_a_full_disk_leaves_nothing(lake: Lake, folder: Path, small_disk: Path) -> None:
    lake.publish(folder, "t/raw-1")
    with pytest.raises(StorageFailed, match=f"{small_disk}/copies/raw-1: the disk is full"):
        lake.fetch("t/raw-1", small_disk / "copies" / "raw-1")
    assert contents(small_disk) == {}


LIMITED_PUT = """
import resource, sys
from finetune_platform.lake import Lake, Once

resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
Lake(sys.argv[1]).put("t/a", b"x" * 2_000_000)
"""


def test_a_file_size_limit_is_told_and_nothing_half_written_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", LIMITED_PUT, str(tmp_path / "lake")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"StorageFailed: {tmp_path}/lake/t/a: larger than this process may write" in ended.stderr
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("call", CALLS)
def test_a_folder_that_cannot_be_made_is_told(call: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageFailed, match=rf"(?s){tmp_path}/file/lake.*a file stands.*mend: "):
        CALLS[call](Lake(str(tmp_path / "file" / "lake")), folder)
    with pytest.raises(StorageFailed, match=r"(?s)/proc/lake.*mend: "):
        CALLS[call](Lake("/proc/lake"), folder)


@pytest.mark.parametrize("call", WRITES)
def test_a_file_in_the_way_is_told(call: str, folder: Path, local_lake: Lake) -> None:
    local_lake.put("t", b"not a folder")
    with pytest.raises(StorageFailed, match=r"(?s)lake/t.*a file stands.*mend: "):
        CALLS[call](local_lake, folder)
