"""Documents sealed and opened, without a log: nothing is lost, nothing opens elsewhere, nothing hides behind a seal."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, param

from schemas.base import MAX_WHOLE
from schemas.masters import name_of, read_masters
from schemas.orders import Delivery, InvalidDocument, Item, check_document, encode_command, read_command, read_document
from schemas.orders.words import PlaceOrder
from schemas.seals import MARK, Seal, key_id_of, open_json, seal_address, seal_document, unwrap, wrap
from tests.schemas.documents import SAMPLE, changed

SEAL = Seal("anna-anna-anna-1", b"a" * 32)
OTHER = Seal("ben-ben-ben-ben1", b"b" * 32)


def find(*seals: Seal) -> Callable[[str], Seal | None]:
    return {seal.key_id: seal for seal in seals}.get


def sealed(*changes: tuple[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = orjson.loads(seal_document(changed(*changes), SEAL))
    return told


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=80)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_WHOLE, MAX_WHOLE) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(name=texts, extra=values, note=values)
def test_what_was_sealed_opens_to_what_it_was(name: str, extra: Any, note: Any) -> None:
    raw = changed(("delivery.name", name), ("delivery.floor", extra), ("items.0.engraving", note), ("note", note))
    read_document(raw)
    shut = seal_document(raw, SEAL)
    assert shut == seal_document(raw, SEAL), "an order that is sent again is the same"
    assert check_document(shut).order_uid == read_document(raw).order_uid, "and passes the checks inside"
    told, erased = open_json(shut, find(SEAL))
    assert orjson.loads(told) == orjson.loads(raw) and erased == []


def test_numbers_that_no_reader_holds_come_back_as_they_were_written() -> None:
    raw = SAMPLE.replace(b'"locale"', b'"exact": 1.10000000000000000000000000000001, "locale"')
    told, _ = open_json(seal_document(raw, SEAL), find(SEAL))
    assert b'"exact":1.10000000000000000000000000000001,' in told


def test_all_of_a_delivery_and_all_that_nobody_declared_is_sealed_and_nothing_else() -> None:
    told = sealed(("delivery.floor", 3), ("payment.iban", "x"), ("items.0.gift", {"for": "Ben"}), ("tracker", [1]))
    was = orjson.loads(SAMPLE)
    assert set(told["delivery"]) == {*Delivery.model_fields, "floor"}
    shut = [*told["delivery"].values(), told["payment"].pop("bank"), told["payment"].pop("iban")]
    shut += [told["items"][0].pop("gift"), told.pop("tracker")]
    assert all(text.startswith("sealed:v1:anna-anna-anna-1:") for text in shut)
    assert len(set(shut)) == len(shut)
    del told["delivery"], was["delivery"], was["payment"]["bank"]
    assert told == was and set(told["items"][0]) == set(Item.model_fields)


def test_equal_fields_of_two_orders_differ() -> None:
    one, other = sealed(), sealed(("order_uid", "another"))
    assert not set(one["delivery"].values()) & set(other["delivery"].values())


@mark.parametrize(
    "moved",
    [
        param(lambda told: told["delivery"].update(name=told["delivery"]["city"]), id="to another field"),
        param(lambda told: told.update(order_uid="another"), id="to another order"),
        param(lambda told: told["delivery"].update(name=told["delivery"]["name"][:-2] + "AA"), id="changed"),
    ],
)
def test_a_sealed_string_opens_nowhere_else(moved: Callable[[dict[str, Any]], None]) -> None:
    told = sealed()
    moved(told)
    opened, erased = open_json(orjson.dumps(told), find(SEAL))
    assert "$.delivery.name" in erased and orjson.loads(opened)["delivery"]["name"] is None


def test_without_its_key_a_field_is_null_and_named() -> None:
    line = {"order_uid": "o", "address": seal_address({"pin": 7, "a b": "x"}, "o", OTHER)}
    raw = orjson.dumps({"orders": [{"order_uid": "s", "document": sealed()}, line], "status": "sealed:v1:no"})
    told, erased = open_json(raw, find(OTHER))
    opened = orjson.loads(told)
    assert opened["orders"][1]["address"] == {"pin": 7, "a b": "x"} and opened["status"] == "sealed:v1:no"
    assert erased == opened["erased"] and "$.orders[0].document.payment.bank" in erased and len(erased) == 8
    assert open_json(raw, find(SEAL))[1] == ["$.orders[1].address.pin", "$.orders[1].address['a b']"]


def test_what_is_not_sealed_is_not_even_parsed() -> None:
    raw = b'{"a" : 1.0}'
    assert open_json(raw, find()) == (raw, [])


@mark.parametrize(
    ("path", "value"),
    [
        param("delivery.phone", "12", id="a clear phone that is none"),
        param("delivery.phone", "sealed:v1:short:AAAA", id="a sealed string that is none"),
        param("locale", f"sealed:v1:{'k' * 16}:{'A' * 30}", id="sealed, where nothing personal stands"),
        param("payment.amount", 1, id="a sum beside it"),
    ],
)
def test_the_checks_inside_see_all_that_is_not_sealed(path: str, value: Any) -> None:
    told = sealed()
    holder, name = (told, path) if "." not in path else (told[path.split(".")[0]], path.split(".")[1])
    holder[name] = value
    raw = orjson.dumps(told)
    with pytest.raises(InvalidDocument) as caught:
        check_document(raw)
    assert f"$.{path}" in {fault.path for fault in caught.value.faults}
    with pytest.raises(InvalidDocument) as caught:
        read_command(
            b'{"type":"place_order", "command_id":"c", "order_uid":"b563feb7b2b84b6test", "document":%b}' % raw
        )
    assert f"$.document.{path}" in {fault.path for fault in caught.value.faults}


def test_a_name_given_twice_is_seen_behind_a_seal() -> None:
    raw = seal_document(SAMPLE, SEAL).replace(b'"delivery":{', b'"delivery":{"name":"Test Testov",')
    with pytest.raises(InvalidDocument, match="more than once"):
        check_document(raw)


def test_a_command_carries_a_sealed_document_whoever_wrote_it() -> None:
    raw = seal_document(SAMPLE, SEAL)
    command = PlaceOrder.of(check_document(raw), raw, "c1")
    assert read_command(encode_command(command)) == command
    spaced = orjson.dumps({"document": orjson.loads(raw), **orjson.loads(encode_command(command))}).replace(b":", b": ")
    spaced = spaced.replace(b"sealed: v1: ", b"sealed:v1:").replace(b"anna-anna-anna-1: ", b"anna-anna-anna-1:")
    read = read_command(spaced.replace(b"T06: 22: 19Z", b"T06:22:19Z"))
    assert isinstance(read, PlaceOrder) and b'"phone": "sealed:v1:' in read.document


def test_the_edge_takes_nothing_that_only_looks_sealed() -> None:
    with pytest.raises(InvalidDocument):
        read_document(seal_document(SAMPLE, SEAL))


def test_a_text_that_looks_sealed_is_sealed_like_any_other() -> None:
    text = f"sealed:v1:{'k' * 16}:{'A' * 30}"
    shut = seal_document(changed(("delivery.city", text)), SEAL)
    assert orjson.loads(open_json(shut, find(SEAL))[0])["delivery"]["city"] == text


def test_a_wrapped_key_opens_with_its_master_and_under_its_own_name() -> None:
    key = wrap("anna", key_id_of(b"i" * 12), b"s" * 32, b"m" * 32, b"n" * 12)
    text = unwrap(key, b"m" * 32).shut(b'"x"', "o", "$.p")
    assert text == Seal(key.key_id, b"s" * 32).shut(b'"x"', "o", "$.p")
    assert key.master == name_of(b"m" * 32) and b64encode(b"s" * 32)[:40].decode() not in key.wrapped
    for bad in (key.model_copy(update={"customer_id": "ben"}), key.model_copy(update={"key_id": "k" * 16})):
        with pytest.raises(ValueError, match="is not what its master key has wrapped"):
            unwrap(bad, b"m" * 32)
    with pytest.raises(ValueError, match="is not what its master key has wrapped"):
        unwrap(key, b"x" * 32)


def test_a_request_is_known_again_by_its_bytes_and_its_customers_key() -> None:
    assert SEAL.repeat(b"x") == Seal("k", b"a" * 32).repeat(b"x")
    assert len({SEAL.repeat(b"x"), SEAL.repeat(b"y"), OTHER.repeat(b"x")}) == 3


def test_masters_are_read_the_newest_first() -> None:
    lines = [b64encode(bytes([n]) * 32).decode() for n in (2, 1)]
    assert read_masters("\n".join(lines) + "\n") == (b"\2" * 32, b"\1" * 32)
    for bad in ("", "\n", "x", b64encode(b"1" * 16).decode(), f"{lines[0]}\nnot base64"):
        with pytest.raises(ValueError, match="32 bytes in base64"):
            read_masters(bad)


def test_nothing_in_clear_is_left_of_the_sample() -> None:
    raw = seal_document(SAMPLE, SEAL)
    delivery = orjson.loads(SAMPLE)["delivery"]
    assert MARK in raw and not [value for value in delivery.values() if value.encode() in raw]
