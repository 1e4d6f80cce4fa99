"""bytes of an order document -> the checked document, or every fault in it with its path.

Three readings of the same rules, each for what the one before does not like. The first look (first_look.py) takes
almost every order, in 5 µs; the quick one takes the others that are good, in 12 µs; neither says yes wrongly. The
thorough one finds and names everything. A property test holds them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Protocol

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from schemas.base import MAX_FAULTS, Fault, InvalidDocument
from schemas.currencies import MINOR_DIGITS
from schemas.orders.document import MAX_DOCUMENT_BYTES, MAX_ITEMS, PATTERN_HINTS, Item, OrderDocument
from schemas.orders.first_look import first_look, is_a_day
from schemas.orders.sealed import stand_in
from schemas.strict_json import MAX_VALUES, count_values, location_path, plain_tree, read_tree

_validate_json = OrderDocument.__pydantic_validator__.validate_json
_validate_python = OrderDocument.__pydantic_validator__.validate_python

_ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])
_ITEMS_AT_ONCE = 100


class Identified(Protocol):
    """A document that was checked, whoever checked it: whose order it is, and which."""

    @property
    def order_uid(self) -> str: ...
    @property
    def customer_id(self) -> str: ...


def check_document(raw: bytes) -> Identified:
    """As `read_document`, in a third of its time for almost every order, for those who keep the bytes.

    They are on the inside, where personal fields may be sealed.
    """
    return check_clear(stand_in(raw))


def check_clear(raw: bytes) -> Identified:
    """The same at the edge, where nothing is sealed yet."""
    plain: Identified | None = first_look(raw)
    return read_document(raw) if plain is None else plain


def read_document(raw: bytes) -> OrderDocument:
    """The document, or InvalidDocument with every fault. What is accepted here, every reader of JSON reads alike."""
    document: OrderDocument | None = None
    if len(raw) <= MAX_DOCUMENT_BYTES and count_values(raw) <= MAX_VALUES:
        with suppress(ValidationError):
            document = _validate_json(raw)
    if document is not None and _adds_up(document) and plain_tree(raw) is not None:
        return document
    faults, reason = find_faults(raw, fields_are_valid=document is not None)
    if faults or document is None:
        # The two readers of JSON should never differ; should they all the same, it is no order.
        raise InvalidDocument(faults or (Fault(path="$", message="not JSON"),), reason)
    return document


def _adds_up(document: OrderDocument) -> bool:
    """The rules that span fields; `_sum_faults` says the same with words and paths."""
    track_number, total = document.track_number, 0
    for item in document.items:
        if item.track_number != track_number:
            return False
        total += item.total_price
    payment, created = document.payment, document.date_created
    return (
        total == payment.goods_total
        and total + payment.delivery_cost + payment.custom_fee == payment.amount
        and payment.currency in MINOR_DIGITS
        and ((created[8:10] <= "28" and created[:4] != "0000") or is_a_day(created[:10]))
    )


def find_faults(raw: bytes, fields_are_valid: bool = False) -> tuple[tuple[Fault, ...], str]:
    """Every fault of a document, in one list: of the JSON, of each field, and between fields. One per path.

    `fields_are_valid`: the models have taken it, so that none of its fields has to be looked at.

    Ends soon after MAX_FAULTS: nobody reads more, and a small record can hold very many.
    """
    if len(raw) > MAX_DOCUMENT_BYTES:
        message = f"is {len(raw)} bytes long; at most {MAX_DOCUMENT_BYTES} are taken"
        return (Fault(path="$", message=message),), "invalid"
    tree, faults, reason = read_tree(raw)
    if tree is None and faults:
        return tuple(faults), reason
    by_path: dict[str, Fault] = {}
    of_fields = () if fields_are_valid else _field_faults(tree)
    for fault in chain(faults, of_fields, _sum_faults(tree)):
        by_path.setdefault(fault.path, fault)
        if len(by_path) > MAX_FAULTS:
            break
    return tuple(by_path.values()), reason


def _field_faults(tree: Any) -> Iterator[Fault]:
    """What is wrong with each field. Items are looked at a few at a time: a record can hold 100,000 faults."""
    items = tree.get("items") if isinstance(tree, dict) else None
    if not isinstance(items, list) or not items:
        yield from _pydantic_faults(tree)
        return
    if len(items) > MAX_ITEMS:
        yield Fault(path="$.items", message=f"has {len(items)} items; at most {MAX_ITEMS} are taken")
    yield from _pydantic_faults({**tree, "items": items[:1]})
    for start in range(1, min(len(items), MAX_ITEMS), _ITEMS_AT_ONCE):
        try:
            _ITEMS.validate_python(items[start : start + _ITEMS_AT_ONCE])
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_input=False):
                index, *below = detail["loc"]
                detail["loc"] = ("items", start + int(index), *below)
                yield field_fault(detail)


def _pydantic_faults(tree: Any) -> Iterator[Fault]:
    try:
        _validate_python(tree)
    except ValidationError as error:
        yield from (field_fault(detail) for detail in error.errors(include_url=False, include_input=False))


def field_fault(detail: ErrorDetails) -> Fault:
    """pydantic's finding in our words where ours help more."""
    message = detail["msg"]
    if detail["type"] == "missing":
        message = "is required"
    elif detail["type"] == "string_pattern_mismatch":
        hint = PATTERN_HINTS.get(detail["ctx"]["pattern"])
        message = f"must be {hint}" if hint else message
    elif detail["type"] in ("model_type", "dict_type"):
        message = "must be an object"
    return Fault(path=location_path(detail["loc"]), message=message)


