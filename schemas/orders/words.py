"""Orders: commands, events, refusals and states. Partition key: order_uid.

Documents travel as the bytes that were received: what carries one is written with the document last, and read by
cutting there. Quotes inside JSON strings are escaped, so the first `,"document":` of such a record is its own.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import Field, GetCoreSchemaHandler, TypeAdapter, ValidationError
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import CoreSchema, core_schema

from schemas.base import Command, Event, Fault, InvalidDocument, one_of
from schemas.orders.document import CustomerId, OrderDocument, OrderUid
from schemas.orders.reading import Identified, check_document, field_fault, find_faults
from schemas.orders.sealed import stand_in
from schemas.strict_json import member_bytes, read_tree

_CUT = b',"document":'


class _AsReceived:
    """Bytes in memory, an OrderDocument in the JSON schema: the document is embedded, never encoded again.

    pydantic's own reading and writing of JSON would encode the bytes as a string, so both are refused.
    """

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.json_or_python_schema(
            json_schema=core_schema.no_info_after_validator_function(
                _not_by_pydantic, handler.generate_schema(OrderDocument)
            ),
            python_schema=core_schema.bytes_schema(),
            serialization=core_schema.plain_serializer_function_ser_schema(_not_by_pydantic, when_used="json"),
        )


def _not_by_pydantic(value: Any) -> Any:
    raise TypeError("a document is kept as its bytes: use the read_ and encode_ functions of schemas.orders")


RawDocument = Annotated[bytes, _AsReceived]

Reason = Annotated[
    str,
    Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$", description="Free text of the caller."),
]


class PlaceOrder(Command):
    """Place the order that the document describes."""

    type: Literal["place_order"] = "place_order"
    order_uid: OrderUid = Field(description="Equal to the document's.")
    # Lifted from the document when it is checked, so that the rule need not parse it. Not part of the record.
    customer_id: SkipJsonSchema[CustomerId]
    document: RawDocument = Field(description="The order, as received.")

    @classmethod
    def of(cls, document: Identified, raw: bytes, command_id: str) -> Self:
        """The command to place a document that `check_document` or `read_document` accepted from these bytes."""
        return cls(command_id=command_id, order_uid=document.order_uid, customer_id=document.customer_id, document=raw)


class CancelOrder(Command):
    """Cancel a placed order."""

    type: Literal["cancel_order"] = "cancel_order"
    order_uid: OrderUid
    reason: Reason


OrderCommand = PlaceOrder | CancelOrder


class PlacementRefusal(StrEnum):
    """Why an order was not placed, in the order decide checks them. `taken`: by an order that was bought here."""

    ORDER_UID_TAKEN = "order_uid_taken"
    EXISTS_WITH_DIFFERENT_CONTENT = "exists_with_different_content"


class CancellationRefusal(StrEnum):
    """Why an order was not cancelled, in the order decide checks them."""

    NO_SUCH_ORDER = "no_such_order"
    WRONG_VERSION = "wrong_version"
    ALREADY_CANCELLED = "already_cancelled"


class _OrderEvent(Event):
    order_uid: OrderUid


class OrderPlaced(_OrderEvent):
    """The order exists from here on."""

    type: Literal["order_placed"] = "order_placed"
    version: int = Field(ge=1, description="Of the order after this event.")
    customer_id: CustomerId
    document: RawDocument


class OrderCancelled(_OrderEvent):
    """The order will not be delivered."""

    type: Literal["order_cancelled"] = "order_cancelled"
    version: int = Field(ge=1, description="Of the order after this event.")
    reason: Reason


class OrderRefused(_OrderEvent):
    """An order of this uid was not placed; what was there before stays as it is."""

    type: Literal["order_refused"] = "order_refused"
    version: int = Field(ge=0, description="Of the order, which a refusal does not change.")
    reason: PlacementRefusal


class CancellationRefused(_OrderEvent):
    """The order was not cancelled."""

    type: Literal["cancellation_refused"] = "cancellation_refused"
    version: int = Field(ge=0, description="Of the order, which a refusal does not change; 0 when there is none.")
    reason: CancellationRefusal


OrderEvent = OrderPlaced | OrderCancelled | OrderRefused | CancellationRefused


class OrderStatus(StrEnum):
    """Where an order stands. One that came as a document is placed or cancelled; what is bought here goes further."""

    PLACED = "placed"
    AWAITING_PAYMENT = "awaiting_payment"
    PAID = "paid"
    APPROVED = "approved"
    PACKED = "packed"
    SHIPPED = "shipped"
    OUT_FOR_DELIVERY = "out_for_delivery"
    DELIVERED = "delivered"
    COMPLETED = "completed"
    RETURN_REQUESTED = "return_requested"
    RETURNED = "returned"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


class Order(NamedTuple):
    """An order as it stands: the value of the table `orders`. A tuple, because it costs a third of a model."""

    order_uid: str
    version: int
    status: OrderStatus
    customer_id: str
    placed_at: str
    updated_at: str
    #: `command_id` of the last change: who wants to know why an order is as it is begins here.
    updated_by: str
    cancel_reason: str | None
    document: bytes

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "order_uid": self.order_uid,
                "version": self.version,
                "status": self.status,
                "customer_id": self.customer_id,
                "placed_at": self.placed_at,
                "updated_at": self.updated_at,
                "updated_by": self.updated_by,
                "cancel_reason": self.cancel_reason,
                "document": orjson.Fragment(self.document),
            }
        )

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        """Reads what `to_json` wrote, without parsing the document."""
        head, document = _cut(raw)
        return cls(
            head["order_uid"],
            head["version"],
            OrderStatus(head["status"]),
            head["customer_id"],
            head["placed_at"],
            head["updated_at"],
            head["updated_by"],
            head["cancel_reason"],
            document,
        )


class TimelineEntry(NamedTuple):
    """One event or refusal of an order, and the record that caused it: the value of `order_timeline`."""

    type: str
    order_uid: str
    version: int
    event_id: str
    caused_by: str
    occurred_at: str
    reason: str | None
    topic: str
    partition: int
    offset: int

    def to_json(self) -> bytes:
        return orjson.dumps(
            {
                "type": self.type,
                "order_uid": self.order_uid,
                "version": self.version,
                "event_id": self.event_id,
                "caused_by": self.caused_by,
                "occurred_at": self.occurred_at,
                "reason": self.reason,
                "topic": self.topic,
                "partition": self.partition,
                "offset": self.offset,
            }
        )

    @classmethod
    def from_json(cls, raw: bytes) -> Self:
        entry = orjson.loads(raw)
        return cls(*(entry[name] for name in cls._fields))


def _cut(raw: bytes) -> tuple[dict[str, Any], bytes]:
    """Our own record: its members before the document, and the document's bytes."""
    at = raw.index(_CUT)
    head: dict[str, Any] = orjson.loads(raw[:at] + b"}")
    return head, raw[at + len(_CUT) : -1]


