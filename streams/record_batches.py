"""Reads the record batches of a fetch in bounded memory and time, whatever their compression, sizes and headers.

A producer may send a small compressed batch that expands to gigabytes, a record with a million headers, or a header
whose name is not UTF-8; the broker accepts all of them. aiokafka 0.14 expands a batch as a whole, has no bound, and
raises at such a name, so that one record could end a worker or stop a partition for ever.

`install` puts this module's classes in place of aiokafka's in its fetcher, for every consumer of the process:

- a batch that expands to at most MAX_EXPANDED_BYTES is read by aiokafka's own C code;
- a larger one, and one with a large record, is read record by record while it is expanded (`stream_records`);
- a record above MAX_RECORD_BYTES or with more than MAX_HEADERS headers comes as `Omitted`, with its size and digest;
- one read of a partition ends after MAX_READ_BYTES, however many records were asked for.

Source of the format: Apache Kafka, "Record Batch" and "Record" (message format v2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import Any, NamedTuple

import cramjam
import lz4.frame
import zstandard
from aiokafka.codec import snappy_decode
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.memory_records import _MemoryRecordsPy

from streams.records import Omitted

#: A batch is expanded at once up to this size: above what a producer sends that means well (1 MiB by default).
MAX_EXPANDED_BYTES = 16 << 20
#: No topic of ours takes a larger record; the largest are the rows of changelogs, with 4 MiB.
MAX_RECORD_BYTES = 5 << 20
MAX_HEADERS = 1_000
#: What one read of a partition returns at most, in bytes of values; the last record may exceed it.
MAX_READ_BYTES = 8 << 20
#: Only in a batch of more bytes could one record have so many headers that aiokafka needs 50 ms for them.
LOOK_FOR_LARGE_ABOVE_BYTES = 5 << 18
LARGE_RECORD_BYTES = 64 << 10
#: A key that is larger is left out of a record that is `Omitted`.
MAX_OMITTED_KEY_BYTES = 64 << 10
_CHUNK_BYTES = 256 << 10

_NONE, _GZIP, _SNAPPY, _LZ4, _ZSTD = range(5)
_CODEC_MASK = 0x07
_LOG_APPEND_TIME = 0x08
_ATTRIBUTES_AT = 21
#: base offset, length, leader epoch, magic, CRC, attributes, last offset delta, first and largest timestamp, producer
#: id and epoch, first sequence, number of records.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class BatchRecord(NamedTuple):
    """A record as aiokafka's fetcher takes one from a batch."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    checksum: None = None


def expand(codec: int, data: bytes | memoryview) -> bytes | None:
    """The expanded records of a batch; None when they are more than MAX_EXPANDED_BYTES, or are damaged."""
    try:
        if codec == _GZIP:
            return _gunzip(data)
        if codec == _SNAPPY:
            return None if _snappy_size(data) > MAX_EXPANDED_BYTES else snappy_decode(data)
        into = cramjam.lz4.decompress_into if codec == _LZ4 else cramjam.zstd.decompress_into
        room = bytearray(MAX_EXPANDED_BYTES)  # zeroed by the kernel, page by page, where something is written
        size = into(bytes(data), room)
        return bytes(memoryview(room)[:size])
    except (zlib.error, struct.error, cramjam.DecompressionError, CorruptRecordException):
        return None  # the careful reading says what is wrong


def _gunzip(data: bytes | memoryview) -> bytes | None:
    parts, room = [], MAX_EXPANDED_BYTES + 1
    for part in _gzip_chunks(data):
        parts.append(part)
        room -= len(part)
        if room <= 0:
            return None
    return b"".join(parts)


def _snappy_blocks(data: bytes | memoryview) -> Iterator[bytes]:
    """The blocks of Java's framing (xerial), or the whole as one block."""
    raw = bytes(data)
    if not raw.startswith(_XERIAL):
        yield raw
        return
    at = _XERIAL_HEADER_BYTES
    while at < len(raw):
        (size,) = struct.unpack_from(">i", raw, at)
        yield raw[at + 4 : at + 4 + size]
        at += 4 + size


def _snappy_size(data: bytes | memoryview) -> int:
    return sum(cramjam.snappy.decompress_raw_len(block) for block in _snappy_blocks(data))


