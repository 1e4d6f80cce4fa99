"""Faust's vocabulary over exactly-once tasks: what applications import."""

from streams.agent import Agent, Stream
from streams.app import App
from streams.brokers import Security
from streams.codec import Codec, positional
from streams.errors import FaultAt, Misdeclared, NotOwner, NotReadable, Poison
from streams.partitioner import partition_for
from streams.reading import Owner
from streams.records import Event, Outgoing, Position, Record, TopicPartition
from streams.table import Table
from streams.topic import Topic

__all__ = [
    "Agent",
    "App",
    "Codec",
    "Event",
    "FaultAt",
    "Misdeclared",
    "NotOwner",
    "NotReadable",
    "Outgoing",
    "Owner",
    "Poison",
    "Position",
    "Record",
    "Security",
    "Stream",
    "Table",
    "Topic",
    "TopicPartition",
    "partition_for",
    "positional",
]
