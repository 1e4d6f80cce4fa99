"""declared topics, tables and agents -> groups that are worked on together, a task for each of their partitions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streams.errors import Misdeclared
from streams.records import TopicPartition

if TYPE_CHECKING:
    from streams.agent import Agent
    from streams.deadlines import Deadlines
    from streams.table import Table
    from streams.topic import Topic


@dataclass
class Group:
    """Co-partitioned input topics with the agents and tables that belong to them (Kafka Streams: a sub-topology)."""

    name: str
    app_id: str
    topics: dict[str, Topic] = field(default_factory=dict)
    tables: dict[str, Table[Any]] = field(default_factory=dict)
    agents: dict[str, Agent[Any]] = field(default_factory=dict)  # by topic: each record has one agent
    deadlines: Deadlines | None = None

    @property
    def partitions(self) -> int:
        return next(iter(self.topics.values())).partitions

    def inputs(self, partition: int) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for topic in self.agents]

    def changelogs(self, partition: int) -> dict[str, TopicPartition]:
        return {name: TopicPartition(table.changelog, partition) for name, table in self.tables.items()}

    @property
    def journal_topic(self) -> str:
        """Where the tasks of this group write down in which order they took their inputs (streams/journal.py)."""
        return f"{self.app_id}-{self.name}-journal"

    def journal(self, partition: int) -> TopicPartition:
        return TopicPartition(self.journal_topic, partition)

    def check(self) -> None:
        """Raise Misdeclared when the parts do not fit together."""
        counts = {topic.name: topic.partitions for topic in self.topics.values()}
        if len(set(counts.values())) > 1:
            raise Misdeclared(
                f"the topics of group {self.name} must have the same number of partitions, or keys would not meet"
                f" their tables: {counts}"
            )
        if self.tables and not self.agents:
            raise Misdeclared(f"tables {sorted(self.tables)} belong to group {self.name}, which has no agent")


def task_name(group: str, partition: int) -> str:
    return f"{group}-{partition}"


def transactional_id(app_id: str, task: str) -> str:
    """One for each task: that is the fence."""
    return f"{app_id}-{task}"


def parse_task_name(name: str) -> tuple[str, int]:
    group, _, partition = name.rpartition("-")
    return group, int(partition)
