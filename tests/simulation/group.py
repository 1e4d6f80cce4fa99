"""members that join, beat, leave and fall silent -> generations, each with an assignment: a group's coordinator.

JoinGroup and SyncGroup are one call here; the assignment itself is the product's, run by the first member's assignor.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError

from tests.simulation.loop import NOWHERE, SimLoop


@dataclass
class Joined:
    """The answer to a join."""

    member: str
    generation: int
    assignment: Any


@dataclass
class Member:
    """As the coordinator knows it. `joining` is the call that waits for the next generation."""

    id: str
    assignor: Any
    metadata: Any
    heard_at: float
    joining: asyncio.Future[Joined] | None = None
    assignment: Any = None


class Group:
    """One consumer group."""

    def __init__(self, loop: SimLoop, session_s: float, rebalance_s: float) -> None:
        self.loop, self.session_s, self.rebalance_s = loop, session_s, rebalance_s
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.expired = 0
        self._rebalancing = False
        self._ends_at = 0.0
        self._number = 0

    def join(self, id: str | None, assignor: Any, metadata: Any) -> asyncio.Future[Joined]:
        """Raises UnknownMemberIdError for a member that was put out meanwhile: it joins again as a new one."""
        if id is not None and id not in self.members:
            raise UnknownMemberIdError()
        if id is None:
            self._number += 1
            id = f"member-{self._number}"
        member = self.members.get(id)
        if member is not None and member.joining is not None:
            return member.joining
        known = member is not None and member.metadata.user_data == metadata.user_data
        if member is None:
            member = self.members[id] = Member(id, assignor, metadata, self.loop.now)
            self._watch(member)
        member.assignor, member.metadata, member.heard_at = assignor, metadata, self.loop.now
        member.joining = self.loop.create_future()
        if known and not self._rebalancing and id != next(iter(self.members)) and member.assignment is not None:
            answer, member.joining = member.joining, None
            answer.set_result(Joined(id, self.generation, member.assignment))
            return answer
        answer = member.joining
        self._begin()
        self._complete_if_all_are_here()
        return answer

    def heartbeat(self, id: str, generation: int) -> None:
        member = self.members.get(id)
        if member is None:
            raise UnknownMemberIdError()
        if self._rebalancing:
            member.heard_at = self.loop.now
            raise RebalanceInProgressError()
        if generation != self.generation:
            raise IllegalGenerationError()
        member.heard_at = self.loop.now

    def leave(self, id: str) -> None:
        if self.members.pop(id, None) is not None:
            self._begin()
            self._complete_if_all_are_here()

    def _watch(self, member: Member) -> None:
        silent_s = self.loop.now - member.heard_at if member.joining is None else 0.0
        if silent_s < self.session_s:
            self.loop.call_later(self.session_s - silent_s + 1e-6, self._look, member, context=NOWHERE)
            return
        self.expired += 1
        self.leave(member.id)

    def _look(self, member: Member) -> None:
        if self.members.get(member.id) is member:
            self._watch(member)

    def _begin(self) -> None:
        if self._rebalancing or not self.members:
            return
        self._rebalancing = True
        self._ends_at = self.loop.now + self.rebalance_s
        self.loop.call_at(self._ends_at, self._time_out, self._ends_at, context=NOWHERE)

    def _time_out(self, ends_at: float) -> None:
        """Whoever has not joined by now is out."""
        if self._rebalancing and self._ends_at == ends_at:
            for member in [member for member in self.members.values() if member.joining is None]:
                self.expired += 1
                del self.members[member.id]
            self._complete_if_all_are_here()

    def _complete_if_all_are_here(self) -> None:
        if not self.members:
            self._rebalancing = False
            return
        if not self._rebalancing or any(member.joining is None for member in self.members.values()):
            return
        self._rebalancing = False
        self.generation += 1
        leader = next(iter(self.members.values()))
        answers = leader.assignor.assign(None, {member.id: member.metadata for member in self.members.values()})
        for member in self.members.values():
            member.heard_at, member.assignment = self.loop.now, answers[member.id]
            answer, member.joining = member.joining, None
            if answer is not None:
                answer.set_result(Joined(member.id, self.generation, member.assignment))
