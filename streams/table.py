"""a declaration -> a table: state of one group, by key, backed by a changelog topic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Generic, TypeVar, overload

from streams.batch import Batch, current_view, view_in_use
from streams.codec import Codec, codec_for
from streams.errors import TooLarge
from streams.store import Store

#: The largest record of a changelog (its topic's max.message.bytes), and of the rows in it, whose overhead is far less.
CHANGELOG_MAX_BYTES = 4 << 20
MAX_ROW_BYTES = CHANGELOG_MAX_BYTES - 1024

V = TypeVar("V")
D = TypeVar("D")
#: Keys and values as they are stored, in the order of the keys.
Rows = Iterator[tuple[bytes, bytes]]


class Table(Generic[V]):
    """State by key. Inside an agent it reads and writes the batch; within `app.reading(...)` committed state.

    Keys are non-empty text without a leading NUL; their bytes are UTF-8, so ranges are in code point order.
    Values are encoded by `codec` when the batch commits.
    """

    def __init__(
        self,
        app_id: str,
        name: str,
        *,
        group: str,
        value_type: Any = None,
        codec: Codec[V] | None = None,
        help: str = "",
    ) -> None:
        self.name, self.group, self.help = name, group, help
        self.codec: Codec[V] = codec or codec_for(value_type)
        self.encode = self.codec.encode
        self.changelog = f"{app_id}-{name}-changelog"

    @overload
    def get(self, key: str) -> V | None: ...
    @overload
    def get(self, key: str, default: D) -> V | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        value = view_in_use(self.name).get(self, key.encode())
        return default if value is None else value

    def __getitem__(self, key: str) -> V:
        value: V | None = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __setitem__(self, key: str, value: V) -> None:
        view = current_view.get()
        batch = view if view.__class__ is Batch else self._batch()  # four of these for each order: no detour
        raw = key.encode()
        if not raw or raw[0] == 0:
            raise self._bad_key(key)
        row = self.encode(value)
        if len(row) + len(raw) > MAX_ROW_BYTES:
            raise TooLarge(
                f"row {key[:64]!r} of table {self.name} has {len(row)} bytes; its changelog takes {MAX_ROW_BYTES}"
            )
        batch.put(self, raw, row)

    def __delitem__(self, key: str) -> None:
        batch, raw = self._batch(), key.encode()
        if not raw or raw[0] == 0:
            raise self._bad_key(key)
        batch.put(self, raw, None)

    def range(
        self, prefix: str = "", *, after: str | None = None, limit: int | None = None, reverse: bool = False
    ) -> Iterator[tuple[str, V]]:
        """Rows whose key starts with `prefix`, in key order; `after` (exclusive) goes on from an earlier read."""
        start, end = prefix_bounds(prefix.encode())
        if after is not None:
            if reverse:
                end = min(end, after.encode())
            else:
                start = max(start, after.encode() + b"\0")
        rows = view_in_use(self.name).range(self, start, end, reverse)
        for key, value in rows if limit is None else islice(rows, limit):
            yield key.decode(), value

    def _batch(self) -> Batch:
        view = view_in_use(self.name)
        if not isinstance(view, Batch):
            raise RuntimeError(f"table {self.name} is written by its agents only; here it is open for reading")
        return view

    def _bad_key(self, key: str) -> ValueError:
        """Keys of the store itself begin with NUL."""
        return ValueError(f"a key of table {self.name} must not be empty or begin with NUL: {key!r}")

    def __repr__(self) -> str:
        return f"<Table {self.name} of {self.group}>"


def prefix_bounds(prefix: bytes) -> tuple[bytes, bytes]:
    """[start, end) of all table keys with this prefix. UTF-8 never holds 0xff, so prefix + 0xff ends every prefix."""
    return prefix or b"\x01", prefix + b"\xff"


def every_row(store: Store, family: str) -> Rows:
    """All rows of a table as they are stored, in the order of their keys."""
    return store.range(family, *prefix_bounds(b""), reverse=False)


def side_by_side(left: Rows, right: Rows) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Every key of either, in their order, with what both have for it; both are sorted by key."""
    mine, theirs = next(left, None), next(right, None)
    while mine is not None or theirs is not None:
        if theirs is None or (mine is not None and mine[0] < theirs[0]):
            assert mine is not None, "one of them is there"
            yield mine[0], mine[1], None
            mine = next(left, None)
        elif mine is None or theirs[0] < mine[0]:
            yield theirs[0], None, theirs[1]
            theirs = next(right, None)
        else:
            yield mine[0], mine[1], theirs[1]
            mine, theirs = next(left, None), next(right, None)
