"""Record batches as hostile producers write them -> the same records, in bounded memory, or `Omitted`."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import cramjam
import lz4.frame
import pytest
import zstandard
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from pytest import mark

from streams import record_batches
from streams.record_batches import MAX_EXPANDED_BYTES, MAX_HEADERS, MAX_READ_BYTES, MAX_RECORD_BYTES
from streams.records import Omitted, TopicPartition

GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
CODECS = [0, GZIP, SNAPPY, LZ4, ZSTD]
MIB = 1 << 20
ORDERS = TopicPartition("orders", 0)

Content = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]


def batch(records: list[Content], codec: int = 0, base: int = 0) -> bytes:
    """A batch as aiokafka's producer writes it."""
    builder: Any = DefaultRecordBatchBuilder(
        magic=2, compression_type=codec, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
        batch_size=1 << 30,
    )  # fmt: skip
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, timestamp=1000 + number, key=key, value=value, headers=headers)
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, base)
    return bytes(raw)


def read(raw: bytes) -> list[Any]:
    records = record_batches._Records(raw)
    found = []
    while records.has_next():
        found += list(records.next_batch())
    return found


def content(records: list[Any]) -> list[Content]:
    return [(each.key, each.value, each.headers) for each in records]


USUAL: list[Content] = [(b"k%d" % number, b"value %d" % number, [("h", None), ("é", b"1")]) for number in range(50)]


@mark.parametrize("codec", CODECS)
def test_usual_records_are_read_as_they_were_written(codec: int) -> None:
    found = read(batch([*USUAL, (None, None, [])], codec, base=7))
    assert content(found) == [*USUAL, (None, None, [])]
    assert [each.offset for each in found] == list(range(7, 58))
    assert [each.timestamp for each in found] == list(range(1000, 1051))


@mark.parametrize("codec", CODECS)
def test_a_record_above_the_limit_comes_as_its_size_and_digest(codec: int) -> None:
    large = b"x" * (MAX_RECORD_BYTES + 1)
    found = read(batch([*USUAL, (b"k", large, [("h", b"1")]), (b"z", b"small", [])], codec))
    assert content(found[:50]) == USUAL
    omitted = found[50].value
    assert isinstance(omitted, Omitted) and omitted == b"" and found[50].key == b"k"
    assert (omitted.size, omitted.sha256) == (len(large), sha256(large).hexdigest())
    assert content(found[51:]) == [(b"z", b"small", [])]


@mark.parametrize("codec", CODECS)
def test_a_record_with_too_many_headers_comes_without_them(codec: int) -> None:
    headers: list[tuple[str, bytes | None]] = [("h", None)] * 700_000
    found = read(batch([(b"k", b"v", headers), (b"z", b"small", [])], codec))
    assert (found[0].value.size, found[0].value.sha256) == (1, sha256(b"v").hexdigest())
    assert found[0].headers == [] and found[1].value == b"small"


def test_as_many_headers_as_are_read_are_all_there() -> None:
    headers: list[tuple[str, bytes | None]] = [(f"h{number}", b"v") for number in range(MAX_HEADERS)]
    large = b"x" * (2 * MIB)
    assert content(read(batch([(b"k", large, headers)]))) == [(b"k", large, headers)]


def test_a_key_that_is_too_large_is_left_out_of_a_record_that_is_omitted() -> None:
    found = read(batch([(b"k" * MAX_RECORD_BYTES, b"value", []), (b"z", b"small", [])]))
    assert found[0].key is None and found[0].value.size == 5 and found[1].value == b"small"


def expanding(codec: int, mebibytes: int) -> bytes:
    """A batch of records of one mebibyte each, compressed piece by piece, as no builder could hold it."""
    head = bytearray(batch([(None, b"", [])], codec)[:61])
    struct.pack_into(">i", head, 23, mebibytes - 1)
    struct.pack_into(">i", head, 57, mebibytes)
    pieces = []
    compress: Any
    if codec == GZIP:
        compress = zlib.compressobj(9, wbits=31)
    elif codec == LZ4:
        compress = lz4.frame.LZ4FrameCompressor(compression_level=9, block_linked=False)
        pieces.append(compress.begin())
    else:
        compress = zstandard.ZstdCompressor(level=3).compressobj()
    for number in range(mebibytes):
        body = b"\0" + b"\0" + varint(number) + varint(-1) + varint(MIB) + b"x" * MIB + varint(0)
        pieces.append(compress.compress(varint(len(body)) + body))
    pieces.append(compress.flush())
    data = b"".join(pieces)
    struct.pack_into(">i", head, 8, 49 + len(data))
    return bytes(head) + data


def varint(number: int) -> bytes:
    left, out = (number << 1) ^ (number >> 63), bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    return bytes(out) + bytes([left])


@mark.parametrize("codec", [GZIP, LZ4, ZSTD])
def test_a_batch_that_expands_to_hundreds_of_mebibytes_is_never_held_as_a_whole(codec: int) -> None:
    raw = expanding(codec, 300)
    assert len(raw) < 2 * MIB
    tracemalloc.start()
    try:
        records = record_batches._Records(raw)
        count = 0
        for record in records.next_batch():
            assert record.offset == count and len(record.value) == MIB
            count += 1
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 300
    assert peak < MAX_EXPANDED_BYTES + 12 * MIB, f"{peak / MIB:.0f} MiB at most at once"


def test_one_read_of_a_partition_is_bounded_in_bytes_and_the_next_goes_on_where_it_ended() -> None:
    state = SimpleNamespace(paused=False, position=0)
    state.consumed_to = lambda offset: setattr(state, "position", offset)
    assignment = SimpleNamespace(active=True, state_value=lambda _: state)
    records = fetcher.PartitionRecords(
        ORDERS, record_batches._Records(batch([(None, b"x" * MIB, [])] * 20)), [], 0, None, None, True, 0
    )  # fmt: skip
    result = record_batches._FetchResult(ORDERS, assignment=assignment, partition_records=records, backoff=0)
    sizes = []
    while result.has_more():
        sizes.append(len(result.getall(2_000)))
        assert state.position == sum(sizes)
    assert sizes == [MAX_READ_BYTES // MIB] * 2 + [4]
    assert sum(sizes) == 20


@mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD])
def test_a_damaged_batch_is_an_error_and_no_endless_loop(codec: int) -> None:
    raw = bytearray(batch([(b"k", b"v" * 100_000, [])], codec))
    for cut in (raw[: 61 + (len(raw) - 61) // 2], raw[:61] + b"\0" * (len(raw) - 61)):
        broken = bytearray(cut)
        struct.pack_into(">i", broken, 8, len(broken) - 12)
        with pytest.raises((CorruptRecordException, cramjam.DecompressionError)):
            read(bytes(broken))


def test_aiokafka_still_needs_the_patch() -> None:
    """When aiokafka reads any header name, one reason for this module is gone; the bounds are the other."""
    raw = bytearray(batch([(b"k", b"v", [("QQ", b"1")])]))
    raw[raw.index(b"QQ") : raw.index(b"QQ") + 2] = b"\xff\xfe"
    with pytest.raises(UnicodeDecodeError):
        list(MemoryRecords(bytes(raw)).next_batch())
