"""Items over HTTP: real rules and tasks over a log in memory, asked through two workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import orjson
import pytest
from aiohttp import ClientResponse
from pytest import mark, param

from schemas.inventory import MAX_QUANTITY, CommitStock, ReserveStock
from tests.web.platform import Client, Platform, platform, problem

HOME = "/api/v1/items"
NEW: dict[str, Any] = {
    "item_id": "mascara-1",
    "outlet_id": "outlet-1",
    "name": "Mascara",
    "price_minor": 45_300,
    "currency": "INR",
    "attributes": {"brand": "Vivienne Sabo", "sizes": [1, 2.5, None]},
}


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def created(client: Client, item_id: str = "mascara-1", stock: int = 0, **other: Any) -> str:
    response = await client.post(HOME, json={**NEW, "item_id": item_id, **other})
    assert response.status in (200, 201), await response.text()
    if stock:
        assert (await adjust(client, item_id, stock)).status == 201
    return item_id


async def adjust(client: Client, item: str, delta: Any, key: str | None = None, **more: Any) -> ClientResponse:
    body = {"delta": delta, "reason": "receive", **more} | ({"idempotency_key": key} if key else {})
    return await client.post(f"{HOME}/{item}/stock", json=body)


async def shown(client: Client, item: str = "mascara-1") -> dict[str, Any]:
    response = await client.get(f"{HOME}/{item}")
    assert response.status == 200
    assert response.headers["ETag"] == f'"{(await response.json())["version"]}"'
    return dict(await response.json())


def stock(told: dict[str, Any]) -> tuple[int, int, int]:
    return told["on_hand"], told["reserved"], told["available"]


async def test_the_life_of_an_item(two: Platform) -> None:
    """Each step through the other worker."""
    a, b = (worker.client for worker in two.workers)
    first = await a.post(HOME, json=NEW)
    told = await first.json()
    assert (first.status, first.headers["Location"]) == (201, f"{HOME}/mascara-1")
    assert NEW.items() <= told.items() and stock(told) == (0, 0, 0) and told["version"] == 1
    assert {**await shown(b), "position": told["position"]} == told

    again = await b.post(HOME, json=NEW)
    assert (again.status, await again.json()) == (200, {**told, "position": again.headers["Orderstream-Position"]})
    said = await problem(await b.post(HOME, json={**NEW, "price_minor": 1}), 409, "item-refused")
    assert said["reason"] == "exists_with_different_content"

    delivered = await adjust(b, "mascara-1", 10)
    told = await delivered.json()
    assert (delivered.status, stock(told), told["version"], told["delta"]) == (201, (10, 0, 10), 2, 10)
    assert delivered.headers["ETag"] == '"2"' and delivered.headers["Orderstream-Position"] == told["position"]

    changed = await a.patch(f"{HOME}/mascara-1", json={"price_minor": 39_900, "low_stock_at": 5})
    told = await changed.json()
    assert (changed.status, told["price_minor"], told["low_stock_at"], told["name"]) == (200, 39_900, 5, "Mascara")
    assert changed.headers["ETag"] == '"3"'
    same = await b.patch(f"{HOME}/mascara-1", json={"price_minor": 39_900})
    assert (same.status, (await same.json())["version"]) == (200, 3)

    said = await problem(await adjust(a, "mascara-1", -11, reason="damage"), 409, "item-refused")
    assert (said["reason"], said["available"]) == ("insufficient_stock", 10)
    assert stock(await shown(b)) == (10, 0, 10)


async def test_what_is_reserved_is_not_available(two: Platform) -> None:
    client = two.workers[0].client
    item = await created(client, stock=10)
    commands = two.topics["inventory.commands.v1"]
    line: dict[str, Any] = {"item_id": item, "order_uid": "order-1", "line": 1}
    at = await commands.send(key=item, value=ReserveStock(command_id="r", quantity=4, **line))
    assert stock(await (await client.get(f"{HOME}/{item}?min_offset={at}")).json()) == (10, 4, 6)
    said = await problem(await adjust(client, item, -7), 409, "item-refused")
    assert (said["reason"], said["available"]) == ("insufficient_stock", 6)
    at = await commands.send(key=item, value=CommitStock(command_id="c", quantity=3, **line))
    told = await (await client.get(f"{HOME}/{item}?min_offset={at}")).json()
    assert (stock(told), told["version"]) == ((7, 1, 6), 4)
    response = await client.get(f"{HOME}/{item}", headers={"If-None-Match": '"4"'})
    assert response.status == 304


async def test_the_same_key_gets_the_first_answer_for_ever(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    item = await created(a)
    first = await adjust(a, item, 10, "delivery")
    await adjust(a, item, -3, "count")
    await a.patch(f"{HOME}/{item}", json={"name": "Lipstick"})
    two.driver.clock.advance(400 * 24 * 3600 * 1000)
    again = await adjust(b, item, 10, "delivery")
    assert (again.status, await again.read()) == (201, await first.read())
    for name in ("ETag", "Orderstream-Position", "Location"):
        assert again.headers[name] == first.headers[name]
    assert again.headers["Idempotency-Replayed"] == "true" and "Idempotency-Replayed" not in first.headers
    assert (await shown(b))["on_hand"] == 7
    refused = [await adjust(client, item, -500, "too much") for client in (a, b)]
    told = [await problem(response, 409, "item-refused") for response in refused]
    assert told[0]["position"] == told[1]["position"]


async def test_creating_with_a_key_answers_as_the_first_time(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    body = {**NEW, "idempotency_key": "new"}
    first = await a.post(HOME, json=body)
    await adjust(a, "mascara-1", 5)
    await a.patch(f"{HOME}/mascara-1", json={"name": "Lipstick"})
    again = await b.post(HOME, json=body)
    assert (again.status, await again.read()) == (201, await first.read())
    await problem(await b.post(HOME, json=NEW), 409, "item-refused")


@mark.parametrize(
    ("delta", "more"),
    [
        param(11, {}, id="another delta"),
        param(10, {"reason": "return"}, id="another reason"),
    ],
)
async def test_the_same_key_with_another_content_is_422(two: Platform, delta: int, more: dict[str, Any]) -> None:
    a, b = (worker.client for worker in two.workers)
    item = await created(a)
    await adjust(a, item, 10, "k")
    await problem(await adjust(b, item, delta, "k", **more), 422, "idempotency-key-reused")
    changing = await b.patch(f"{HOME}/{item}", json={"name": "Lipstick", "idempotency_key": "k"})
    await problem(changing, 422, "idempotency-key-reused")
    assert stock(await shown(b)) == (10, 0, 10)
    other = await created(a, "other")
    assert (await adjust(b, other, 7, "k")).status == 201, "a key belongs to its item"
    events = [orjson.loads(record.value or b"") for record in two.driver.read("inventory.events.v1")]
    assert len({event["event_id"] for event in events}) == len(events), "and no event of it is taken for another's"


@mark.parametrize("method", ["POST", "PATCH"])
async def test_the_header_is_a_key_too(two: Platform, method: str) -> None:
    a, b = (worker.client for worker in two.workers)
    item = await created(a)
    path, header = f"{HOME}/{item}" + ("/stock" if method == "POST" else ""), {"Idempotency-Key": "h"}
    body, other = ({"delta": 5, "reason": "r"}, {"delta": 6, "reason": "r"}) if method == "POST" else (
        {"name": "L"}, {"name": "M"}
    )  # fmt: skip
    first = await a.request(method, path, json=body, headers=header)
    again = await b.request(method, path, json=body, headers=header)
    assert first.status == again.status == (201 if method == "POST" else 200)
    assert await first.read() == await again.read() and again.headers["Idempotency-Replayed"] == "true"
    await problem(await b.request(method, path, json=other, headers=header), 422, "idempotency-key-reused")
    assert (await shown(b))["version"] == 2


async def test_many_at_once_never_take_what_is_not_there(two: Platform) -> None:
    item = await created(two.workers[0].client, stock=100)
    tries = (adjust(two.workers[n % 2].client, item, -30) for n in range(12))
    statuses = [response.status for response in await asyncio.gather(*tries)]
    assert sorted(statuses) == [201] * 3 + [409] * 9
    assert (await shown(two.workers[1].client))["on_hand"] == 10


async def test_many_at_once_with_one_key_do_it_once(two: Platform) -> None:
    item = await created(two.workers[0].client)
    tries = (adjust(two.workers[n % 2].client, item, 30, "k") for n in range(12))
    bodies = {await response.read() for response in await asyncio.gather(*tries)}
    assert len(bodies) == 1
    assert (await shown(two.workers[1].client))["on_hand"] == 30


@mark.parametrize(
    ("delta", "more", "status", "slug", "reason"),
    [
        param(0, {}, 422, "change-refused", "zero_delta", id="zero"),
        param(MAX_QUANTITY + 1, {}, 422, "change-refused", "quantity_above_limit", id="too many for any"),
        param(-11, {}, 409, "item-refused", "insufficient_stock", id="too many for this"),
        param(1.5, {}, 422, "invalid-document", None, id="no whole number"),
        param("1", {}, 422, "invalid-document", None, id="text"),
        param(2**63, {}, 422, "invalid-document", None, id="a number larger than any"),
        param(1, {"reason": ""}, 422, "invalid-document", None, id="no reason"),
        param(1, {"reason": "a\nb"}, 422, "invalid-document", None, id="a reason of two lines"),
        param(1, {"surplus": 1}, 422, "invalid-document", None, id="a member that nobody knows"),
        param(1, {"idempotency_key": ""}, 422, "invalid-document", None, id="an empty key"),
    ],
)
async def test_refused_adjustments_change_nothing(
    two: Platform, delta: Any, more: dict[str, Any], status: int, slug: str, reason: str | None
) -> None:
    client = two.workers[1].client
    item = await created(client, stock=10)
    told = await problem(await adjust(client, item, delta, **more), status, slug)
    assert told.get("reason") == reason
    assert (await shown(client))["version"] == 2


async def test_a_change_of_nothing_is_refused(two: Platform) -> None:
    client = two.workers[0].client
    item = await created(client)
    for body in ({}, {"name": None}):
        told = await problem(await client.patch(f"{HOME}/{item}", json=body), 422, "change-refused")
        assert told["reason"] == "nothing_to_change"
    await problem(await client.patch(f"{HOME}/{item}", json={"currency": "EUR"}), 422, "invalid-document")


@mark.parametrize(
    "wrong",
    [
        {"item_id": "a b"},
        {"item_id": ""},
        {"outlet_id": "a/b"},
        {"name": ""},
        {"price_minor": -1},
        {"price_minor": 1.5},
        {"currency": "XXX"},
        {"attributes": [1]},
        {"attributes": {"a": "x" * 20_000}},
        {"stock": 5},
    ],
)
async def test_what_is_no_item(two: Platform, wrong: dict[str, Any]) -> None:
    told = await problem(await two.workers[0].client.post(HOME, json={**NEW, **wrong}), 422, "invalid-document")
    assert [fault["path"] for fault in told["faults"]] == [f"$.{name}" for name in wrong]


async def test_an_item_that_is_not_there(two: Platform) -> None:
    client = two.workers[0].client
    for path in ("nothing", "a%20b", "x" * 65):
        await problem(await client.get(f"{HOME}/{path}"), 404, "no-such-item")
    told = await problem(await adjust(client, "nothing", 5), 404, "no-such-item")
    assert told["reason"] == "no_such_item"
    await problem(await client.patch(f"{HOME}/nothing", json={"name": "x"}), 404, "no-such-item")
    await problem(await adjust(client, "a%20b", 5), 404, "no-such-item")


async def test_a_command_that_fails_is_found_among_the_dead_letters(
    two: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = two.workers[0].client
    item = await created(client)

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug of ours")

    with monkeypatch.context() as broken:
        broken.setattr("agents.inventory.decide", fails)
        told = await problem(await adjust(client, item, 5), 500, "dead-lettered")
    letters = two.driver.read("dead_letters.v1")
    (headers,) = [dict(letter.headers) for letter in letters]
    place = [headers[f"dead-letter-{name}"].decode() for name in ("topic", "partition", "offset")]
    assert told["dead_letter"] == "-".join(place)
    assert (await shown(client, item))["on_hand"] == 0


async def test_an_outcome_that_is_not_known_in_time_is_202() -> None:
    async with platform(1, limits={"outcome_wait_s": 0.1}) as one:
        client = one.workers[0].client
        item = await created(client)
        await one.hold()
        response = await adjust(client, item, 5, "k")
        told = orjson.loads(await response.read())
        assert (response.status, response.headers["Retry-After"]) == (202, "1")
        one.flow()
        assert (await (await client.get(told["outcome"])).json())["on_hand"] == 5
        assert (await adjust(client, item, 5, "k")).status == 201
        assert (await shown(client, item))["on_hand"] == 5


# -- the catalogue -----------------------------------------------------------------------------------------------------


async def found(client: Client, **asked: Any) -> list[str]:
    """All pages, whatever their size."""
    ids: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        response = await client.get(f"{HOME}?{urlencode({**asked, 'cursor': cursor})}")
        assert response.status == 200, await response.text()
        page = await response.json()
        assert len(page["items"]) <= int(asked.get("limit", 50))
        ids += [item["item_id"] for item in page["items"]]
        cursor = page["next_cursor"]
    return ids


async def test_finding_items_on_all_partitions(two: Platform) -> None:
    a, b = (worker.client for worker in two.workers)
    for number in range(12):
        name = f"{'Red' if number % 2 else 'Blue'} {'Lamp' if number % 3 else 'Mascara'}"
        await created(a, f"a{number:02d}", name=name, outlet_id="east" if number < 8 else "west")
    assert len({two.home(f"a{number:02d}") for number in range(12)}) == 4
    ids = [f"a{number:02d}" for number in range(12)]
    for client, limit in ((a, 50), (b, 5), (a, 1)):
        assert await found(client, limit=limit) == ids
        assert await found(client, limit=limit, outlet_id="east") == ids[:8]
        assert await found(client, limit=limit, query="lamp RED") == ["a01", "a05", "a07", "a11"]
        assert await found(client, limit=limit, query="mascara", outlet_id="west") == ["a09"]
        assert await found(client, limit=limit, query="A03") == ["a03"]
        assert await found(client, limit=limit, query="green") == []
        assert await found(client, limit=limit, outlet_id="north") == []
    (item,) = (await (await b.get(f"{HOME}?query=a03")).json())["items"]
    assert item == await shown(a, "a03")
    two.unreadable.add(("inventory", 3))
    await problem(await b.get(f"{HOME}?outlet_id=east"), 503, "unavailable")


async def test_a_rare_word_is_looked_for_in_bounded_steps() -> None:
    """A page may look at few rows only: what it has not looked at comes with the next."""
    async with platform(1, limits={"page_scan_rows": 2, "page_search_s": 0.0}) as one:
        client = one.workers[0].client
        for number in range(20):
            await created(client, f"a{number:02d}", name="Needle" if number == 19 else "Hay")
        first = await (await client.get(f"{HOME}?query=needle")).json()
        assert first["items"] == [] and first["next_cursor"]
        assert await found(client, query="needle") == ["a19"]
        assert await found(client, query="hay", limit=3) == [f"a{number:02d}" for number in range(19)]


async def test_a_page_of_large_items_ends_early() -> None:
    """As many bytes as are asked for, and one item at least: nothing is left out between two pages."""
    async with platform(1, limits={"page_bytes": 4_000}) as one:
        client = one.workers[0].client
        ids = [f"a{number:02d}" for number in range(12)]
        for item_id in ids:
            await created(client, item_id, attributes={"text": "x" * 900})
        first = await (await client.get(HOME)).json()
        assert 1 <= len(first["items"]) <= 8 and first["next_cursor"]
        assert await found(client) == ids


@mark.parametrize(
    ("query", "name"),
    [
        ("outlet_id=a%20b", "outlet_id"),
        ("outlet=a", "outlet"),
        ("query=" + "+".join("abcdefghi"), "query"),
        ("query=" + "x" * 129, "query"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
    ],
)
async def test_bad_parameters_of_a_list(two: Platform, query: str, name: str) -> None:
    told = await problem(await two.workers[0].client.get(f"{HOME}?{query}"), 400, "bad-parameter")
    assert told["parameter"] == name


async def test_a_cursor_belongs_to_its_filters(two: Platform) -> None:
    client = two.workers[0].client
    for number in range(3):
        await created(client, f"i{number}")
    cursor = (await (await client.get(f"{HOME}?limit=1")).json())["next_cursor"]
    for filters in ("outlet_id=outlet-1", "query=mascara"):
        await problem(await client.get(f"{HOME}?{filters}&cursor={cursor}"), 400, "bad-parameter")
