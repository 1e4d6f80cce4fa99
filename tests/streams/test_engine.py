"""A worker that missed a generation of its group -> the tasks that it still runs may have been another's."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaError, for_code

from streams.engine import Engine
from streams.membership import FencedInstanceId
from streams.metrics import Metrics
from streams.records import TopicPartition


class Members:
    """An engine with one task of one group; `given` hands it the task in a generation and says whether it was kept."""

    def __init__(self) -> None:
        self.engine = Engine({"g": SimpleNamespace(name="g", partitions=1, agents={"in": None})}, Metrics())  # type: ignore[dict-item]
        self.engine.url = "http://me"
        self.begun: list[str] = []
        self.engine._supervise = self._supervise  # type: ignore[method-assign]
        self.engine._confirm_soon = lambda: None  # type: ignore[method-assign]

    async def _supervise(self, name: str) -> None:
        self.begun.append(name)
        await asyncio.Event().wait()

    async def given(self, generation: int, member: str = "me") -> int:
        """How often the task has begun after this assignment."""
        coordinator = SimpleNamespace(generation=generation, member_id=member)
        consumer: Any = SimpleNamespace(_coordinator=coordinator, pause=lambda *_: None)
        self.engine.consumer = consumer
        await self.engine.assigned({TopicPartition("in", 0)})
        await asyncio.sleep(0)
        return len(self.begun)


@pytest.mark.parametrize(
    ("generations", "begun"), [([4, 5, 6], 1), ([4, 6], 2), ([4, 5, 7, 8], 2), ([9, 1], 2), ([4, 4], 1)]
)
async def test_a_task_goes_on_only_when_no_generation_was_missed(generations: list[int], begun: int) -> None:
    """Found by the simulation, seed 243460: a read from it was older than one that the owner between had answered."""
    members = Members()
    counts = [await members.given(generation) for generation in generations]
    assert counts[-1] == begun
    await members.engine._let_go(list(members.engine._slots), [])


async def test_another_member_in_the_same_generation_is_another_group() -> None:
    """The group was forgotten and has counted from one again."""
    members = Members()
    assert [await members.given(1, "me"), await members.given(1, "me again")] == [1, 2]
    await members.engine._let_go(list(members.engine._slots), [])


async def test_an_assigned_task_that_has_ended_is_begun_again() -> None:
    """Whatever ended it: a slot that is done is looked for while the group is settled."""
    members = Members()
    await members.given(4)
    slot = members.engine._slots["g-0"]
    members.engine._begin_ended_slots()
    assert members.engine._slots["g-0"] is slot, "it has not ended"
    slot.cancel()
    await asyncio.wait([slot])
    await members.engine.revoked()
    members.engine._begin_ended_slots()
    assert members.begun == ["g-0"], "an assignment is under way, and decides"
    members.engine._settled.set()
    members.engine._begin_ended_slots()
    await asyncio.sleep(0)
    assert members.begun == ["g-0", "g-0"]
    await members.engine._let_go(list(members.engine._slots), [])


@pytest.mark.parametrize(("code", "fenced"), [(82, True), (-1, False), (81, False), (111, False)])
def test_only_one_code_means_that_another_worker_uses_the_instance_id(code: int, fenced: bool) -> None:
    """As the engine looks for it: in the text of the error that aiokafka makes of an answer that it does not know."""
    error = KafkaError(f"Unexpected exception in heartbeat task: {for_code(code)()!r}")
    assert (FencedInstanceId.__name__ in repr(error)) is fenced