def _sum_faults(tree: Any) -> Iterator[Fault]:
    """What fields say about each other, as far as it can be judged: a missing price hides no wrong track number."""
    if not isinstance(tree, dict):
        return
    items, payment, created = tree.get("items"), tree.get("payment"), tree.get("date_created")
    if isinstance(items, list):
        yield from _track_number_faults(items, tree.get("track_number"))
    if isinstance(payment, dict):
        yield from _payment_faults(payment, items)
    if isinstance(created, str) and len(created) >= 20 and not is_a_day(created[:10]):
        yield Fault(path="$.date_created", message="names a day that the calendar does not have")


def _track_number_faults(items: list[Any], track_number: Any) -> Iterator[Fault]:
    if not isinstance(track_number, str):
        return
    for index, item in enumerate(items):
        found = item.get("track_number") if isinstance(item, dict) else None
        if isinstance(found, str) and found != track_number:
            message = f"is {found[:64]!r}, but the order's track_number is {track_number[:64]!r}"
            yield Fault(path=f"$.items[{index}].track_number", message=message)


def _payment_faults(payment: dict[str, Any], items: Any) -> Iterator[Fault]:
    currency = payment.get("currency")
    if isinstance(currency, str) and currency not in MINOR_DIGITS:
        message = f"{currency[:8]!r} is no ISO 4217 code in use; write three capital letters, as in USD"
        yield Fault(path="$.payment.currency", message=message)
    goods_total = _whole(payment.get("goods_total"))
    prices = [_whole(item.get("total_price")) if isinstance(item, dict) else None for item in _list(items)]
    total = _total(prices)
    if prices and total is not None and goods_total is not None and total != goods_total:
        message = f"is {goods_total}, but the items' total_price add up to {total}"
        yield Fault(path="$.payment.goods_total", message=message)
    amount = _whole(payment.get("amount"))
    parts = _total([goods_total, _whole(payment.get("delivery_cost")), _whole(payment.get("custom_fee"))])
    if amount is not None and parts is not None and amount != parts:
        message = f"is {amount}, but goods_total + delivery_cost + custom_fee is {parts}"
        yield Fault(path="$.payment.amount", message=message)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _whole(value: Any) -> int | None:
    """A number that sums can be judged with; true and 1.0 are not."""
    return value if type(value) is int else None


def _total(numbers: list[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if len(known) == len(numbers) else None


def same_document(one: bytes, other: bytes) -> bool:
    """Whether two accepted documents say the same: the order of names and white space do not matter, types do."""
    return one == other or _canonical(one) == _canonical(other)


def _canonical(raw: bytes) -> bytes:
    return orjson.dumps(orjson.loads(raw), option=orjson.OPT_SORT_KEYS)
