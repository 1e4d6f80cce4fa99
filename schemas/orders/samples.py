"""a number and a seed -> an order document that looks real and passes every check; the same again for the same two."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple, TypeVar

import orjson

from schemas.base import rfc3339

_T = TypeVar("_T")

#: The order that the fields of OrderDocument were taken from.
SAMPLE_ORDER = orjson.dumps(
    {
        "order_uid": "b563feb7b2b84b6test",
        "track_number": "WBILMTESTTRACK",
        "entry": "WBIL",
        "delivery": {
            "name": "Test Testov",
            "phone": "+9720000000",
            "zip": "2639809",
            "city": "Kiryat Mozkin",
            "address": "Ploshad Mira 15",
            "region": "Kraiot",
            "email": "test@gmail.com",
        },
        "payment": {
            "transaction": "b563feb7b2b84b6test",
            "request_id": "",
            "currency": "USD",
            "provider": "wbpay",
            "amount": 1817,
            "payment_dt": 1637907727,
            "bank": "alpha",
            "delivery_cost": 1500,
            "goods_total": 317,
            "custom_fee": 0,
        },
        "items": [
            {
                "chrt_id": 9934930,
                "track_number": "WBILMTESTTRACK",
                "price": 453,
                "rid": "ab4219087a764ae0btest",
                "name": "Mascaras",
                "sale": 30,
                "size": "0",
                "total_price": 317,
                "nm_id": 2389212,
                "brand": "Vivienne Sabo",
                "status": 202,
            }
        ],
        "locale": "en",
        "internal_signature": "",
        "customer_id": "test",
        "delivery_service": "meest",
        "shardkey": "9",
        "sm_id": 99,
        "date_created": "2021-11-26T06:22:19Z",
        "oof_shard": "1",
    }
)

CUSTOMERS = 10_000
#: 2026-01-05T00:00:00Z, a Monday. Samples are placed a few seconds apart from then on, so none needs a clock.
FIRST_ORDER_AT = 1_767_571_200
_SECONDS_APART = 7


class _Place(NamedTuple):
    city: str
    region: str
    street: str
    zip: str
    dialling: str
    locale: str
    currency: str


class _Product(NamedTuple):
    name: str
    brand: str
    price: int
    sizes: tuple[str, ...]


_FIRST_NAMES = ("Anna", "Ben", "Chiara", "David", "Elif", "Fatima", "Goran", "Hana", "Ivan", "Julia", "Kofi", "Lucía")
_LAST_NAMES = (
    "Bauer",
    "Cohen",
    "Demir",
    "Ferrari",
    "García",
    "Ivanova",
    "Kowalski",
    "Mensah",
    "Novák",
    "Sato",
    "Weber",
)
_PLACES = (
    _Place("Berlin", "Berlin", "Lindenstraße", "10969", "+4930", "de", "EUR"),
    _Place("Barcelona", "Cataluña", "Carrer de Mallorca", "08008", "+3493", "es", "EUR"),
    _Place("Haifa", "Haifa", "Ben Gurion", "3303601", "+9724", "he", "ILS"),
    _Place("Istanbul", "Marmara", "İstiklal Caddesi", "34430", "+90212", "tr", "TRY"),
    _Place("Kraków", "Małopolska", "ulica Długa", "31147", "+4812", "pl", "PLN"),
    _Place("London", "Greater London", "Baker Street", "NW1 6XE", "+4420", "en-GB", "GBP"),
    _Place("Osaka", "Kansai", "Midosuji", "541-0041", "+816", "ja", "JPY"),
    _Place("Portland", "Oregon", "Alder Street", "97205", "+1503", "en-US", "USD"),
)
_PRODUCTS = (
    _Product("Cotton T-shirt", "Plain & Fine", 1990, ("S", "M", "L", "XL")),
    _Product("Running shoes", "Kestrel", 8990, ("38", "40", "42", "44")),
    _Product("Wool scarf", "Northloom", 3450, ("0",)),
    _Product("Mascara", "Belle Nuit", 1290, ("0",)),
    _Product("Espresso cups, set of 4", "Casa Terra", 2790, ("0",)),
    _Product("Desk lamp", "Lumo", 4990, ("0",)),
    _Product("Backpack 22 l", "Fernweg", 7490, ("0",)),
    _Product("Notebook A5", "Papira", 690, ("0",)),
    _Product("USB-C cable 2 m", "Voltline", 1190, ("0",)),
    _Product("Children's raincoat", "Puddle", 3990, ("98", "110", "122")),
)
_PROVIDERS = ("cardpay", "bankwire", "wallet")
_BANKS = ("alpha", "meridian", "unity")
_SERVICES = ("meest", "swiftpost", "parcelhub")
_SALES = (0, 0, 0, 10, 15, 30, 50)


def document(number: int, seed: int = 1) -> dict[str, Any]:
    """Document `number` of a series. Neither clock nor chance from outside: the two arguments decide every byte."""
    chance = Random(f"{seed}/{number}")
    uid = f"{chance.getrandbits(40):010x}{number:08d}s{seed}"
    track_number = f"OS{chance.getrandbits(40):010X}"
    place, customer_id = _pick(chance, _PLACES), f"customer-{int(chance.random() * CUSTOMERS):05d}"
    items = [_item(chance, uid, line, track_number) for line in range(_pick(chance, (1, 1, 1, 2, 2, 3)))]
    paid_at = FIRST_ORDER_AT + number * _SECONDS_APART
    return {
        "order_uid": uid,
        "track_number": track_number,
        "entry": "OSWEB",
        "delivery": _delivery(chance, place, customer_id),
        "payment": _payment(chance, uid, place.currency, sum(item["total_price"] for item in items), paid_at),
        "items": items,
        "locale": place.locale,
        "internal_signature": "",
        "customer_id": customer_id,
        "delivery_service": _pick(chance, _SERVICES),
        "shardkey": str(number % 10),
        "sm_id": 99,
        "date_created": rfc3339((paid_at + 2) * 1000),
        "oof_shard": str(number % 2 + 1),
    }


def _delivery(chance: Random, place: _Place, customer_id: str) -> dict[str, Any]:
    return {
        "name": f"{_pick(chance, _FIRST_NAMES)} {_pick(chance, _LAST_NAMES)}",
        "phone": f"{place.dialling}{int(chance.random() * 10**6):06d}",
        "zip": place.zip,
        "city": place.city,
        "address": f"{place.street} {1 + int(chance.random() * 200)}",
        "region": place.region,
        # RFC 2606 keeps this domain free, so that no sample ever reaches anybody.
        "email": f"{customer_id}@example.com",
    }


def _payment(chance: Random, uid: str, currency: str, goods_total: int, paid_at: int) -> dict[str, Any]:
    delivery_cost, custom_fee = _pick(chance, (0, 490, 990, 1500)), _pick(chance, (0, 0, 0, 350))
    return {
        "transaction": uid,
        "request_id": "",
        "currency": currency,
        "provider": _pick(chance, _PROVIDERS),
        "amount": goods_total + delivery_cost + custom_fee,
        "payment_dt": paid_at,
        "bank": _pick(chance, _BANKS),
        "delivery_cost": delivery_cost,
        "goods_total": goods_total,
        "custom_fee": custom_fee,
    }


def _item(chance: Random, uid: str, line: int, track_number: str) -> dict[str, Any]:
    product, sale = _pick(chance, _PRODUCTS), _pick(chance, _SALES)
    product_id = 2_000_000 + _PRODUCTS.index(product)
    return {
        "chrt_id": product_id * 10 + int(chance.random() * 10),
        "track_number": track_number,
        "price": product.price,
        "rid": f"{uid}-{line + 1}",
        "name": product.name,
        "sale": sale,
        "size": _pick(chance, product.sizes),
        "total_price": product.price * (100 - sale) // 100,
        "nm_id": product_id,
        "brand": product.brand,
        "status": 202,
    }


def _pick(chance: Random, choices: Sequence[_T]) -> _T:
    # Random.choice does the same in twice the time and draws a number of bits that may differ between versions.
    return choices[int(chance.random() * len(choices))]


def orders(count: int, *, seed: int = 1, first: int = 0) -> Iterator[dict[str, Any]]:
    """`count` documents of a series, from number `first` on."""
    return (document(number, seed) for number in range(first, first + count))


def generate(number: int, seed: int = 1) -> bytes:
    """`document` as the bytes of a record."""
    return orjson.dumps(document(number, seed))


def spoil(good: dict[str, Any], chance: Random) -> bytes:
    """The document with one fault that the intake must find: each kind is one that real producers make."""
    payment, (item, *others) = good["payment"], good["items"]
    match int(chance.random() * 8):
        case 0:
            return orjson.dumps(good)[:-20]  # cut off on its way
        case 1:
            return orjson.dumps({name: value for name, value in good.items() if name != "customer_id"})
        case 2:
            return orjson.dumps({**good, "items": []})
        case 3:
            return orjson.dumps({**good, "items": [{**item, "track_number": "ANOTHER"}, *others]})
        case 4:
            return orjson.dumps({**good, "payment": {**payment, "amount": payment["amount"] + 1}})
        case 5:
            return orjson.dumps({**good, "payment": {**payment, "goods_total": payment["goods_total"] + 1}})
        case 6:
            return orjson.dumps({**good, "items": [{**item, "price": -1}, *others]})
        case _:
            return orjson.dumps({**good, "payment": {**payment, "amount": str(payment["amount"])}})
