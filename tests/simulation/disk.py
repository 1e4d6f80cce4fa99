"""stores of one machine -> what is left of them after a crash: each family a beginning of what was written to it.

As RocksDB without a write-ahead log: an apply is one step for readers, but families flush apart, so a crash takes the
last writes of each family away independently. What one crash left, no later one takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random

from streams.errors import StoreDamaged, StoreUnavailable
from streams.store import IDENTITY, POSITION, MemoryStore
from tests.simulation.loop import PROCESS, Crashed

Rows = Mapping[bytes, bytes | None]


class Files:
    """One task's store on disk: what is flushed, and what was written to each family since."""

    def __init__(self) -> None:
        self.flushed: dict[str, dict[bytes, bytes]] = {}
        self.since: dict[str, list[Rows]] = {}
        self.open = False

    def flush(self, family: str, writes: int) -> None:
        rows = self.flushed.setdefault(family, {})
        for changes in self.since.get(family, [])[:writes]:
            for key, value in changes.items():
                if value is None:
                    rows.pop(key, None)
                else:
                    rows[key] = value
        self.since[family] = self.since.get(family, [])[writes:]

    def crash(self, chance: Random) -> None:
        """Each family keeps what it had flushed: anything from nothing to all of what was written since."""
        style = chance.choice(["all", "none", "any", "any"])
        for family, writes in self.since.items():
            kept = {"all": len(writes), "none": 0, "any": chance.randint(0, len(writes))}[style]
            self.flush(family, kept)
        self.since.clear()
        self.open = False


class SimStore(MemoryStore):
    """An open store."""

    def __init__(self, files: Files, disk: Disk) -> None:
        super().__init__()
        self._files, self._disk = files, disk
        self._rows = {family: dict(rows) for family, rows in files.flushed.items()}
        self.damaged = False
        files.open = True

    def get(self, family: str, key: bytes) -> bytes | None:
        if self.damaged:
            raise StoreDamaged("a block's checksum is wrong")
        return super().get(family, key)

    def range(self, family: str, start: bytes, end: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        if self.damaged:
            raise StoreDamaged("a block's checksum is wrong")
        return super().range(family, start, end, reverse)

    def identify(self, family: str, identity: bytes) -> None:
        self._refuse()
        super().identify(family, identity)
        self._files.since.setdefault(family, []).append({IDENTITY: identity})

    def apply(self, changes: Mapping[str, Rows], positions: Mapping[str, int], current_at_ms: int) -> None:
        self._refuse()
        families = changes.keys() | positions.keys()
        super().apply(changes, positions, current_at_ms)
        for family in sorted(families):
            rows = dict(changes.get(family, {}))
            if family in positions:
                rows[POSITION] = self._rows[family][POSITION]
            self._files.since.setdefault(family, []).append(rows)

    def empty(self, family: str) -> None:
        self._refuse()
        gone = dict.fromkeys(self._rows.get(family, {}).keys() - {IDENTITY})
        super().empty(family)
        self._files.since.setdefault(family, []).append(gone)

    def _refuse(self) -> None:
        """What a write meets that cannot be done."""
        process = PROCESS.get()
        if process is not None and not process.alive:
            raise Crashed
        if self._disk.full:
            raise StoreUnavailable("No space left on device")

    def close(self) -> None:
        """Flushes everything and lets go of the lock; a full disk takes what a crash would."""
        self._disk.let_go(self)
        if self._disk.full:
            self._files.crash(self._disk.chance)
        self._refuse()
        for family in list(self._files.since):
            self._files.flush(family, len(self._files.since[family]))
        self._files.open = False

    @property
    def files(self) -> Files:
        return self._files


class Disk:
    """A machine's state directory: it outlives the process, unless it is lost."""

    def __init__(self, chance: Random) -> None:
        self.files: dict[str, Files] = {}
        self.stores: dict[str, SimStore] = {}
        self.full = False
        self.chance = chance

    def open(self, task: str) -> SimStore:
        files = self.files.setdefault(task, Files())
        if files.open:
            raise StoreUnavailable(f"{task}: another process holds the lock")
        store = self.stores[task] = SimStore(files, self)
        return store

    def let_go(self, store: SimStore) -> None:
        self.stores = {task: other for task, other in self.stores.items() if other is not store}

    def set_aside(self, task: str) -> None:
        """A damaged store is moved out of the way: the next one begins empty."""
        self.files.pop(task, None)
        self.stores.pop(task, None)

    def crash(self) -> None:
        """The process is gone: locks are free, and every store has lost its tails."""
        for files in self.files.values():
            if files.open:
                files.crash(self.chance)
        self.stores.clear()
        self.full = False

    def lose(self, task: str | None = None) -> None:
        """The directory of one task, or of all, is gone. Only while no process runs on it."""
        for name in [task] if task is not None else list(self.files):
            self.files.pop(name, None)
