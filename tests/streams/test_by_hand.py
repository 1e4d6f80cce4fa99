"""Kafka's own tools on a real broker: offsets set and deleted, topics deleted -> found, explained, mended."""

from __future__ import annotations

import pytest
from aiokafka import AIOKafkaConsumer

from streams import admin
from streams.app import App
from streams.errors import LogMismatch
from streams.kafka import KafkaLog, onlooker
from streams.positions import positions, restore
from streams.records import TopicPartition
from streams.replay import Span, find_span
from streams.reset import OffsetGone, adopt, forget_offsets, reset
from tests.reading import read_all
from tests.streams.load import Toy
from tests.streams.test_recovery import fill
from tests.streams.toy import make_app

WORDS = TopicPartition("words", 0)


async def span_of(app: App) -> Span | None:
    async with onlooker(app.engine_settings()) as consumer:
        return await find_span(KafkaLog(app.engine_settings(), consumer), app.groups["words"], 0)


async def commit_by_hand(toy: Toy, offset: int) -> None:
    async with AIOKafkaConsumer(
        bootstrap_servers=toy.stack.kafka, group_id="toy", enable_auto_commit=False
    ) as consumer:
        consumer.assign([WORDS])
        await consumer.commit({WORDS: offset})


async def put_back(app: App) -> list[tuple[int | None, int | None]]:
    found = await positions(app.engine_settings(), app.groups)
    await restore(app.engine_settings(), [each for each in found if each.restorable])
    return [(each.now, each.last) for each in found if each.partition == WORDS]


async def test_what_was_done_by_hand_is_found_and_mended(toy: Toy) -> None:
    await fill(toy, 0.5)
    app = make_app(toy.stack.data_dir, partitions=4, broker=f"kafka://{toy.stack.kafka}")
    settings, before = app.engine_settings(), await span_of(app)
    assert before is not None
    end = before.ends["words"]
    assert end > 0

    await commit_by_hand(toy, 0)
    with pytest.raises(LogMismatch, match=r"offsets of words-0 were set by somebody else"):
        await span_of(app)
    assert await put_back(app) == [(0, end)]
    assert await span_of(app) == before

    await forget_offsets(settings)
    with pytest.raises(LogMismatch, match=r"no offsets are committed for words-0.*offsets restore"):
        await span_of(app)
    with pytest.raises(OffsetGone, match=rf"words-0 was taken up to {end}.*would count twice"):
        await adopt(settings, app.groups, "words")
    assert await put_back(app) == [(None, end)]
    assert await span_of(app) == before

    await admin.delete(toy.stack.kafka, ["words"])
    await toy.create_topics(only="words")
    with pytest.raises(LogMismatch, match=r"words-0.*the topic was deleted or re-created|words-0.*it was deleted"):
        await span_of(app)
    assert len(await adopt(settings, app.groups, "words")) == 4
    with pytest.raises(LogMismatch, match=r"words-0 was (deleted|taken)"):
        await span_of(app)
    with pytest.raises(LogMismatch, match=r"in the tables and nowhere else"):
        await reset(settings, app.groups, app.changelog_topics())
    assert len(await read_all(toy.stack.kafka, "toy-counts-changelog")) > 4, "what only they have is still there"
