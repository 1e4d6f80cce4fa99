"""members with what they hold -> who works on which task, who keeps a standby of it, and where each task answers.

Sticky: a task stays where it runs, else goes where its store lies, else to whoever has least. Every group is spread by
itself, so that no worker gets all of one and none of another. Each member's answer carries the whole table task -> URL,
which is the owner lookup of every HTTP read and changes atomically with each rebalance.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.topology import Group, parse_task_name, task_name

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """What a member says of itself when it joins: where it answers, what it runs, and whose stores lie on its disk."""

    url: str
    running: tuple[str, ...] = ()
    stored: tuple[str, ...] = ()
    standby_replicas: int = 0

    def to_json(self) -> bytes:
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, raw: bytes) -> Member:
        data = orjson.loads(raw)
        return cls(data["url"], tuple(data["running"]), tuple(data["stored"]), data.get("standby_replicas", 0))


@dataclass
class Assignment:
    """The outcome: tasks by member, and for each task the member ids that keep a standby."""

    tasks: dict[str, list[str]] = field(default_factory=dict)
    standbys: dict[str, list[str]] = field(default_factory=dict)


def assign(
    groups: Mapping[str, int], members: Mapping[str, Member], able: Mapping[str, Collection[str]] | None = None
) -> Assignment:
    """Pure and deterministic: the same groups (name -> partitions) and members give the same answer.

    `able`: by group the members that can work on it; without it, all can. While workers of two versions run, those of
    the older one do not read an input that is new: a task of its group would stop them.
    """
    able = able or {}
    got: dict[str, list[str]] = {member: [] for member in sorted(members)}
    for group, partitions in sorted(groups.items()):
        workers = {name: member for name, member in members.items() if name in able.get(group, members)}
        if workers:
            _assign_group([task_name(group, partition) for partition in range(partitions)], workers, got)
        else:
            log.error("no worker reads all inputs of group %s: nobody works on it until one does", group)
    replicas = min(max((member.standby_replicas for member in members.values()), default=0), len(members) - 1)
    return Assignment(got, _standbys(got, members, replicas, able))


def _assign_group(tasks: list[str], members: Mapping[str, Member], got: dict[str, list[str]]) -> None:
    share, extra = divmod(len(tasks), len(members))
    mine: dict[str, list[str]] = {member: [] for member in sorted(members)}
    free = dict.fromkeys(tasks)

    def room(member: str) -> int:
        """How many more this member may take: its share, and one of the extra ones while there are any."""
        nonlocal extra
        over = sum(len(held) > share for held in mine.values())
        return share - len(mine[member]) + (1 if extra > over else 0)

    def take(member: str, wanted: Iterable[str]) -> None:
        for task in wanted:
            if task in free and room(member) > 0:
                mine[member].append(task)
                del free[task]

    for member in sorted(mine, key=lambda name: (-sum(task in free for task in members[name].running), name)):
        take(member, members[member].running)
    for member in sorted(mine):
        take(member, members[member].stored)
    for task in list(free):
        member = min(
            (name for name in mine if room(name) > 0), key=lambda name: (len(mine[name]), len(got[name]), name)
        )
        take(member, [task])
    for member, held in mine.items():
        got[member].extend(held)


def _standbys(
    got: Mapping[str, list[str]], members: Mapping[str, Member], replicas: int, able: Mapping[str, Collection[str]]
) -> dict[str, list[str]]:
    load = dict.fromkeys(got, 0)
    standbys: dict[str, list[str]] = {}
    for owner, tasks in got.items():
        for task in tasks if replicas else ():
            workers = able.get(parse_task_name(task)[0], got)
            others = sorted(
                (name for name in got if name != owner and name in workers),
                key=lambda name: (task not in members[name].stored, load[name], name),
            )
            standbys[task] = others[:replicas]
            for name in standbys[task]:
                load[name] += 1
    return standbys


class TaskAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's face of `assign`: user data in, routes out."""

    name = "streams-sticky"
    version = 0

    def __init__(self, groups: Mapping[str, Group], describe: Any) -> None:
        self._groups, self._describe = groups, describe
        self.routes: dict[str, str] = {}
        self.standbys: dict[str, list[str]] = {}

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        return ConsumerProtocolMemberMetadata(0, list(topics), self._describe().to_json())

    def assign(self, cluster: Any, members: Mapping[str, Any]) -> dict[str, ConsumerProtocolMemberAssignment]:
        infos = {name: Member.from_json(metadata.user_data) for name, metadata in members.items()}
        urls = [member.url for member in infos.values()]
        if len(set(urls)) < len(urls):
            log.error(
                "two workers say that they answer at one address (%s): set --web-host and --web-port", sorted(urls)
            )
        reads = {name: set(metadata.subscription) for name, metadata in members.items()}
        able = {
            group.name: {name for name, topics in reads.items() if group.agents.keys() <= topics}
            for group in self._groups.values()
        }
        outcome = assign({name: group.partitions for name, group in self._groups.items()}, infos, able)
        answer = orjson.dumps(
            {
                "routes": {task: infos[name].url for name, tasks in outcome.tasks.items() for task in tasks},
                "standbys": {task: [infos[name].url for name in names] for task, names in outcome.standbys.items()},
            }
        )
        return {
            name: ConsumerProtocolMemberAssignment(0, self._partitions(tasks), answer)
            for name, tasks in outcome.tasks.items()
        }

    def _partitions(self, tasks: Iterable[str]) -> list[tuple[str, list[int]]]:
        by_topic: dict[str, list[int]] = {}
        for task in tasks:
            group, partition = parse_task_name(task)
            for topic in self._groups[group].agents:
                by_topic.setdefault(topic, []).append(partition)
        return [(topic, sorted(partitions)) for topic, partitions in sorted(by_topic.items())]

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        answer = orjson.loads(assignment.user_data)
        self.routes, self.standbys = answer["routes"], answer["standbys"]