def _gzip_chunks(data: bytes | memoryview) -> Iterator[bytes]:
    left = bytes(data)
    while left:  # a gzip file may have several members
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            chunk = member.decompress(left, _CHUNK_BYTES)
            left = member.unconsumed_tail
            if not chunk and not left and not member.eof:
                raise CorruptRecordException("a gzip batch ends in the middle")
            if chunk:
                yield chunk
        left = member.unused_data


def _lz4_chunks(data: bytes | memoryview) -> Iterator[bytes]:
    frame, left = lz4.frame.LZ4FrameDecompressor(), bytes(data)
    while not frame.eof:
        chunk = frame.decompress(left, max_length=_CHUNK_BYTES)
        left = b""
        if not chunk and frame.needs_input:
            raise CorruptRecordException("an LZ4 batch ends in the middle")
        if chunk:
            yield chunk


def _zstd_chunks(data: bytes | memoryview) -> Iterator[bytes]:
    with zstandard.ZstdDecompressor().stream_reader(bytes(data), read_across_frames=True) as reader:
        while chunk := reader.read(_CHUNK_BYTES):
            yield chunk


def _chunks(codec: int, data: bytes | memoryview) -> Iterator[bytes]:
    """The expanded records piece by piece. Raises CorruptRecordException."""
    try:
        if codec == _NONE:
            yield bytes(data)
        elif codec == _GZIP:
            yield from _gzip_chunks(data)
        elif codec == _SNAPPY:
            # A block expands at most 21 times, so each fits into memory.
            yield from (bytes(cramjam.snappy.decompress_raw(block)) for block in _snappy_blocks(data))
        elif codec == _LZ4:
            yield from _lz4_chunks(data)
        elif codec == _ZSTD:
            yield from _zstd_chunks(data)
        else:
            raise CorruptRecordException(f"a batch has the unknown compression {codec}")
    except (zlib.error, RuntimeError, zstandard.ZstdError, cramjam.DecompressionError, struct.error) as error:
        raise CorruptRecordException(f"a batch cannot be expanded: {error}") from error


