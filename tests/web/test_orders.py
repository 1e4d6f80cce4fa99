"""the addresses of one order, on two workers that each own half of the partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import orjson
import pytest
from pytest import mark, param

from streams import Position
from tests.web.platform import PARTITIONS, Platform, document, platform, problem, raw


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2, outcome_wait_ms=2_000) as running:
        yield running


def uid_at(running: Platform, partition: int, prefix: str = "at") -> str:
    """An order number whose home is this partition."""
    return next(uid for number in range(1000) if running.home(uid := f"{prefix}-{number}") == partition)


# -- reading -----------------------------------------------------------------------------------------------------------


async def test_both_workers_answer_for_every_order(two: Platform) -> None:
    for partition in range(PARTITIONS):
        uid = await two.place(raw(uid_at(two, partition)))
        for worker in two.workers:
            response = await worker.client.get(f"/api/v1/orders/{uid}")
            order = await response.json()
            assert response.status == 200
            assert response.headers["ETag"] == '"1"'
            assert (order["order_uid"], order["version"], order["status"]) == (uid, 1, "placed")
            assert order["document"] == document(uid)
            assert "updated_by" not in order


async def test_the_document_is_answered_as_it_was_received(two: Platform) -> None:
    # The form of numbers, odd spacing and the order of members would be lost if anybody parsed it on the way.
    text = raw("exact").replace(b'"sm_id":99', b'"sm_id" : 99,\n "extra": [1.50, 12e1, -0.0]')
    await two.place(text)
    for worker in two.workers:
        body = await (await worker.client.get("/api/v1/orders/exact")).read()
        assert text in body


async def test_an_etag_saves_the_body(two: Platform) -> None:
    uid = await two.place(raw())
    client = two.workers[0].client
    for tag in ('"1"', 'W/"1"', '"7", "1"', "*"):
        response = await client.get(f"/api/v1/orders/{uid}", headers={"If-None-Match": tag})
        assert (response.status, response.headers["ETag"], await response.read()) == (304, '"1"', b"")
    assert (await client.get(f"/api/v1/orders/{uid}", headers={"If-None-Match": '"2"'})).status == 200


async def test_head_answers_like_get_without_a_body(two: Platform) -> None:
    uid = await two.place(raw())
    response = await two.workers[1].client.head(f"/api/v1/orders/{uid}")
    assert (response.status, response.headers["ETag"], await response.read()) == (200, '"1"', b"")


async def test_an_unknown_order_is_404_at_both(two: Platform) -> None:
    for worker in two.workers:
        for uid in ("nobody", "-bad", "x" * 65):
            await problem(await worker.client.get(f"/api/v1/orders/{uid}"), 404, "no-such-order")
            await problem(await worker.client.get(f"/api/v1/orders/{uid}/timeline"), 404, "no-such-order")


async def test_a_partition_that_recovers_is_503_never_404(two: Platform) -> None:
    uid = uid_at(two, 1)
    two.unreadable.add(("orders", 1))
    for worker in two.workers:
        response = await worker.client.get(f"/api/v1/orders/{uid}")
        told = await problem(response, 503, "unavailable")
        assert int(response.headers["Retry-After"]) >= 1
        assert "restoring" in told["detail"]


async def test_a_read_waits_for_a_partition_that_comes_back(two: Platform) -> None:
    uid = await two.place(raw(uid_at(two, 1)))
    two.unreadable.add(("orders", 1))
    reads = [asyncio.create_task(worker.client.get(f"/api/v1/orders/{uid}")) for worker in two.workers]
    await asyncio.sleep(0.2)
    two.unreadable.clear()
    assert [response.status for response in await asyncio.gather(*reads)] == [200, 200]


async def test_a_worker_with_an_old_assignment_is_put_right_by_the_owner(two: Platform) -> None:
    uid = await two.place(raw(uid_at(two, 0)))
    # w1 still believes that w0 owns partition 0; the group has given it to w1.
    two.give(0, 1)
    two.believed["w1", "orders", 0] = two.workers[0]
    asked = asyncio.create_task(two.workers[1].client.get(f"/api/v1/orders/{uid}"))
    await asyncio.sleep(0.15)
    del two.believed["w1", "orders", 0]
    assert (await asked).status == 200


async def test_an_owner_that_died_makes_503_until_another_takes_over(two: Platform) -> None:
    uid = await two.place(raw(uid_at(two, 1)))
    await two.workers[1].client.server.close()
    told = await problem(await two.workers[0].client.get(f"/api/v1/orders/{uid}"), 503, "unavailable")
    assert "does not answer" in told["detail"]
    two.give(1, 0)
    assert (await two.workers[0].client.get(f"/api/v1/orders/{uid}")).status == 200


async def test_min_offset_waits_for_the_record(two: Platform) -> None:
    await two.hold()
    uid = uid_at(two, 1)
    position = await two.produce("orders", 1, uid.encode(), raw(uid), ())
    reads = [
        asyncio.create_task(worker.client.get(f"/api/v1/orders/{uid}", params={"min_offset": str(position)}))
        for worker in two.workers
    ]
    await asyncio.sleep(0.2)
    assert not any(read.done() for read in reads)
    two.flow()
    assert [response.status for response in await asyncio.gather(*reads)] == [200, 200]


async def test_min_offset_that_does_not_come_is_503(two: Platform) -> None:
    uid = uid_at(two, 0)
    response = await two.workers[0].client.get(
        f"/api/v1/orders/{uid}", params={"min_offset": str(Position("orders", 0, 10**9))}
    )
    told = await problem(response, 503, "unavailable")
    assert "not committed yet" in told["detail"]


@mark.parametrize(
    ("query", "says"),
    [
        param("min_offset=12", "topic", id="no position"),
        param("min_offset=orders.events.v1-0-1", "orders.events.v1", id="not an input"),
        param("min_offset=orders-3-1", "partition 3", id="not the order's partition"),
        param("min_ofset=orders-0-1", "min_ofset", id="misspelt"),
        param("min_offset=orders-0-1&min_offset=orders-0-2", "more than once", id="twice"),
    ],
)
async def test_bad_parameters_are_named(two: Platform, query: str, says: str) -> None:
    uid = uid_at(two, 0)
    for worker in two.workers:
        told = await problem(await worker.client.get(f"/api/v1/orders/{uid}?{query}"), 400, "bad-parameter")
        assert says in told["detail"]


async def test_the_timeline_tells_everything_with_its_position(two: Platform) -> None:
    uid = await two.place(raw(uid_at(two, 2)))
    await two.place(raw(uid, customer_id="other"))
    client = two.workers[1].client
    await client.post(f"/api/v1/orders/{uid}/cancel", json={"reason": "ordered twice"})
    told = await (await client.get(f"/api/v1/orders/{uid}/timeline")).json()
    assert [(e["type"], e["version"], e["reason"]) for e in told["entries"]] == [
        ("order_placed", 1, None),
        ("order_refused", 1, "exists_with_different_content"),
        ("order_cancelled", 2, "ordered twice"),
    ]
    assert [e["position"] for e in told["entries"]] == ["orders-2-0", "orders-2-1", "orders.commands.v1-2-0"]
    assert told["next_cursor"] is None


async def test_a_timeline_has_pages(two: Platform) -> None:
    uid = await two.place(raw(uid_at(two, 3)))
    for number in range(5):
        await two.place(raw(uid, customer_id=f"other-{number}"))
    seen, cursor = [], ""
    for worker in (*two.workers, *two.workers):
        answer = await worker.client.get(f"/api/v1/orders/{uid}/timeline", params={"limit": 2, "cursor": cursor})
        told = await answer.json()
        seen += [entry["position"] for entry in told["entries"]]
        if (cursor := told["next_cursor"] or "") == "":
            break
    assert seen == [f"orders-3-{offset}" for offset in range(6)]


# -- writing -----------------------------------------------------------------------------------------------------------


async def test_a_placed_order_is_answered_with_its_outcome(two: Platform) -> None:
    for worker in two.workers:
        for partition in range(PARTITIONS):
            uid = uid_at(two, partition, worker.name)
            response = await worker.client.post("/api/v1/orders", data=raw(uid))
            told = await response.json()
            assert response.status == 201, told
            assert response.headers["Location"] == f"/api/v1/orders/{uid}"
            assert response.headers["ETag"] == '"1"'
            assert response.headers["Orderstream-Position"] == told["position"]
            assert Position.parse(told["position"]).partition == partition
            read = await worker.client.get(response.headers["Location"], params={"min_offset": told["position"]})
            assert (await read.json())["document"] == document(uid)


async def test_the_same_document_again_gets_the_same_answer(two: Platform) -> None:
    first = await two.workers[0].client.post("/api/v1/orders", data=raw("again"))
    again = await two.workers[1].client.post(
        "/api/v1/orders", data=orjson.dumps(document("again"), option=orjson.OPT_INDENT_2)
    )
    assert (first.status, again.status) == (201, 201)
    assert await first.json() == await again.json()
    assert first.headers["Orderstream-Position"] == again.headers["Orderstream-Position"]
    assert len(two.driver.read("orders.events.v1")) == 1


async def test_other_content_is_409_and_changes_nothing(two: Platform) -> None:
    await two.workers[0].client.post("/api/v1/orders", data=raw("mine"))
    response = await two.workers[1].client.post("/api/v1/orders", data=raw("mine", customer_id="thief"))
    told = await problem(response, 409, "order-refused")
    assert told["reason"] == "exists_with_different_content"
    order = await (await two.workers[1].client.get("/api/v1/orders/mine")).json()
    assert (order["version"], order["customer_id"]) == (1, "test")


async def test_every_fault_is_told_with_its_path(two: Platform) -> None:
    bad = raw(payment__amount=1, delivery__email="nobody", items=[], order_uid="")
    told = await problem(await two.workers[0].client.post("/api/v1/orders", data=bad), 422, "invalid-document")
    assert {"$.payment.amount", "$.delivery.email", "$.items", "$.order_uid"} <= {f["path"] for f in told["faults"]}
    assert all(fault["message"] for fault in told["faults"])
    assert not two.driver.read("orders.commands.v1")


@mark.parametrize(
    ("body", "status", "slug"),
    [
        param(b"", 400, "bad-json", id="nothing"),
        param(b"{", 400, "bad-json", id="cut"),
        param(b"\xff\xfe{}", 400, "bad-json", id="not UTF-8"),
        param(b"[" * 40 + b"]" * 40, 400, "bad-json", id="deep"),
        param(b"[" * 100_000, 400, "bad-json", id="very deep"),
        param(b'{"a":' * 5_000 + b"1" + b"}" * 5_000, 400, "bad-json", id="very deep objects"),
        param(b"[]", 422, "invalid-document", id="an array"),
        param(b"5", 422, "invalid-document", id="a number"),
        param(b'"text"', 422, "invalid-document", id="a string"),
        param(b"{}", 422, "invalid-document", id="an empty object"),
        param(b'{"payment": {"amount": NaN}}', 422, "invalid-document", id="NaN"),
        param(b" " * (1 << 20) + b"{}", 413, "too-large", id="too large"),
    ],
)
async def test_bad_bodies(two: Platform, body: bytes, status: int, slug: str) -> None:
    response = await two.workers[0].client.post("/api/v1/orders", data=body)
    await problem(response, status, slug)
    assert not two.driver.read("orders.commands.v1")


async def test_a_body_without_a_declared_length_is_bounded_too(two: Platform) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * (64 << 10)

    await problem(await two.workers[0].client.post("/api/v1/orders", data=endless()), 413, "too-large")


async def test_the_largest_document_that_is_read_is_placed(two: Platform) -> None:
    text = raw("big")
    text = text[:-1] + b',"extra":"' + b"x" * ((1 << 20) - len(text) - 11) + b'"}'
    assert len(text) == 1 << 20
    assert (await two.workers[0].client.post("/api/v1/orders", data=text)).status == 201
    assert text in await (await two.workers[1].client.get("/api/v1/orders/big")).read()


async def test_a_body_of_another_kind_is_415(two: Platform) -> None:
    response = await two.workers[0].client.post("/api/v1/orders", data=raw(), headers={"Content-Type": "text/xml"})
    await problem(response, 415, "unsupported-media-type")


async def test_the_answer_is_202_when_the_wait_runs_out() -> None:
    async with platform(2, outcome_wait_ms=150) as running:
        await running.hold()
        for worker in running.workers:
            uid = uid_at(running, 1, worker.name)
            response = await worker.client.post("/api/v1/orders", data=raw(uid))
            told = await response.json()
            assert response.status == 202, told
            assert response.headers["Retry-After"]
            assert response.headers["Orderstream-Position"] == told["position"]
            running.flow()
            assert (await worker.client.get(told["outcome"])).status == 200
            await running.hold()


async def test_an_order_is_cancelled_once(two: Platform) -> None:
    uid = await two.place(raw())
    done = await two.workers[0].client.post(f"/api/v1/orders/{uid}/cancel", json={"reason": "no money"})
    told = await done.json()
    assert (done.status, told["status"], told["version"], told["cancel_reason"]) == (200, "cancelled", 2, "no money")
    assert done.headers["ETag"] == '"2"'
    again = await two.workers[1].client.post(f"/api/v1/orders/{uid}/cancel", json={"reason": "really"})
    refused = await problem(again, 409, "order-refused")
    assert refused["reason"] == "already_cancelled"


async def test_what_does_not_exist_cannot_be_cancelled(two: Platform) -> None:
    response = await two.workers[0].client.post("/api/v1/orders/nobody/cancel", json={"reason": "x"})
    told = await problem(response, 404, "no-such-order")
    assert told["reason"] == "no_such_order"
    timeline = await (await two.workers[0].client.get("/api/v1/orders/nobody/timeline")).json()
    assert [entry["type"] for entry in timeline["entries"]] == ["cancellation_refused"]


@mark.parametrize(
    ("body", "status", "path"),
    [
        param(b"{}", 422, "$.reason", id="no reason"),
        param(b'{"reason": ""}', 422, "$.reason", id="empty"),
        param(b'{"reason": "a\\u0000b"}', 422, "$.reason", id="NUL"),
        param(b'{"reason": 5}', 422, "$.reason", id="a number"),
        param(b'{"reason": "a", "x": 1}', 422, "$.x", id="unknown member"),
        param(b"reason", 400, None, id="not JSON"),
    ],
)
async def test_bad_cancellations(two: Platform, body: bytes, status: int, path: str | None) -> None:
    uid = await two.place(raw())
    response = await two.workers[0].client.post(f"/api/v1/orders/{uid}/cancel", data=body)
    told = await problem(response, status, "bad-json" if status == 400 else "invalid-document")
    assert path is None or path in {fault["path"] for fault in told["faults"]}


async def test_a_test_order_is_placed(two: Platform) -> None:
    uids = set()
    for worker in two.workers:
        response = await worker.client.post("/api/orders/test")
        told = await response.json()
        assert response.status == 201, told
        uids.add(told["order_uid"])
        assert (await worker.client.get(f"/api/orders/{told['order_uid']}")).status == 200
    assert len(uids) == 2


async def test_a_command_that_ends_in_the_dead_letters_says_so(two: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from agents import orders as rules

    def broken(*_: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(rules, "decide", broken)
    told = await problem(await two.workers[0].client.post("/api/v1/orders", data=raw("dead")), 500, "dead-lettered")
    (letter,) = two.driver.read("dead_letters.v1")
    assert dict(letter.headers)["dead-letter-topic"].decode() in told["dead_letter"]
    assert (await two.workers[0].client.get("/api/v1/orders/dead")).status == 404


async def test_the_request_id_travels_with_the_command(two: Platform) -> None:
    await two.workers[0].client.post("/api/v1/orders", data=raw("traced"), headers={"X-Request-Id": "checkout-7"})
    (record,) = two.driver.read("orders.commands.v1")
    assert dict(record.headers)["request-id"] == b"checkout-7"


async def test_short_paths_answer_the_same(two: Platform) -> None:
    uid = await two.place(raw())
    client = two.workers[0].client
    assert (
        await (await client.get(f"/api/orders/{uid}")).read()
        == await (await client.get(f"/api/v1/orders/{uid}")).read()
    )
    assert await (await client.get("/api/orders")).read() == await (await client.get("/api/v1/orders")).read()
