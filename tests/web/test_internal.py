"""The route between workers: any caller can reach it, so that bad arguments are answered 400 and nothing fails."""

from __future__ import annotations

import base64
import zlib

import orjson
import pytest
from pytest import mark

from tests.web.platform import platform, problem, raw
from web.asking import HOP, Desk, Question

GOOD = {"limit": "5", "bytes": "1000", "version": "1", "order_uid": "o", "event": "x", "command_id": "c"}


async def test_no_question_fails_over_missing_or_bad_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    questions: list[Question] = []
    learn = Desk.learn

    def noting(self: Desk, question: Question) -> Question:
        questions.append(question)
        return learn(self, question)

    monkeypatch.setattr(Desk, "learn", noting)
    bad = [{}, {"limit": "-1"}, {"limit": "0"}, {"limit": "9" * 30}, {"bytes": "-1"}, {"bytes": "0"},
           {"bytes": "\u00b2"}, {"version": "-1"}, {"before": "x"}, {"as_of": "x"}, {"as_of": "orders-0-"},
           {"status": "x"},           {"after": "\x00"}, {"_wait_ms": "-5"}, {"_min_offset": "x"}]  # fmt: skip
    async with platform(1) as running:
        assert len(questions) > 20
        await running.place(raw("o"))
        client = running.workers[0].client
        for question in questions:
            for change in bad:
                for base in ({}, GOOD):
                    path = f"/internal/v1/{question.group}/0/{question.name}"
                    answer = await client.get(path, params={**base, **change}, headers={HOP: "1"})
                    assert answer.status in (200, 400, 503), (question.name, base, change, await answer.text())
        metrics = await (await client.get("/metrics")).text()
        assert 'status="500"' not in metrics


@mark.parametrize("content", [["abc", 1], ["abc"], [], {}, 7, None, ["", 1], [1, 2], ["a" * 300, 1], "x"])
async def test_a_cursor_that_this_service_did_not_make_is_refused(content: object) -> None:
    made = orjson.dumps(content)
    # As the cursors of older versions, whose checksum anybody can compute, and with a checksum in the place of the MAC.
    forged = [made, orjson.dumps([content, zlib.crc32(made)]), zlib.crc32(made).to_bytes(16, "big") + made]
    async with platform(1) as running:
        for path in ("/api/v1/orders", "/api/v1/items", "/api/v1/webhooks", "/api/v1/orders/o/timeline"):
            for each in forged:
                cursor = base64.urlsafe_b64encode(each).rstrip(b"=").decode()
                answer = await running.workers[0].client.get(path, params={"cursor": cursor})
                assert (await problem(answer, 400, "bad-parameter"))["parameter"] == "cursor"


async def test_a_cursor_is_good_on_every_worker_and_under_the_key_that_is_set() -> None:
    async with platform(2, web_cursor_key="k" * 32) as running:
        for number in range(6):
            await running.place(raw(f"cursor-{number}"))
        a, b = (worker.client for worker in running.workers)
        page = await (await a.get("/api/v1/orders?limit=2")).json()
        answer = await b.get("/api/v1/orders", params={"limit": "2", "cursor": page["next_cursor"]})
        assert answer.status == 200 and len((await answer.json())["orders"]) == 2
    async with platform(1, web_cursor_key="x" * 32) as other:
        answer = await other.workers[0].client.get("/api/v1/orders", params={"cursor": page["next_cursor"]})
        await problem(answer, 400, "bad-parameter")
