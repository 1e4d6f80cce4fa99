"""Members of two versions in one group: each gets only what it can work on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata

from streams.assignment import Member, TaskAssignor, assign


def assignor(**inputs: list[str]) -> TaskAssignor:
    """By group, its inputs; four partitions each."""
    groups: dict[str, Any] = {
        name: SimpleNamespace(name=name, partitions=4, agents=dict.fromkeys(topics)) for name, topics in inputs.items()
    }
    return TaskAssignor(groups, lambda: Member("http://leader"))


def member(name: str, *topics: str, replicas: int = 0) -> ConsumerProtocolMemberMetadata:
    data = Member(f"http://{name}", standby_replicas=replicas).to_json()
    return ConsumerProtocolMemberMetadata(0, list(topics), data)


def topics_of(answer: Any) -> set[str]:
    return {topic for topic, _ in answer.assignment}


@pytest.mark.parametrize("replicas", [0, 1])
def test_an_older_worker_gets_no_input_that_it_does_not_read(replicas: int) -> None:
    """A group has a new input, and a group is new: the older worker keeps the rest, and the newer one has both."""
    leader = assignor(orders=["orders", "commands"], items=["items", "prices"], outlets=["outlets"])
    answers = leader.assign(
        None,
        {
            "old": member("old", "orders", "commands", "items", replicas=replicas),
            "new": member("new", "orders", "commands", "items", "prices", "outlets", replicas=replicas),
        },
    )
    assert topics_of(answers["old"]) == {"orders", "commands"}
    assert topics_of(answers["new"]) == {"orders", "commands", "items", "prices", "outlets"}
    leader.on_assignment(answers["old"])
    assert len(leader.routes) == 12 and set(leader.routes.values()) == {"http://old", "http://new"}
    wanted = {f"orders-{number}" for number in range(4)} if replicas else set()
    assert {task for task, urls in leader.standbys.items() if "http://old" in urls} <= wanted


def test_a_group_that_nobody_can_work_on_is_left_alone() -> None:
    outcome = assign({"a": 2, "b": 2}, {"m": Member("http://m")}, {"a": {"m"}, "b": set()})
    assert outcome.tasks == {"m": ["a-0", "a-1"]}


def test_workers_of_one_version_share_everything_evenly() -> None:
    leader = assignor(orders=["orders", "commands"], items=["items"])
    answers = leader.assign(None, {name: member(name, "orders", "commands", "items") for name in ("m1", "m2")})
    counts = {name: sum(len(numbers) for _, numbers in answer.assignment) for name, answer in answers.items()}
    assert counts == {"m1": 6, "m2": 6}
