"""bytes of an order document -> the JSON path of every fault in it; none for a document that must be accepted.

Written from the documented fields and rules, as data where they are data. Paths are RFC 9535: `$.items[0].price`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

MOST_BYTES = 1 << 20
MOST_ITEMS = 10_000
MOST_LEVELS = 64
#: Integers that every reader of JSON holds exactly (RFC 7493); amounts and ids stay within it.
SAFE = 2**53 - 1
LAST_SECOND = 253_402_300_799

#: Currencies that the load uses, and some more. A code that is not here is no currency to the oracle.
CURRENCIES = frozenset(("AED", "AUD", "BGN", "BRL", "BYN", "CAD", "CHF", "CNY", "CZK", "DKK", "EUR", "GBP", "GEL",
    "HKD", "HUF", "ILS", "INR", "JPY", "KRW", "KWD", "KZT", "MXN", "NOK", "NZD", "PLN", "RON", "RSD", "RUB", "SEK",
    "SGD", "THB", "TND", "TRY", "UAH", "USD", "UZS", "VND", "ZAR"))  # fmt: skip

Check = Callable[[Any], bool]
Path = str


def text(least: int, most: int) -> Check:
    return lambda value: type(value) is str and least <= len(value) <= most


def like(pattern: str, most: int = MOST_BYTES) -> Check:
    whole = re.compile(pattern)
    return lambda value: type(value) is str and len(value) <= most and whole.fullmatch(value) is not None


def number(most: int = SAFE) -> Check:
    return lambda value: type(value) is int and 0 <= value <= most


def a_time(value: Any) -> bool:
    """RFC 3339 with its offset, and a day that the calendar has."""
    if type(value) is not str or not _TIME.fullmatch(value):
        return False
    try:
        date.fromisoformat(value[:10])
    except ValueError:
        return False
    return True


_TIME = re.compile(
    r"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
    r"T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)

ORDER_UID = like(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")
NAME = text(1, 64)

DELIVERY: Mapping[str, Check] = {
    "name": text(1, 256),
    "phone": like(r"\+[1-9][0-9]{4,14}"),
    "zip": text(0, 32),
    "city": text(1, 256),
    "address": text(1, 512),
    "region": text(0, 256),
    "email": like(r"[^\s@]{1,64}@[^\s@.]+(?:\.[^\s@.]+)+", 254),
}
PAYMENT: Mapping[str, Check] = {
    "transaction": NAME,
    "request_id": text(0, 64),
    "currency": lambda value: type(value) is str and value in CURRENCIES,
    "provider": NAME,
    "amount": number(),
    "payment_dt": number(LAST_SECOND),
    "bank": text(0, 128),
    "delivery_cost": number(),
    "goods_total": number(),
    "custom_fee": number(),
}
ITEM: Mapping[str, Check] = {
    "chrt_id": number(),
    "track_number": NAME,
    "price": number(),
    "rid": NAME,
    "name": text(1, 256),
    "sale": number(100),
    "size": text(0, 32),
    "total_price": number(),
    "nm_id": number(),
    "brand": text(0, 256),
    "status": number(2**31 - 1),
}
ORDER: Mapping[str, Check] = {
    "order_uid": ORDER_UID,
    "track_number": NAME,
    "entry": text(0, 32),
    "locale": like(r"[A-Za-z]{2,3}(?:[_-][A-Za-z0-9]{2,8})*", 35),
    "internal_signature": text(0, 1024),
    "customer_id": text(1, 64),
    "delivery_service": NAME,
    "shardkey": text(0, 32),
    "sm_id": number(),
    "date_created": a_time,
    "oof_shard": text(0, 32),
}


class Odd:
    """Stands where JSON has a number that readers do not agree on: NaN, Infinity, 1e400, beyond 2^53."""


class Object(dict[str, Any]):
    """A JSON object that knows which of its names came twice."""

    twice: frozenset[str] = frozenset()


class _Reader:
    """The standard library's reader, which also notices whether there was anything that needs a closer look."""

    def __init__(self) -> None:
        self._noticed = False
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._decimal,
            parse_constant=lambda _: self._odd(),
        )

    def read(self, raw: bytes) -> tuple[Any, bool]:
        """The tree, and whether it may hold something odd. Raises ValueError for what is no JSON text at all."""
        # Only an escape can make a NUL or half a character, only brackets can make depth.
        self._noticed = b"\\u" in raw or raw.count(b"[") + raw.count(b"{") > MOST_LEVELS
        try:
            return self._decoder.decode(raw.decode()), self._noticed
        except RecursionError:
            raise ValueError("too deep") from None

    def _odd(self) -> Odd:
        self._noticed = True
        return Odd()

    def _object(self, pairs: list[tuple[str, Any]]) -> Object:
        found = Object(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            found.twice = frozenset(name for name in names if names.count(name) > 1)
            self._noticed = True
        return found

    def _integer(self, digits: str) -> int | Odd:
        value = int(digits) if len(digits) <= 20 else SAFE + 1
        return value if -SAFE <= value <= SAFE else self._odd()

    def _decimal(self, digits: str) -> float | Odd:
        value = float(digits)
        significant = re.sub(r"[eE].*|[-.]", "", digits).lstrip("0")
        power = re.search(r"[eE]([-+]?\d+)", digits)
        odd = (
            value in (float("inf"), float("-inf"))
            or (value == 0 and significant != "")
            or len(significant) > 17
            or len(digits) > 64
            or (power is not None and abs(int(power[1])) > 400)
        )
        return self._odd() if odd else value


_reader = _Reader()


def parse(raw: bytes) -> tuple[Any, frozenset[Path]]:
    """The tree and the paths of what is odd in it. Raises ValueError for what is no JSON text at all."""
    tree, noticed = _reader.read(raw)
    return tree, frozenset(odd_paths(tree)) if noticed else frozenset()


def odd_paths(value: Any, path: Path = "$", level: int = 1) -> Iterator[Path]:
    """Where readers of JSON would differ, or PostgreSQL refuse: names twice, odd numbers, NUL, half characters."""
    if isinstance(value, str):
        if not _sound(value):
            yield path
    elif isinstance(value, Odd) or (isinstance(value, (Object, list)) and level > MOST_LEVELS):
        yield path
    elif isinstance(value, Object):
        for name, member in value.items():
            below = under(path, name)
            if name in value.twice or not _sound(name):
                yield below
            yield from odd_paths(member, below, level + 1)
    elif isinstance(value, list):
        for index, element in enumerate(value):
            yield from odd_paths(element, f"{path}[{index}]", level + 1)


def _sound(value: str) -> bool:
    return "\0" not in value and (value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value))


