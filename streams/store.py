"""committed changes + the position they reach -> one RocksDB per task, a column family per table.

The store is a cache of the changelog that survives a restart: it is never ahead of the log, and whatever it lost in a
crash the changelog gives back. That is why its write-ahead log is off (the changelog is the log; measured 5 % of the
whole loop) and why each family keeps the position that describes it: families flush apart.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from streams.errors import StoreDamaged, StoreUnavailable

Changes = Mapping[str, Mapping[bytes, bytes | None]]

# The changelog offset that this family has reached, and when that was still all there was (8 bytes each).
POSITION = b"\0position"
IDENTITY = b"\0identity"  # which changelog this family was built from


class Store(Protocol):
    """What a task needs of its state: point and range reads of committed rows, and one atomic step forward."""

    def get(self, family: str, key: bytes) -> bytes | None: ...
    def range(self, family: str, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]: ...
    def position(self, family: str) -> int: ...

    def current_at_ms(self, family: str) -> int:
        """When the changelog is known to have held nothing beyond `position`; 0 when it is not known."""
        ...

    def identity(self, family: str) -> bytes | None: ...
    def identify(self, family: str, identity: bytes) -> None: ...

    def apply(self, changes: Changes, positions: Mapping[str, int], current_at_ms: int) -> None:
        """Rows and the positions that they reach, in one step."""
        ...

    def empty(self, family: str) -> None:
        """Forget the rows and the position of a family, in one step."""
        ...

    def flush(self) -> None:
        """Begin to write to disk what is only in memory: a process that is killed does not have to copy it again."""
        ...

    def close(self) -> None: ...


class Memory:
    """The memory that all stores of one worker share: a block cache and a bound on unflushed writes.

    Faust gives each partition a block cache of 2 GiB; a worker with many tasks must not.
    """

    def __init__(self, cache_bytes: int, write_buffer_bytes: int) -> None:
        self.cache = Cache(cache_bytes)
        self.buffers = WriteBufferManager(write_buffer_bytes, False)

    def options(self) -> Options:
        blocks = BlockBasedOptions()
        blocks.set_block_cache(self.cache)
        blocks.set_bloom_filter(10, False)
        blocks.set_cache_index_and_filter_blocks(True)
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.create_missing_column_families(True)
        options.set_block_based_table_factory(blocks)
        options.set_write_buffer_manager(self.buffers)
        # RocksDB's 4 merges every row half as often again; bloom filters keep reads of more files as cheap. Measured:
        # 2.4 instead of 4.3 µs of background CPU for an order, the same for its read and its write.
        options.set_level_zero_file_num_compaction_trigger(8)
        options.set_keep_log_file_num(2)
        options.set_max_open_files(256)
        options.set_paranoid_checks(True)
        return options


class RocksStore:
    """A Store on disk. Raises StoreDamaged when it cannot be trusted, StoreUnavailable when it cannot write.

    `read_only`: what is on disk now of a store that a worker may hold; each family at the position that it has there.
    """

    def __init__(self, path: Path, families: Iterable[str], memory: Memory, *, read_only: bool = False) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        access = AccessType.read_only() if read_only else AccessType.read_write()
        try:
            known = set(Rdict.list_cf(str(path))) if (path / "CURRENT").exists() else set()
            names = sorted(known & {*families} if read_only else families)
            wanted = {name: memory.options() for name in {*names, *known} - {"default"}}
            self._db = Rdict(str(path), options=memory.options(), column_families=wanted, access_type=access)
        except Exception as error:
            raise _translated(error, f"opening {path}", path) from error
        self._families = {name: self._db.get_column_family(name) for name in names}
        self._handles = {name: self._db.get_column_family_handle(name) for name in names}
        self._without_log = WriteOptions()
        # rocksdict's stub calls it a method; it is an attribute.
        self._without_log.disable_wal = True  # type: ignore[method-assign,assignment]

    def get(self, family: str, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._families[family].get(key)
        except KeyError:
            raise self._closed() from None
        except Exception as error:
            raise _translated(error, f"reading {family} in {self.path}", self.path) from error
        return value

    def range(self, family: str, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, end). A damaged block ends RocksDB's iterator early and silently: its status is asked.

        The bounds are checked here: rocksdict encodes those of ReadOptions as if the store were not in raw mode.
        """
        try:
            rows = self._families[family].iter()
            if reverse:
                rows.seek_for_prev(end)
                step = rows.prev
                if rows.valid() and rows.key() == end:
                    step()
            else:
                rows.seek(start)
                step = rows.next
            while rows.valid() and start <= (key := rows.key()) < end:
                yield key, rows.value()
                step()
            rows.status()
        except KeyError:
            raise self._closed() from None
        except Exception as error:
            raise _translated(error, f"reading {family} in {self.path}", self.path) from error

    def _closed(self) -> StoreUnavailable:
        """close() forgets the families, so whoever still holds the store misses them."""
        return StoreUnavailable(f"the store {self.path} is closed")

    @property
    def families(self) -> Collection[str]:
        """Those that it has: a store that is only read may lack new ones."""
        return list(self._families)

    def position(self, family: str) -> int:
        return _position(self.get(family, POSITION))[0]

    def current_at_ms(self, family: str) -> int:
        return _position(self.get(family, POSITION))[1]

    def identity(self, family: str) -> bytes | None:
        return self.get(family, IDENTITY)

    def identify(self, family: str, identity: bytes) -> None:
        self._families[family].put(IDENTITY, identity, self._without_log)

    def apply(self, changes: Changes, positions: Mapping[str, int], current_at_ms: int) -> None:
        batch = WriteBatch(raw_mode=True)
        for family, rows in changes.items():
            batch.set_default_column_family(self._handles[family])
            for key, value in rows.items():
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)
        for family, position in positions.items():
            batch.put(POSITION, _encoded(position, current_at_ms), self._handles[family])
        self._write(batch)

    def empty(self, family: str) -> None:
        batch = WriteBatch(raw_mode=True)
        # The position and, behind it, every key that a table can have; the identity stands before it and stays.
        batch.delete_range(POSITION, b"\xff", self._handles[family])
        self._write(batch)

    def _write(self, batch: WriteBatch) -> None:
        try:
            self._db.write(batch, self._without_log)
        except Exception as error:
            raise _translated(error, f"writing {self.path}", self.path) from error

    def flush(self, wait: bool = False) -> None:
        try:
            for family in self._families.values():
                family.flush(wait)
        except Exception as error:
            raise _translated(error, f"flushing {self.path}", self.path) from error

    def close(self) -> None:
        """Flush and let go of the lock at once, so that the next start replays nothing and is not refused."""
        try:
            self.flush(wait=True)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of a store that is damaged, or only read, without flushing into it."""
        self._families.clear()
        self._handles.clear()
        self._db.close()


def _encoded(position: int, current_at_ms: int) -> bytes:
    return position.to_bytes(8, "big") + current_at_ms.to_bytes(8, "big")


def _position(raw: bytes | None) -> tuple[int, int]:
    """Position and time; stores of older versions have no time."""
    return (int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:], "big")) if raw else (0, 0)


def set_aside(path: Path) -> Path:
    """Move a damaged store out of the way, keeping it for whoever wants to look; the newest two are kept."""
    aside = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
    path.rename(aside)
    for older in sorted(path.parent.glob(f"{path.name}.damaged-*"))[:-2]:
        shutil.rmtree(older, ignore_errors=True)
    return aside


#: What a machine lacks, by the words of the C library in RocksDB's message, and what to do. The task tries again by
#: itself; nothing of its store is in doubt, and to rebuild it would need more of the same.
LACKS = {
    "no space left on device": "the disk is full; free some room",
    "disk quota exceeded": "the disk quota is used up; raise it, or free some room",
    "read-only file system": "the file system is mounted read-only, which is what systems do after a disk error; look"
    " into the system's log, and mount it for writing",
    "cannot allocate memory": "the machine has no memory left; give it more, or lower what its processes may take",
    "too many open files": "out of file descriptors; raise `ulimit -n`",
    "permission denied": "this user may not read or write there; give the directory to the user of the worker",
    "operation not permitted": "this user may not read or write there; give the directory to the user of the worker",
}
HELD_HERE, HELD = "lock hold by current process", "while lock file"


def _translated(error: Exception, doing: str, path: Path) -> Exception:
    """rocksdict raises plain Exceptions: the text is all there is to tell damage from a full disk or a lock.

    The text holds paths, which may consist of the same words: they are taken out first. Only what RocksDB calls
    corruption, a file that is gone, and what is no matter of input and output at all, is damage: a store that is taken
    for damaged is moved aside and built again, under the feet of whoever has it open.
    """
    text = str(error)
    words = text
    for name in sorted({str(path), str(path.absolute()), str(path.resolve())}, key=len, reverse=True):
        words = words.replace(name, "")
    words = words.lower()
    for lacking, remedy in LACKS.items():
        if lacking in words:
            return StoreUnavailable(f"{doing}: {remedy}. The task resumes by itself ({text})")
    if HELD_HERE in words:
        return StoreUnavailable(
            f"{doing}: this process has the store open already, for a task that has not closed yet ({text}); the task"
            " resumes by itself"
        )
    if HELD in words:
        return StoreUnavailable(
            f"{doing}: another process holds this store ({text}); give each worker its own --datadir or --web-port"
        )
    if "io error" in words and "corruption" not in words and "no such file" not in words:
        return StoreUnavailable(
            f"{doing}: the system reports an error of the disk ({text}). The task tries again. If the disk is in order,"
            " stop the worker and delete this directory: it is built again from the changelog"
        )
    return StoreDamaged(f"{doing}: {text}")


class MemoryStore:
    """A Store of dicts for the test driver and the simulation; nothing that a user runs holds its state here."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[bytes, bytes]] = {}

    def get(self, family: str, key: bytes) -> bytes | None:
        return self._rows.get(family, {}).get(key)

    def range(self, family: str, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        rows = self._rows.get(family, {})
        for key in sorted((key for key in rows if start <= key < end), reverse=reverse):
            yield key, rows[key]

    def position(self, family: str) -> int:
        return _position(self.get(family, POSITION))[0]

    def current_at_ms(self, family: str) -> int:
        return _position(self.get(family, POSITION))[1]

    def identity(self, family: str) -> bytes | None:
        return self.get(family, IDENTITY)

    def identify(self, family: str, identity: bytes) -> None:
        self._rows.setdefault(family, {})[IDENTITY] = identity

    def apply(self, changes: Changes, positions: Mapping[str, int], current_at_ms: int) -> None:
        for family, rows in changes.items():
            held = self._rows.setdefault(family, {})
            for key, value in rows.items():
                if value is None:
                    held.pop(key, None)
                else:
                    held[key] = value
        for family, position in positions.items():
            self._rows.setdefault(family, {})[POSITION] = _encoded(position, current_at_ms)

    def empty(self, family: str) -> None:
        identity = self.identity(family)
        self._rows[family] = {} if identity is None else {IDENTITY: identity}

    def flush(self) -> None:
        """There is no disk."""

    def close(self) -> None:
        """Rows stay: a driver that restarts its tasks finds them again, as on disk."""


def open_store(path: Path, families: Iterable[str], memory: Memory, on_damage: Any) -> RocksStore:
    """Open, or move a damaged store aside (telling `on_damage(path, aside, error)`) and begin an empty one."""
    families = list(families)
    try:
        return RocksStore(path, families, memory)
    except StoreDamaged as error:
        if not path.exists():
            raise
        on_damage(path, set_aside(path), error)
        return RocksStore(path, families, memory)
