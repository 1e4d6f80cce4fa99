"""Commands, events and states of orders: the bytes they are written in, and reading them back."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError
from pytest import mark, param

from schemas.base import InvalidDocument
from schemas.orders import (
    CancellationRefusal,
    CancellationRefused,
    CancelOrder,
    Order,
    OrderCancelled,
    OrderEvent,
    OrderPlaced,
    OrderRefused,
    OrderStatus,
    PlacementRefusal,
    PlaceOrder,
    TimelineEntry,
    encode_command,
    encode_event,
    read_command,
    read_document,
    read_event,
    words,
)
from tests.schemas.documents import SAMPLE, changed

#: As a producer might write it: the bytes are not those that we would write, and a text looks like our cut.
RECEIVED = json.dumps(
    {**orjson.loads(SAMPLE), "note": 'a "quoted",\\"document\\": {', "document": {"x": 1}}, indent=1
).encode()
PLACE = PlaceOrder.of(read_document(RECEIVED), RECEIVED, "c-1")
CANCEL = CancelOrder(command_id="c-2", order_uid="b563feb7b2b84b6test", reason='no "longer",\n"document":{} needed')
FACT: dict[str, Any] = {
    "event_id": "e-1",
    "caused_by": "c-1",
    "occurred_at": "2021-11-26T06:22:19.000Z",
    "order_uid": "b563feb7b2b84b6test",
}


@mark.parametrize("command", [PLACE, CANCEL], ids=lambda command: command.type)
def test_commands_there_and_back(command: PlaceOrder | CancelOrder) -> None:
    assert read_command(encode_command(command)) == command


def test_a_document_travels_as_the_bytes_that_were_received() -> None:
    raw = encode_command(PLACE)
    assert raw.endswith(RECEIVED + b"}")
    assert words._read_as_we_write(raw) == PLACE, "our own commands take the quick way"
    assert set(orjson.loads(raw)) == {"type", "command_id", "order_uid", "document"}


@mark.parametrize(
    "raw",
    [
        param(b'{"document":%b,"type":"place_order","order_uid":"%b","command_id":"c-1"}', id="document first"),
        param(b' { "type" : "place_order" , "document" :\n%b , "order_uid":"%b","command_id":"c-1" } ', id="spaces"),
        param(b'{"type":"place_order","document":%b,"order_uid":"%b","command_id":"c-1","x":[1]}', id="in between"),
        param(
            b'{"a":{"b":1,"document":2},"document":%b,"order_uid":"%b","command_id":"c-1","type":"place_order"}', id="a"
        ),
    ],
)
def test_commands_of_others_keep_their_bytes_too(raw: bytes) -> None:
    assert read_command(raw % (RECEIVED, PLACE.order_uid.encode())) == PLACE


def command(document: bytes = SAMPLE, **members: Any) -> bytes:
    head = {"type": "place_order", "command_id": "c-1", "order_uid": "b563feb7b2b84b6test", **members}
    return orjson.dumps({**head, "document": orjson.Fragment(document)})


@mark.parametrize(
    ("raw", "faults"),
    [
        param(b"{", {"$"}, id="no JSON"),
        param(b"[1]", {"$"}, id="no object"),
        param(b"{}", {"$.type"}, id="no type"),
        param(command(type="pay_order"), {"$.type"}, id="unknown type"),
        param(command(order_uid="another"), {"$.order_uid"}, id="another order_uid"),
        param(command(order_uid=5, command_id=None), {"$.order_uid", "$.command_id"}, id="ids of wrong types"),
        param(command(command_id="a\0"), {"$.command_id"}, id="NUL in the id"),
        param(command(b"[]"), {"$.document"}, id="document is no object"),
        param(command(b"{}"), {f"$.document.{name}" for name in orjson.loads(SAMPLE)}, id="document is empty"),
        param(
            command(changed(("payment.amount", 1), ("items.0.sale", 1.0)), command_id=""),
            {"$.command_id", "$.document.payment.amount", "$.document.items[0].sale"},
            id="faults of head and document together",
        ),
        param(b'{"type":"place_order","command_id":"c","order_uid":"x"}', {"$.document"}, id="no document"),
        param(
            command().replace(b',"document":', b',"document":%b,"document":' % SAMPLE),
            {"$.document"},
            id="two documents",
        ),
        param(command().replace(b'{"type"', b'{"document":{},"type"', 1), {"$.document"}, id="another document first"),
        param(
            b'{"type":"place_order","command_id":"c-1","order_uid":"b563feb7b2b84b6test","document":%b,"x":NaN}'
            % SAMPLE,
            {"$.x"},
            id="NaN behind the document",
        ),
        param(b'{"type":"cancel_order","command_id":"c","order_uid":"x"}', {"$.reason"}, id="no reason"),
        param(b'{"type":"cancel_order","command_id":"c","order_uid":"x","reason":""}', {"$.reason"}, id="empty reason"),
        param(b'{"type":"cancel_order","command_id":"c","order_uid":"x","reason":"a\\u0000"}', {"$.reason"}, id="NUL"),
        param(
            b'{"type":"cancel_order","command_id":"c","order_uid":"x","reason":"a","reason":"b"}',
            {"$.reason"},
            id="twice",
        ),
        param(b'{"type":"cancel_order","command_id":7,"order_uid":"/","reason":1}', None, id="all wrong"),
    ],
)
def test_bad_commands_name_every_fault(raw: bytes, faults: set[str] | None) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_command(raw)
    assert {fault.path for fault in caught.value.faults} == (faults or {"$.command_id", "$.order_uid", "$.reason"})


EVENTS: list[OrderEvent] = [
    OrderPlaced(**FACT, version=1, customer_id='te"st', document=RECEIVED),
    OrderCancelled(**FACT, version=2, reason="changed my mind"),
    OrderRefused(**FACT, version=1, reason=PlacementRefusal.EXISTS_WITH_DIFFERENT_CONTENT),
    CancellationRefused(**FACT, version=0, reason=CancellationRefusal.NO_SUCH_ORDER),
]


@mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_events_there_and_back(event: OrderEvent) -> None:
    raw = encode_event(event)
    assert read_event(raw) == event
    assert next(iter(orjson.loads(raw))) == "type", "a reader decides by the first member"


@mark.parametrize("event", EVENTS, ids=lambda event: event.type)
def test_an_old_reader_reads_a_newer_event(event: OrderEvent) -> None:
    assert read_event(encode_event(event).replace(b'{"type"', b'{"since_v1_1":{"a":1},"type"', 1)) == event


def test_an_event_holds_the_document_as_received() -> None:
    assert encode_event(EVENTS[0]).endswith(b',"document":' + RECEIVED + b"}")


ORDER = Order(
    order_uid="b563feb7b2b84b6test",
    version=2,
    status=OrderStatus.CANCELLED,
    customer_id='te"st,"document":',
    placed_at="2021-11-26T06:22:19.000Z",
    updated_at="2021-11-26T06:22:20.000Z",
    updated_by="c-2",
    cancel_reason='no,"document":{}',
    document=RECEIVED,
)


def test_an_order_there_and_back_without_parsing_its_document() -> None:
    raw = ORDER.to_json()
    assert Order.from_json(raw) == ORDER
    assert orjson.loads(raw)["document"] == orjson.loads(RECEIVED)
    assert Order.from_json(raw.replace(RECEIVED, b"not even JSON")).document == b"not even JSON"


def test_a_timeline_entry_there_and_back() -> None:
    entry = TimelineEntry("order_placed", "uid", 1, "e", "c", "2021-11-26T06:22:19.000Z", None, "orders", 2, 1234)
    raw = entry.to_json()
    assert TimelineEntry.from_json(raw) == entry
    assert TimelineEntry.from_json(raw.replace(b"{", b'{"newer":1,', 1)) == entry


def test_pydantic_alone_neither_writes_nor_reads_a_document() -> None:
    with pytest.raises(PydanticSerializationError, match="encode_"):
        PLACE.model_dump_json()
    with pytest.raises(TypeError, match="read_"):
        PlaceOrder.model_validate_json(encode_command(PLACE).replace(b'"type"', b'"customer_id":"c","type"', 1))


@mark.parametrize("word", [PlaceOrder, OrderPlaced], ids=lambda word: word.__name__)
def test_the_schema_shows_the_document_as_an_order(word: type[Any]) -> None:
    for mode in ("validation", "serialization"):
        schema = TypeAdapter(word).json_schema(mode=mode)
        assert schema["properties"]["document"]["$ref"] == "#/$defs/OrderDocument"
    assert "customer_id" not in TypeAdapter(PlaceOrder).json_schema()["properties"]
