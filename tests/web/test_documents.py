"""/openapi.json, /asyncapi.json and the pages: valid, complete, and true of what is answered."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark

from schemas.accounts import account_id_of
from schemas.orders import CancelOrder, OrderCancelled, OrderDocument
from schemas.topics import TOPICS
from tests.web.platform import Client, Platform, platform, raw, settings
from web import asyncapi, openapi
from web.limits import Limits
from web.openapi import MODELS, OPERATIONS
from web.openapi.models import ProblemDocument
from web.openapi.purchase_models import OrderPage
from web.problems import BAD_REQUEST, EXPECTATION_FAILED, KINDS, MISDIRECTED

ROOT = Path(__file__).parents[2]


#: Said between workers, or of what is no request of an operation.
OF_NO_OPERATION = {kind.slug for kind in (MISDIRECTED, BAD_REQUEST, EXPECTATION_FAILED)}


@pytest.fixture
async def two() -> AsyncIterator[Platform]:
    async with platform(2) as running:
        yield running


async def fetched(running: Platform, path: str) -> Any:
    response = await running.workers[0].client.get(path)
    assert response.status == 200 and response.content_type == "application/json"
    return orjson.loads(await response.read())


async def test_the_openapi_document_is_valid(two: Platform) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="a development dependency")
    validator.validate(await fetched(two, "/openapi.json"))


async def test_every_address_is_described_and_every_description_has_an_address(two: Platform) -> None:
    paths = (await fetched(two, "/openapi.json"))["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    server = two.workers[0].client.server
    served = {
        (route.method, route.resource.canonical)
        for route in server.app.router.routes()  # type: ignore[attr-defined]
        if route.resource is not None and route.method != "HEAD"
    }
    for_people = {("GET", path) for path in ("/", "/docs", "/problems", "/static/{name}")}
    between_workers = {("GET", "/internal/v1/{group}/{partition}/{question}")}
    assert served - for_people - between_workers == described
    assert {operation.id for operation in OPERATIONS} <= {
        entry["operationId"] for methods in paths.values() for entry in methods.values()
    }


async def test_every_operation_names_every_parameter_of_its_path_and_every_kind_of_problem(two: Platform) -> None:
    document = await fetched(two, "/openapi.json")
    parameters = document["components"]["parameters"]
    told: set[str] = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            names = [parameters[p["$ref"].rsplit("/", 1)[1]] for p in operation["parameters"]]
            in_path = {parameter["name"] for parameter in names if parameter["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path)), (method, path)
            if path.startswith("/api"):
                assert {"200", "201"} & set(operation["responses"]), (method, path)
                assert {"500", "503"} <= set(operation["responses"])
            for response in operation["responses"].values():
                told |= set(response.get("content", {}).get("application/problem+json", {}).get("examples", {}))
    assert {kind.slug for kind in KINDS} - told == {"no-such-route", "method-not-allowed", *OF_NO_OPERATION}


async def test_every_example_is_what_its_schema_says(two: Platform) -> None:
    document = await fetched(two, "/openapi.json")
    models = {model.__name__: TypeAdapter(model) for model in (OrderDocument, *MODELS)}
    checked = 0
    for methods in document["paths"].values():
        for operation in methods.values():
            bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
            for media in (media for body in bodies for media in body.get("content", {}).values()):
                name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
                for example in media.get("examples", {}).values():
                    # Some words are strict; as JSON they are read as a caller's would be.
                    models[name].validate_json(orjson.dumps(example["value"]))
                    checked += 1
    assert checked > 60


class Held:
    """Real answers, each held against the model that its status names."""

    def __init__(self, client: Client, document: Any) -> None:
        self._client, self._document = client, document
        self.seen: set[tuple[str, int]] = set()

    async def hold(self, method: str, path: str, template: str, **options: Any) -> None:
        models = {model.__name__: model for model in MODELS}
        response = await self._client.request(method, path, **options)
        described = self._document["paths"][template][method.lower()]["responses"]
        assert str(response.status) in described, (method, path, response.status)
        self.seen.add((template, response.status))
        entry = described[str(response.status)]
        # Only a repeated answer is marked so, and of the 409s only a request in flight is worth a retry.
        sometimes = {"Idempotency-Replayed"} | ({"Retry-After"} if response.status == 409 else set())
        missing = {name for name in entry["headers"] if name not in response.headers}
        assert missing <= sometimes, (path, missing)
        for media_type, media in entry.get("content", {}).items():
            assert response.content_type == media_type.split(";")[0]
            name = media["schema"].get("$ref", "").rsplit("/", 1)[-1]
            if name:
                models[name].model_validate_json(await response.read())


async def test_answers_are_what_the_document_says(two: Platform) -> None:
    """Each operation's real answers against the model that its status names."""
    held = Held(two.workers[0].client, await fetched(two, "/openapi.json"))
    hold = held.hold
    orders, one = "/api/v1/orders", "/api/v1/orders/{order_uid}"
    await hold("POST", orders, orders, data=raw("a"), headers={"Idempotency-Key": "k"})
    await hold("POST", orders, orders, data=raw("a", customer_id="b"))
    await hold("POST", orders, orders, data=raw("a", customer_id=""))
    await hold("POST", orders, orders, data=b"{")
    await hold("POST", orders, orders, data=b"x" * (2 << 20))
    await hold("POST", orders, orders, data=b"x", headers={"Content-Type": "text/plain"})
    await hold("POST", "/api/orders/test", "/api/orders/test")
    await hold("GET", orders, orders)
    await hold("GET", f"{orders}?limit=x", orders)
    await hold("GET", f"{orders}/a", one)
    await hold("GET", f"{orders}/a", one, headers={"If-None-Match": '"1"'})
    await hold("GET", f"{orders}/b", one)
    await hold("GET", f"{orders}/a/timeline", f"{one}/timeline")
    await hold("POST", f"{orders}/a/cancel", f"{one}/cancel", json={"reason": "x"})
    await hold("POST", f"{orders}/a/cancel", f"{one}/cancel", json={"reason": "x"})
    await hold("POST", f"{orders}/b/cancel", f"{one}/cancel", json={"reason": "x"})
    two.unreadable |= {("orders", partition) for partition in range(4)}
    await hold("GET", f"{orders}/a", one)
    await hold("GET", orders, orders)
    for path in ("/health", "/health/live", "/health/ready", "/metrics", "/openapi.json", "/asyncapi.json"):
        await hold("GET", path, path)
    assert len(held.seen) >= 22


