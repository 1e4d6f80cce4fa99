"""an application's topology -> what its user must be allowed to on the brokers, and not a right more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from streams.topology import Group, transactional_id


class Resource(StrEnum):
    """What a right is on; the values are the options of Kafka's kafka-acls tool."""

    TOPIC = "topic"
    GROUP = "group"
    TRANSACTIONAL_ID = "transactional-id"


class Operation(StrEnum):
    """Kafka's names. Read, Write, Delete and Alter include Describe."""

    READ = "Read"
    WRITE = "Write"
    CREATE = "Create"
    DELETE = "Delete"
    DESCRIBE_CONFIGS = "DescribeConfigs"
    ALTER_CONFIGS = "AlterConfigs"


@dataclass(frozen=True)
class Right:
    """Operations on one resource, or on all whose names begin like it (`prefixed`), and what they are needed for."""

    resource: Resource
    name: str
    operations: tuple[Operation, ...]
    why: str
    prefixed: bool = False


class Reader(Protocol):
    """A consumer group beside the engine's, such as a sink's."""

    @property
    def group_id(self) -> str: ...
    @property
    def topics(self) -> Collection[str]: ...


#: What a topic needs that is read and written; the start compares its configuration with what is declared.
READ_WRITE = (Operation.READ, Operation.WRITE, Operation.DESCRIBE_CONFIGS)
WRITE_ONLY = (Operation.WRITE, Operation.DESCRIBE_CONFIGS)
READ_ONLY = (Operation.READ, Operation.DESCRIBE_CONFIGS)


def of_worker(
    app_id: str,
    topics: Iterable[str],
    groups: Mapping[str, Group],
    readers: Collection[Reader],
    looked_into: Collection[str] = (),
    live: str | None = None,
    begun: str | None = None,
) -> list[Right]:
    """What `faust worker` needs.

    Not in it: IdempotentWrite, which Write on a topic includes since Kafka 2.8, and anything on the cluster itself.
    """
    inputs = {topic: group.name for group in groups.values() for topic in group.agents}
    read_beside = {topic: reader.group_id for reader in readers for topic in reader.topics}
    rights = []
    for topic in topics:
        if topic in inputs:
            why = f"input of group {inputs[topic]}; also written: requests, and records brought to their home partition"
            rights.append(_topic(topic, READ_WRITE, why))
        elif topic in read_beside:
            rights.append(_topic(topic, READ_WRITE, f"output, read by {read_beside[topic]}"))
        elif topic == live:
            rights.append(_topic(topic, READ_ONLY, "which version is live"))
        elif topic == begun:
            rights.append(_topic(topic, READ_WRITE, "which effects have begun"))
        elif topic in looked_into:
            rights.append(_topic(topic, READ_WRITE, "output, looked into when the past is asked for"))
        else:
            rights.append(_topic(topic, WRITE_ONLY, "output"))
    for group in groups.values():
        for table in group.tables.values():
            rights.append(_topic(table.changelog, READ_WRITE, f"table {table.name}: written, and read in recovery"))
        if group.agents:
            why = f"the order in which group {group.name} takes its inputs"
            rights.append(_topic(group.journal_topic, READ_WRITE, why))
    rights.append(Right(Resource.GROUP, app_id, (Operation.READ,), "membership, and positions in transactions"))
    rights += [
        Right(Resource.GROUP, reader.group_id, (Operation.READ,), f"reads {', '.join(reader.topics)}")
        for reader in readers
    ]
    return rights + [
        fence(prefix, f"the fence of group {name}'s tasks")
        for name, group in groups.items()
        if group.agents and (prefix := transactional_id(app_id, f"{name}-"))
    ]


def fence(prefix: str, why: str) -> Right:
    """Transactional ids that begin so."""
    return Right(Resource.TRANSACTIONAL_ID, prefix, (Operation.WRITE,), why, prefixed=True)


def with_more(rights: Iterable[Right], more: Iterable[Right]) -> list[Right]:
    """Both lists, with one right for each resource."""
    merged: dict[tuple[Resource, str, bool], Right] = {}
    for right in (*rights, *more):
        found = merged.setdefault((right.resource, right.name, right.prefixed), right)
        if found is not right:
            operations = tuple(dict.fromkeys(found.operations + right.operations))
            merged[right.resource, right.name, right.prefixed] = replace(
                found, operations=operations, why=f"{found.why}; {right.why}"
            )
    return list(merged.values())


def _topic(name: str, operations: tuple[Operation, ...], why: str) -> Right:
    return Right(Resource.TOPIC, name, operations, why)