def under(path: Path, name: str) -> Path:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return f"{path}.{name}"
    return f"{path}['{name}']"


def member_faults(value: Any, path: Path, checks: Mapping[str, Check]) -> Iterator[Path]:
    """Members that are missing or not as they must be. What else there is, is nobody's fault."""
    if not isinstance(value, Object):
        yield path
        return
    for name, fits in checks.items():
        if not fits(value.get(name)):
            yield f"{path}.{name}"


def document_faults(raw: bytes) -> frozenset[Path]:
    """The paths of every fault of a document; empty when it must be accepted."""
    if len(raw) > MOST_BYTES:
        return frozenset("$")
    try:
        tree, odd = parse(raw)
    except ValueError:
        return frozenset("$")
    return odd | tree_faults(tree)


def tree_faults(tree: Any) -> frozenset[Path]:
    """The faults of the fields and between them."""
    if not isinstance(tree, Object):
        return frozenset("$")
    items, payment = tree.get("items"), tree.get("payment")
    faults = set(member_faults(tree, "$", ORDER))
    faults.update(member_faults(tree.get("delivery"), "$.delivery", DELIVERY))
    faults.update(member_faults(payment, "$.payment", PAYMENT))
    if not isinstance(items, list) or not 1 <= len(items) <= MOST_ITEMS:
        faults.add("$.items")
    for index, item in enumerate(items if isinstance(items, list) else ()):
        path = f"$.items[{index}]"
        faults.update(member_faults(item, path, ITEM))
        if isinstance(item, Object) and _differ(item.get("track_number"), tree.get("track_number")):
            faults.add(f"{path}.track_number")
    if isinstance(payment, Object):
        faults.update(_sums(payment, items if isinstance(items, list) else []))
    return frozenset(faults)


def _differ(one: Any, other: Any) -> bool:
    return isinstance(one, str) and isinstance(other, str) and one != other


def _sums(payment: Object, items: list[Any]) -> Iterator[Path]:
    """Sum of total_price = goods_total; goods_total + delivery_cost + custom_fee = amount; where all are whole."""
    prices = [item.get("total_price") if isinstance(item, Object) else None for item in items]
    goods, amount = payment.get("goods_total"), payment.get("amount")
    parts = [goods, payment.get("delivery_cost"), payment.get("custom_fee")]
    if prices and not _adds_up(prices, goods):
        yield "$.payment.goods_total"
    if not _adds_up(parts, amount):
        yield "$.payment.amount"


def _adds_up(parts: list[Any], total: Any) -> bool:
    """A part that is no whole number is a fault of its own, and says nothing about the sum."""
    return any(type(number) is not int for number in [*parts, total]) or sum(parts) == total


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two documents say the same: neither the order of names nor white space counts, but 1 is not 1.0."""
    return one == other or _spelled(one) == _spelled(other)


def _spelled(raw: bytes) -> str:
    return json.dumps(json.loads(raw), sort_keys=True)
