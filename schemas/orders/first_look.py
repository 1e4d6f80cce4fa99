"""bytes of an order document -> the order, when it is plainly right; None when it has to be read with more care.

A third of the time of the careful reading, whose rules it takes from the models of document.py. It may refuse what is
good (an extra field, an address with a colon), never accept what is not: a property test holds the two together.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, get_args, get_origin

import msgspec
from annotated_types import Ge, Le, MaxLen, MinLen
from pydantic.fields import FieldInfo

from schemas.currencies import MINOR_DIGITS
from schemas.orders.document import (
    CURRENCY_PATTERN,
    EMAIL_PATTERN,
    LOCALE_PATTERN,
    MAX_DOCUMENT_BYTES,
    ORDER_UID_PATTERN,
    PHONE_PATTERN,
    RFC3339_PATTERN,
    Delivery,
    DocumentPart,
    Item,
    OrderDocument,
    Payment,
)

_LIMITS = {Ge: "ge", Le: "le", MinLen: "min_length", MaxLen: "max_length"}
#: Looked at below: all in one search, and the currency in its list, which holds nothing but three capital letters.
_PATTERNS = {ORDER_UID_PATTERN, PHONE_PATTERN, EMAIL_PATTERN, LOCALE_PATTERN, RFC3339_PATTERN, CURRENCY_PATTERN}


def _struct(model: type[DocumentPart]) -> Any:
    """The model's fields with their types and limits, and no others, for msgspec."""
    fields = [(name, _typed(f"{model.__name__}.{name}", field)) for name, field in model.model_fields.items()]
    return msgspec.defstruct(model.__name__, fields, forbid_unknown_fields=True, gc=False, frozen=True)


def _typed(name: str, field: FieldInfo) -> Any:
    limits: dict[str, Any] = {}
    for rule in field.metadata:
        if type(rule) in _LIMITS:
            limit = _LIMITS[type(rule)]
            limits[limit] = getattr(rule, limit)
        elif (pattern := getattr(rule, "pattern", None)) is not None and pattern not in _PATTERNS:
            raise TypeError(
                f"{name} has a pattern that the first look does not know: {pattern}. Teach it, or fall back"
            )
        elif pattern is None and not hasattr(rule, "fail_fast"):
            raise TypeError(f"{name} has a rule that the first look does not know: {rule!r}. Teach it, or fall back")
    plain: Any = field.annotation
    if get_origin(plain) is list:
        plain = list.__class_getitem__(_struct(get_args(plain)[0]))
    elif isinstance(plain, type) and issubclass(plain, DocumentPart):
        plain = _struct(plain)
    return Annotated[plain, msgspec.Meta(**limits)] if limits else plain


_decode = msgspec.json.Decoder(_struct(OrderDocument)).decode

# Line ends are in none of these patterns, so the joined texts match the joined patterns if and only if each matches its
# own. ASCII: Rust's \s, which the models mean, knows other spaces than Python's outside of it.
_match = re.compile(
    "\n".join(
        pattern[1:-1].replace("(", "(?:")
        for pattern in (ORDER_UID_PATTERN, PHONE_PATTERN, EMAIL_PATTERN, LOCALE_PATTERN, RFC3339_PATTERN)
    ),
    re.ASCII,
).fullmatch

_NAMES_PER_ITEM = len(Item.model_fields)
_NAMES_WITHOUT_ITEMS = len(OrderDocument.model_fields) + len(Delivery.model_fields) + len(Payment.model_fields)


def first_look(raw: bytes) -> Any:
    """The document as an object with its fields, or None.

    There is no name but those of the models, each at least once, and no colon but theirs and the date's: so there is no
    name twice either, as long as no colon is hidden by an escape.
    """
    try:
        order = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    items, payment, delivery, created = order.items, order.payment, order.delivery, order.date_created
    if raw.count(b":") != _NAMES_WITHOUT_ITEMS + _NAMES_PER_ITEM * len(items) + created.count(":"):
        return None
    if b"\\" in raw and (b"\\u0000" in raw or b"\\u003" in raw):
        return None
    track_number, total = order.track_number, 0
    for item in items:
        if item.track_number != track_number:
            return None
        total += item.total_price
    if (
        total != payment.goods_total
        or total + payment.delivery_cost + payment.custom_fee != payment.amount
        or payment.currency not in MINOR_DIGITS
        or ((created[8:10] > "28" or created[:4] == "0000") and not is_a_day(created[:10]))
        or len(raw) > MAX_DOCUMENT_BYTES
    ):
        return None
    texts = f"{order.order_uid}\n{delivery.phone}\n{delivery.email}\n{order.locale}\n{created}"
    if not texts.isascii() or _match(texts) is None:
        return None
    return order


def is_a_day(text: str) -> bool:
    """Whether the calendar has this day; the pattern of times knows months of 31 days only."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True