# --- commands ---------------------------------------------------------------------------------------------------------


def encode_command(command: OrderCommand) -> bytes:
    match command:
        case PlaceOrder():
            head = {"type": command.type, "command_id": command.command_id, "order_uid": command.order_uid}
            return orjson.dumps({**head, "document": orjson.Fragment(command.document)})
        case CancelOrder():
            return orjson.dumps(
                {
                    "type": command.type,
                    "command_id": command.command_id,
                    "order_uid": command.order_uid,
                    "reason": command.reason,
                }
                | ({} if command.expected_version is None else {"expected_version": command.expected_version})
            )


def read_command(raw: bytes) -> OrderCommand:
    """A command that any producer may have written, its document checked. Raises InvalidDocument with every fault."""
    return _read_as_we_write(raw) or _read_as_others_write(raw)


def _read_as_we_write(raw: bytes) -> PlaceOrder | None:
    """A placement with the document last and nothing wrong with it; None for anything else."""
    at = raw.find(_CUT)
    if at < 0 or not raw.endswith(b"}"):
        return None
    try:
        head = orjson.loads(raw[:at] + b"}")
        if "document" in head or head.get("type") != "place_order":
            return None
        received = raw[at + len(_CUT) : -1]
        command = PlaceOrder.of(check_document(received), received, head.get("command_id"))
    except (orjson.JSONDecodeError, InvalidDocument, ValidationError):
        return None
    return command if head.get("order_uid") == command.order_uid else None