async def test_answers_of_accounts_are_what_the_document_says(two: Platform) -> None:
    held = Held(two.workers[0].client, await fetched(two, "/openapi.json"))
    hold = held.hold
    accounts, account = "/api/v1/accounts", "/api/v1/accounts/{account_id}"
    opening = {"user_id": "user", "currency": "INR"}
    id = account_id_of("user", "INR")
    await hold("POST", accounts, accounts, json={**opening, "idempotency_key": "k"})
    await hold("POST", accounts, accounts, json=opening)
    await hold("POST", accounts, accounts, json={"user_id": "user"})
    await hold("GET", f"{accounts}?user_id=user", accounts)
    for amount in (5, 0, 2**53):
        await hold("POST", f"{accounts}/{id}/deposits", f"{account}/deposits", json={"amount_minor": amount})
    for amount in (5, 5):
        await hold("POST", f"{accounts}/{id}/withdrawals", f"{account}/withdrawals", json={"amount_minor": amount})
    await hold("GET", f"{accounts}/{id}", account)
    await hold("GET", f"{accounts}/x", account)
    await hold("GET", f"{accounts}/{id}/entries", f"{account}/entries")
    await hold("GET", "/api/v1/ledger/trial-balance", "/api/v1/ledger/trial-balance")
    assert len(held.seen) >= 11


async def test_answers_of_items_are_what_the_document_says(two: Platform) -> None:
    held = Held(two.workers[0].client, await fetched(two, "/openapi.json"))
    hold = held.hold
    items, item = "/api/v1/items", "/api/v1/items/{item_id}"
    new = {"item_id": "i", "outlet_id": "o", "name": "Item", "price_minor": 5, "currency": "INR"}
    for body in (new, new, {**new, "price_minor": 6}, {**new, "price_minor": -1}):
        await hold("POST", items, items, json=body)
    for delta in (5, 0, -6, "x"):
        await hold("POST", f"{items}/i/stock", f"{item}/stock", json={"delta": delta, "reason": "receive"})
    await hold("POST", f"{items}/j/stock", f"{item}/stock", json={"delta": 5, "reason": "receive"})
    for change in ({"low_stock_at": 3, "attributes": {"a": [1, None]}}, {}, {"name": ""}):
        await hold("PATCH", f"{items}/i", item, json=change)
    await hold("GET", f"{items}?query=item&outlet_id=o", items)
    await hold("GET", f"{items}?outlet_id=o%20", items)
    await hold("GET", f"{items}/i", item)
    await hold("GET", f"{items}/i", item, headers={"If-None-Match": '"3"'})
    await hold("GET", f"{items}/j", item)
    two.unreadable |= {("inventory", partition) for partition in range(4)}
    await hold("GET", items, items)
    assert len(held.seen) >= 14


def test_a_schema_refuses_what_the_document_does_not_have() -> None:
    with pytest.raises(ValidationError):
        OrderPage.model_validate_json(b'{"orders": [], "next_cursor": null, "more": 1}')
    assert ProblemDocument.model_fields


def test_limits_in_the_document_are_those_that_hold() -> None:
    document = openapi.document([], Limits(page_most=77), frozenset({"orders"}))
    assert document["components"]["parameters"]["limit"]["schema"]["maximum"] == 77


# -- the topics --------------------------------------------------------------------------------------------------------


