"""a record batch whose header names are not all UTF-8 -> the same records, such names written as text.

Kafka's brokers take any bytes for a header's name. aiokafka's reader raises UnicodeDecodeError at the first that is not
UTF-8 and can never get past it, so one such record, from whoever may write to an input, would hold its partition for
ever. Reading as below costs a second look at each batch; so it is switched on by the first such record.
"""

from __future__ import annotations

from typing import Any, Self

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def read_any_header() -> None:
    """From now on every consumer of this process reads such records."""
    fetcher.MemoryRecords = _Records


class _AnyText(bytes):
    r"""Bytes that always decode: b"\xff" becomes the four characters \xff, which can be sent on."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _AnyText(found) if isinstance(found, bytes) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "backslashreplace")


class _Batch(_DefaultRecordBatchPy):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's own reader in Python, over such bytes."""

    def __iter__(self) -> Self:
        super().__iter__()
        self._buffer: Any = _AnyText(self._buffer)
        return self


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    """Batch after batch; aiokafka's quick reader for each that it can read."""

    def next_batch(self, *sizes: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch(*sizes)
        if isinstance(batch, DefaultRecordBatch):
            try:
                for _ in DefaultRecordBatch(raw):
                    pass
            except UnicodeDecodeError:
                return _Batch(raw)
        return batch