_TYPES: dict[str, type[PlaceOrder] | type[CancelOrder]] = {"place_order": PlaceOrder, "cancel_order": CancelOrder}


def _read_as_others_write(raw: bytes) -> OrderCommand:
    """Any member order and white space, and every fault with its path."""
    tree, faults, reason = read_tree(raw)
    if tree is None and faults:
        raise InvalidDocument(faults, reason)
    if not isinstance(tree, dict):
        raise InvalidDocument([Fault(path="$", message="must be an object")])
    kind = tree.get("type")
    if kind not in _TYPES:
        known = " or ".join(f'"{name}"' for name in _TYPES)
        raise InvalidDocument([*faults, Fault(path="$.type", message=f"must be {known}")])
    members = dict(tree)
    if kind == "place_order" and "document" in tree:
        # The document's own faults come from the reading that also sees its sums; those of the tree would repeat them.
        faults = [fault for fault in faults if not fault.path.startswith(("$.document.", "$.document["))]
        document = member_bytes(raw, "document") or b""
        if all(fault.path != "$.document" for fault in faults):
            # Of two documents neither is judged: which one was meant?
            faults += _document_faults(document, tree)
        members |= {"document": document, "customer_id": "checked above"}
        if isinstance(tree["document"], dict) and isinstance(tree["document"].get("customer_id"), str):
            members["customer_id"] = tree["document"]["customer_id"]
    try:
        command = _TYPES[kind].model_validate(members)
    except ValidationError as error:
        found = [field_fault(detail) for detail in error.errors(include_url=False)]
        faults += (fault for fault in found if fault.path != "$.customer_id")
    if faults:
        raise InvalidDocument({fault.path: fault for fault in reversed(faults)}.values())
    return command


def _document_faults(document: bytes, tree: dict[str, Any]) -> list[Fault]:
    found, _ = find_faults(stand_in(document))
    faults = [Fault(path=f"$.document{fault.path[1:]}", message=fault.message) for fault in found]
    inner = tree["document"].get("order_uid") if isinstance(tree["document"], dict) else None
    if isinstance(inner, str) and inner != tree.get("order_uid"):
        faults.append(Fault(path="$.order_uid", message="differs from the document's order_uid"))
    return faults


# --- events -----------------------------------------------------------------------------------------------------------


def encode_event(event: OrderEvent) -> bytes:
    head: dict[str, Any] = {
        "type": event.type,
        "event_id": event.event_id,
        "caused_by": event.caused_by,
        "occurred_at": event.occurred_at,
        "order_uid": event.order_uid,
        "version": event.version,
    }
    match event:
        case OrderPlaced():
            head["customer_id"] = event.customer_id
            head["document"] = orjson.Fragment(event.document)
        case OrderCancelled() | OrderRefused() | CancellationRefused():
            head["reason"] = event.reason
    return orjson.dumps(head)


_events: TypeAdapter[OrderEvent] = one_of(OrderEvent)


def read_event(raw: bytes) -> OrderEvent:
    """An event as `encode_event` wrote it, newer fields ignored. Raises pydantic's ValidationError, or ValueError."""
    if _CUT in raw:
        head, document = _cut(raw)
        return _events.validate_python({**head, "document": document})
    return _events.validate_python(orjson.loads(raw))