async def test_every_topic_is_described_with_its_records(two: Platform) -> None:
    document = await fetched(two, "/asyncapi.json")
    assert document["asyncapi"] == "3.0.0"
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    assert set(channels) == {spec.name for spec in TOPICS}
    for spec in TOPICS:
        kafka = channels[spec.name]["bindings"]["kafka"]
        assert kafka["topicConfiguration"]["retention.ms"] == spec.retention_ms
        assert kafka["partitions"] == (1 if spec.single else two.settings.partitions)
        assert set(channels[spec.name]["messages"]) == ({m.__name__ for m in spec.values} or {"DeadLetter"})
    sent = {document["channels"][ref(o["channel"])]["address"] for o in operations(document, "send")}
    received = {document["channels"][ref(o["channel"])]["address"] for o in operations(document, "receive")}
    assert received == {spec.name for spec in TOPICS if spec.group}
    assert sent == {spec.name for spec in TOPICS} - {"orders"}


def operations(document: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [operation for operation in document["operations"].values() if operation["action"] == action]


def ref(pointer: dict[str, str]) -> str:
    return pointer["$ref"].rsplit("/", 1)[1]


async def test_every_reference_of_both_documents_leads_somewhere(two: Platform) -> None:
    for path in ("/openapi.json", "/asyncapi.json"):
        document = await fetched(two, path)
        found = re.findall(r'"\$ref":"#/([^"]+)"', orjson.dumps(document).decode())
        assert found
        for pointer in found:
            target = document
            for step in pointer.split("/"):
                target = target[step.replace("~1", "/").replace("~0", "~")]


def test_schemas_of_records_name_their_members() -> None:
    schemas = asyncapi.schemas(TOPICS)
    assert set(schemas["CancelOrder"]["properties"]) == set(CancelOrder.model_fields)
    assert set(schemas["OrderCancelled"]["properties"]) == set(OrderCancelled.model_fields)
    assert "customer_id" not in schemas["PlaceOrder"]["properties"]


# -- pages for people --------------------------------------------------------------------------------------------------


@mark.parametrize("path", ["/", "/docs", "/problems"])
async def test_pages_ask_nobody_but_this_worker(two: Platform, path: str) -> None:
    client = two.workers[0].client
    response = await client.get(path)
    page = await response.text()
    assert (response.status, response.content_type) == (200, "text/html")
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]
    needed = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert needed
    for address in needed:
        assert address.startswith(("/", "data:")), address
        if address.startswith("/"):
            assert (await client.get(address)).status == 200, address
    assert "<script>" not in page and " style=" not in page and "onclick" not in page


async def test_the_problems_page_has_every_type(two: Platform) -> None:
    page = await (await two.workers[0].client.get("/problems")).text()
    for kind in KINDS:
        assert f'id="{kind.slug}"' in page and str(kind.status) in page


async def test_the_viewer_is_vendored_with_its_licence(two: Platform) -> None:
    client = two.workers[0].client
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "swagger-ui-bundle.js.LICENSE.txt"):
        response = await client.get(f"/static/swagger-ui/{name}")
        assert response.status == 200 and len(await response.read()) > 1_000
    assert "Apache License" in (ROOT / "web/static/swagger-ui/LICENSE").read_text()
    assert "validatorUrl: null" in (ROOT / "web/static/docs.js").read_text()


async def test_the_viewer_fills_no_parameter_that_may_be_left_out(two: Platform) -> None:
    """Swagger UI takes `example` into its forms: a click on Execute must work as it is."""
    parameters = (await fetched(two, "/openapi.json"))["components"]["parameters"]
    filled = {name for name, each in parameters.items() if "example" in each or "examples" in each}
    assert filled == {name for name, each in parameters.items() if each.get("required")}
    assert "For example `placed`." in parameters["status"]["description"]


# -- docs/http.md ------------------------------------------------------------------------------------------------------


async def test_the_guide_has_every_address_problem_metric_and_setting_of_this_room(two: Platform) -> None:
    guide = (ROOT / "docs/http.md").read_text()
    for path in (await fetched(two, "/openapi.json"))["paths"]:
        assert path in guide, path
    for kind in KINDS:
        assert f"| `{kind.slug}` | {kind.status} |" in guide, kind.slug
    metrics = await (await two.workers[0].client.get("/metrics")).text()
    for name in re.findall(r"# TYPE (http_\w+) ", metrics):
        assert name.removesuffix("_created") in guide or name.endswith("_created"), name
    for name in set(re.findall(r"ORDERSTREAM_(\w+)", guide)):
        assert name.lower() in type(two.settings).model_fields, name


def test_the_guide_has_the_bounds_that_hold() -> None:
    guide, limits = (ROOT / "docs/http.md").read_text(), Limits.of(settings())
    assert limits == Limits(), "the defaults of limits.py are those of the settings"
    assert f"1 to {limits.page_most}, {limits.page_default} unless given" in guide
    assert f"`limit` (1 to {limits.timeline_most}, {limits.page_default} unless given)" in guide
    assert f"waits up to {limits.read_wait_s:g} s" in guide and f"the wait ({limits.outcome_wait_s:g} s)" in guide
    assert f"nested more than {limits.json_depth} levels" in guide and limits.body_bytes == 1 << 20
    assert f"within {limits.body_wait_s:g} s" in guide and f"longer than {limits.request_s:g} s" in guide
