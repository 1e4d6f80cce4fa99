"""Reads of many rows take turns, so that forty lists at once do not take the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

import pytest
from pytest import mark

from streams.errors import NotReadable
from tests.web.platform import platform, raw
from web.asking import Answer, Desk, Question
from web.costly import LEAST_S, CostlyReads


async def test_the_event_loop_runs_between_two_costly_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: between two reads that take long, everything else that is ready has had its turn."""
    ticks, seen = 0, list[int]()
    learn = Desk.learn

    def slowly(self: Desk, question: Question) -> Question:
        def answer(args: Mapping[str, str]) -> Answer:
            seen.append(ticks)
            time.sleep(2 * LEAST_S)
            return question.answer(args)

        return learn(self, Question(question.name, question.group, answer, question.costly))

    monkeypatch.setattr(Desk, "learn", slowly)
    # The handlers ask with the question that `learn` gives back.
    async with platform(1, limits={"read_wait_s": 60.0, "page_search_s": 0.0, "request_s": 100.0}) as running:
        client = running.workers[0].client
        seen.clear()

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        now = "2026-01-01T00:00:00Z"
        lists = [client.get(f"/api/v1/orders?as_of={now}&status=cancelled") for _ in range(10)]
        answered = await asyncio.gather(*lists)
        ticking.cancel()
        assert {each.status for each in answered} == {200}
        assert len(seen) == 40 and len(set(seen)) == 40, "no two reads in one round of the loop"


async def test_reads_beyond_the_queue_are_refused() -> None:
    reads = CostlyReads(waiting=2)
    async with reads.turn(60):
        waiting = [asyncio.create_task(_take(reads)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotReadable, match="wait for this worker already"):
            await _take(reads)
    await asyncio.gather(*waiting)
    await _take(reads)


async def test_a_turn_that_does_not_come_is_given_up() -> None:
    reads = CostlyReads(waiting=2)
    async with reads.turn(60):
        with pytest.raises(NotReadable, match="keep this worker busy"):
            async with reads.turn(0.01):
                pass
    await _take(reads)


async def _take(reads: CostlyReads) -> None:
    async with reads.turn(60):
        pass


async def test_a_list_of_the_past_that_ends_early_goes_on_where_it_ended() -> None:
    async with platform(1, limits={"page_scan_past_s": 0.0, "read_wait_s": 60.0, "page_search_s": 60.0}) as running:
        uids = {await running.place(raw(f"past-{number:02}")) for number in range(12)}
        client, found, cursor = running.workers[0].client, list[str](), ""
        told = await (await client.get("/api/v1/orders?limit=200")).json()
        newest = told["orders"][0]["placed_at"]
        while cursor is not None:
            query = {"as_of": newest, "limit": "5"} | ({"cursor": cursor} if cursor else {})
            page = await (await client.get("/api/v1/orders", params=query)).json()
            found += [order["order_uid"] for order in page["orders"]]
            cursor = page["next_cursor"]
        assert sorted(found) == sorted(uids)


@mark.parametrize("sent", ["cr\u00e8me", "cre\u0300me", "CR\u00c8ME", "CRE\u0300ME"])
@mark.parametrize("stored", ["Cr\u00e8me 1", "Cre\u0300me 1"])
async def test_item_search_finds_both_forms_of_a_letter(sent: str, stored: str) -> None:
    async with platform(1) as running:
        client = running.workers[0].client
        item = {"item_id": "c", "outlet_id": "o", "name": stored, "price_minor": 1, "currency": "INR"}
        assert (await client.post("/api/v1/items", json=item)).status == 201
        for more in ({}, {"outlet_id": "o"}):
            found = await (await client.get("/api/v1/items", params={"query": sent, **more})).json()
            assert [each["item_id"] for each in found["items"]] == ["c"]
