"""Webhook attempts that were due long ago: recorded, not sent."""

from __future__ import annotations

from tests.agents.effects.test_webhooks import World, world

__all__ = ["world"]  # the fixture


async def test_an_attempt_that_was_due_long_ago_is_not_made_unasked(world: World) -> None:
    """The position of the effect is set back to the beginning two days later: no target hears of it again."""
    id = await world.subscribe()
    event_id = world.happen(1, order_uid="o1")
    await world.work()
    assert len(world.receiver.got) == 1
    await world.kill()
    await world.driver.advance(25 * 3_600_000)
    world.kept.clear()
    world.start()
    await world.work()
    assert len(world.receiver.got) == 1 and world.attempts("too_old") == 1
    assert world.deliveries(id)[event_id].state == "delivered", "what is recorded stays"


async def test_after_a_long_outage_a_delivery_goes_on_with_its_next_attempt(world: World) -> None:
    id = await world.subscribe()
    event_id = world.happen(1, order_uid="o1")
    await world.routes.step()
    await world.driver.run()
    await world.kill()
    await world.driver.advance(25 * 3_600_000)
    world.start()
    await world.work()
    assert world.receiver.got == [] and world.attempts("too_old") == 1
    await world.driver.advance(60_000)
    await world.work()
    assert len(world.receiver.got) == 1 and world.deliveries(id)[event_id].state == "delivered"
