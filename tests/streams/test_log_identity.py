"""A real broker -> the id of its cluster and of each topic, which another topic of the same name does not have."""

from __future__ import annotations

from streams import admin
from streams.log_identity import read_identity
from tests.processes import RunningStack


async def test_a_topic_that_is_created_again_has_another_id(stack: RunningStack) -> None:
    wanted = [admin.TopicConfig(f"identity-{number}", 1, 1, {}) for number in range(2)]
    names = [each.name for each in wanted]
    await admin.create(stack.kafka, wanted)
    before = await read_identity(stack.kafka, [*names, "identity-none"])
    assert before.topics.keys() == set(names) and before.cluster
    assert before.difference(await read_identity(stack.kafka, names)) is None
    await admin.delete(stack.kafka, names[:1])
    gone = await read_identity(stack.kafka, names)
    assert gone.difference(before) == "there is no topic identity-0 any more"
    await admin.create(stack.kafka, wanted)
    after = await read_identity(stack.kafka, names)
    assert after.difference(before) == "identity-0 was deleted and created again"
    assert (after.cluster, after.topics["identity-1"]) == (before.cluster, before.topics["identity-1"])