class _Input:
    """Bytes that come in pieces; `taken` counts those that were consumed."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")
        self.taken = 0

    def _piece(self, most: int) -> memoryview:
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise CorruptRecordException("a batch ends in the middle of a record")
            self._left = memoryview(chunk)
        piece, self._left = self._left[:most], self._left[most:]
        self.taken += len(piece)
        return piece

    def read(self, size: int) -> bytes:
        if size <= len(self._left):
            return bytes(self._piece(size)) if size else b""
        parts = []
        while size > 0:
            parts.append(self._piece(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def skip(self, size: int, digest: Any = None) -> None:
        while size > 0:
            piece = self._piece(size)
            size -= len(piece)
            if digest is not None:
                digest.update(piece)

    def varint(self) -> int:
        """A signed integer of up to 64 bits, zigzag encoded."""
        value = shift = 0
        while True:
            byte = self._piece(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7
            if shift > 63:
                raise CorruptRecordException("a number in a batch is longer than 64 bits")

    def sized(self) -> bytes | None:
        """A length and as many bytes; -1 stands for null."""
        size = self.varint()
        return None if size < 0 else self.read(size)


def stream_records(raw: bytes | memoryview) -> Iterator[BatchRecord]:
    """The records of one batch, expanded as they are read. Raises CorruptRecordException."""
    base, _, _, _, _, attributes, _, first_ms, largest_ms, _, _, _, count = _HEADER.unpack_from(raw)
    source = _Input(_chunks(attributes & _CODEC_MASK, memoryview(raw)[_HEADER.size :]))
    on_arrival = bool(attributes & _LOG_APPEND_TIME)
    for _ in range(count):
        size = source.varint()
        end = source.taken + size
        source.skip(1)  # attributes, unused
        timestamp = first_ms + source.varint()
        offset = base + source.varint()
        read = _read_content if size <= MAX_RECORD_BYTES else _digest_content
        key, value, headers = read(source, end)
        if source.taken != end:
            raise CorruptRecordException(f"a record at offset {offset} does not end where its length says")
        yield BatchRecord(offset, largest_ms if on_arrival else timestamp, int(on_arrival), key, value, headers)


_Content = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def _read_content(source: _Input, end: int) -> _Content:
    key, value = source.sized(), source.sized()
    count = source.varint()
    if count > MAX_HEADERS:
        source.skip(end - source.taken)
        omitted = Omitted.of(len(value or b""), sha256(value or b"").hexdigest())
        return key if key is None or len(key) <= MAX_OMITTED_KEY_BYTES else None, omitted, []
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        # A name that is not UTF-8 becomes text that can be sent on: b"\xff" as the four characters \xff.
        name = (source.sized() or b"").decode("utf-8", "backslashreplace")
        headers.append((name, source.sized()))
    return key, value, headers


def _digest_content(source: _Input, end: int) -> _Content:
    """Of a record that is too large to be held: the key, if it is small, and the size and digest of the value."""
    size = source.varint()
    key = source.read(size) if 0 <= size <= MAX_OMITTED_KEY_BYTES else None
    if size > MAX_OMITTED_KEY_BYTES:
        source.skip(size)
    size = max(0, source.varint())
    digest = sha256()
    source.skip(size, digest)
    source.skip(end - source.taken)
    return key, Omitted.of(size, digest.hexdigest()), []


def _has_large_record(data: bytes, count: int) -> bool:
    """Whether one of the records is above LARGE_RECORD_BYTES: goes from length to length."""
    at = 0
    for _ in range(count):
        value = shift = 0
        while True:
            if at >= len(data):
                return True  # damaged: the careful reading says where
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80 or shift > 63:
                break
        size = (value >> 1) ^ -(value & 1)
        if size > LARGE_RECORD_BYTES or size < 0:
            return True
        at += size
    return False


class _Batch:
    """One batch: what its header says comes from aiokafka's C code, its records from there too where that is safe."""

    def __init__(self, raw: memoryview) -> None:
        self._raw, self._fast = raw, DefaultRecordBatch(raw)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fast, name)

    def __next__(self) -> Any:
        """The one record of a control batch; these are small and never compressed."""
        return next(self._fast)

    def __iter__(self) -> Iterator[Any]:
        done, batch = 0, self._readable()
        if batch is not None:
            try:
                for record in batch:
                    yield record
                    done += 1
                return
            except UnicodeDecodeError:
                pass  # the name of a header
        for number, record in enumerate(stream_records(self._raw)):
            if number >= done:
                yield record

    def _readable(self) -> Any:
        """The batch, expanded, for the C code; None when it has to be read record by record."""
        raw, batch = self._raw, self._fast
        if batch.compression_type != _NONE:
            data = expand(batch.compression_type, raw[_HEADER.size :])
            if data is None:
                return None
            head = bytearray(raw[: _HEADER.size])
            struct.pack_into(">h", head, _ATTRIBUTES_AT, batch.attributes & ~_CODEC_MASK)
            raw = memoryview(bytes(head) + data)
            batch = DefaultRecordBatch(bytes(raw))
        if len(raw) > LOOK_FOR_LARGE_ABOVE_BYTES:
            (count,) = struct.unpack_from(">i", raw, _HEADER.size - 4)
            if _has_large_record(bytes(raw[_HEADER.size :]), count):
                return None
        return batch


class _Records(_MemoryRecordsPy):  # type: ignore[misc]  # aiokafka has no types
    """The batches of one partition in a fetch."""

    def next_batch(self, *sizes: Any) -> Any:
        raw = self._next_slice
        batch = super().next_batch(*sizes)
        return _Batch(raw) if isinstance(batch, DefaultRecordBatch) else batch


class _FetchResult(fetcher.FetchResult):  # type: ignore[misc]
    """What was fetched of one partition, handed out in reads of bounded size."""

    _partition_records: Any

    def getall(self, max_records: int | None = None) -> list[Any]:
        if not self.check_assignment(self._topic_partition) or not self.has_more():
            return []
        taken: list[Any] = []
        room = MAX_READ_BYTES
        for record in self._partition_records:
            taken.append(record)
            value = record.value
            if value is not None:
                room -= value.size if value.__class__ is Omitted else len(value)
            if room <= 0 or len(taken) == max_records:
                self._update_position()
                return taken
        self._update_position()
        self._partition_records = None
        return taken


def install() -> None:
    """Patch aiokafka 0.14: every consumer of this process reads as above."""
    fetcher.MemoryRecords = _Records
    fetcher.FetchResult = _FetchResult
