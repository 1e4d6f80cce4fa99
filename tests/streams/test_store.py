"""Errors of RocksDB -> damage, or something that passes: told apart by their words, and not by those of the path."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from streams.errors import StoreDamaged, StoreUnavailable
from streams.store import Memory, RocksStore, _translated

#: Words of RocksDB's messages, as names of directories.
NAMES = [
    "state",
    "blockvolume",
    "sherlock",
    "While lock file",
    "no space left on device",
    "Corruption",
    "No such file or directory",
    "IO error",
    "read-only file system",
]


def open_at(path: Path) -> RocksStore:
    return RocksStore(path, ["x"], Memory(1 << 20, 1 << 20))


def filled(path: Path) -> RocksStore:
    store = open_at(path)
    store.apply({"x": {b"k": b"v"}}, {"x": 1}, 0)
    store.flush(wait=True)
    return store


@pytest.mark.parametrize("name", NAMES)
def test_a_store_that_this_process_holds_is_not_damaged(tmp_path: Path, name: str) -> None:
    store = filled(tmp_path / name / "words-0")
    with pytest.raises(StoreUnavailable, match="this process has the store open already"):
        open_at(tmp_path / name / "words-0")
    assert store.get("x", b"k") == b"v"
    store.close()


@pytest.mark.parametrize("name", NAMES)
def test_a_store_with_a_missing_file_is_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "words-0"
    filled(path).close()
    for table in path.glob("*.sst"):
        table.unlink()
    with pytest.raises(StoreDamaged):
        open_at(path)


@pytest.mark.parametrize("name", ["state", "blockvolume"])
def test_a_store_that_another_process_holds_is_not_damaged(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "words-0"
    filled(path).close()
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.streams.test_store import open_at\n"
        "store = open_at(Path(sys.argv[1]))\nprint('open', flush=True)\nsys.stdin.read()\nstore.close()\n"
    )
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(StoreUnavailable, match=r"another process holds this store.*--datadir"):
            open_at(path)
    finally:
        holder.communicate("")
    open_at(path).close()


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            "IO error: No space left on device: While appending to file: {path}/000012.sst: No space left on device",
            "free",
        ),
        ("IO error: Disk quota exceeded: While appending to file: {path}/000012.sst: Disk quota exceeded", "quota"),
        ("IO error: While open a file for appending: {path}/000012.log: Read-only file system", "read-only"),
        ("IO error: Cannot allocate memory: While mmap file: {path}/000012.sst: Cannot allocate memory", "memory"),
        ("IO error: While opening {path}/000012.sst: Too many open files", "ulimit -n"),
        (
            "Corruption: Can't access /000012.sst: IO error: While opening {path}/000012.sst: Too many open files",
            "ulimit",
        ),
        ("IO error: While open a file for random read: {path}/000012.sst: Permission denied", "user of the worker"),
        ("IO error: While pread offset 0 len 53: {path}/000012.sst: Input/output error", "error of the disk"),
        ("IO error: While fsync: {path}/000012.sst: Stale file handle", "error of the disk"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_machine_lacks_is_no_damage(words: str, remedy: str, name: str) -> None:
    path = Path("/var") / name / "words-0"
    found = _translated(Exception(words.format(path=path)), f"opening {path}", path)
    assert isinstance(found, StoreUnavailable) and remedy in str(found)


@pytest.mark.parametrize(
    "words",
    [
        "Corruption: block checksum mismatch: stored = 1, computed = 2 in {path}/000012.sst offset 0 size 53",
        "Corruption: Corruption: IO error: No such file or directory: While open: {path}/000012.sst: No such file",
        "IO error: No such file or directory: While opening a file: {path}/MANIFEST-000005: No such file or directory",
        "Corruption: While creating a new Db, wal_dir contains existing log file: : 000004.log",
        "Invalid argument: Column family not found",
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_damage_wherever_it_is(words: str, name: str) -> None:
    path = Path("/var") / name / "words-0"
    assert isinstance(_translated(Exception(words.format(path=path)), f"opening {path}", path), StoreDamaged)
