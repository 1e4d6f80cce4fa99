"""Keys -> streams.partitioner -> the same numbers as Java's own test vectors and as aiokafka's partitioner."""

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import example, given
from hypothesis import strategies as st

from streams.partitioner import murmur2, partition_for

# Apache Kafka, clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java, testMurmur2: signed 32-bit results.
JAVA_VECTORS = [
    (b"21", -973932308),
    (b"foobar", -790332482),
    (b"a-little-bit-long-string", -985981536),
    (b"a-little-bit-longer-string", -1486304829),
    (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
    (b"abc", 479470107),
]


@pytest.mark.parametrize(("key", "signed"), JAVA_VECTORS)
def test_java_vectors(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=400))
@example(b"")
@example(b"\xff" * 255)
@example(b"\xff" * 256)
@example(b"\xff" * 259)
@example(b"\xff" * 260)
def test_equals_aiokafka_for_any_bytes(key: bytes) -> None:
    assert murmur2(key) == aiokafka_murmur2(key)


@given(st.binary(max_size=64), st.integers(min_value=1, max_value=1000))
def test_partition_equals_the_producers(key: bytes, partitions: int) -> None:
    everything = list(range(partitions))
    assert partition_for(key, partitions) == DefaultPartitioner()(key, everything, everything)


def test_a_negative_java_hash_stays_in_range() -> None:
    """-973932308 in Java: without toPositive the remainder would be negative there and differ here."""
    assert partition_for(b"21", 4) == (-973932308 & 0x7FFFFFFF) % 4


@pytest.mark.parametrize("partitions", [0, -1])
def test_no_partitions_is_an_error(partitions: int) -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partition_for(b"k", partitions)
