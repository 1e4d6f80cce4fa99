"""The order document: what is accepted, and every fault with its path."""

from __future__ import annotations

from time import process_time
from typing import Any

import orjson
import pytest
from pytest import mark, param

from schemas.base import MAX_FAULTS, MAX_WHOLE, InvalidDocument
from schemas.orders import MAX_DOCUMENT_BYTES, OrderDocument, read_document, same_document
from schemas.orders.document import MAX_ITEMS
from schemas.orders.first_look import first_look
from schemas.strict_json import plain_tree
from tests.schemas.documents import GONE, SAMPLE, changed, faults_of


def test_the_sample_is_accepted_with_every_field() -> None:
    document = read_document(SAMPLE)
    assert orjson.loads(document.model_dump_json()) == orjson.loads(SAMPLE)
    assert document.model_extra == {}, "the sample has no field that the schema does not know"


#: Numbers that orjson, PostgreSQL or JavaScript reads as another one, or refuses; and what is said of them.
ODD_NUMBERS = [
    (b"9007199254740992", "2^53"),
    (b"-9007199254740992", "2^53"),
    (b"18446744073709551615", "2^53"),
    (b"18446744073709551616", "2^53"),
    (b"1" * 31, "2^53"),
    (b"9" * 5000, "2^53"),
    (b"1e400", "larger than any"),
    (b"-1E+309", "larger than any"),
    (b"1" + b"0" * 400 + b".5", "larger than any"),
    (b"1e99999999999999999999", "larger than any"),
    (b"1e-20000", "smaller than any"),
    (b"-1.5E-400", "smaller than any"),
    (b"0." + b"0" * 20_000 + b"1", "smaller than any"),
    (b"1e-99999999999999999999", "smaller than any"),
    (b"0e-20000", "exponent"),
    (b"0e20000", "exponent"),
    (b"1." + b"0" * 20_000, "significant digits"),
    (b"0." + b"0" * 20_000, "significant digits"),
    (b"123456789012345.123456", "significant digits"),
    (b"0.1234567890123456789", "significant digits"),
]
GOOD_NUMBERS = [
    b"9007199254740991",
    b"-9007199254740991",
    b"0",
    b"-0",
    b"-0.0",
    b"0e5",
    b"1e5",
    b"1.5E-7",
    b"1.7976931348623157e308",
    b"2.2250738585072014e-308",
    b"5e-324",
    b"0.1",
    b"0.30000000000000004",
    b"12345678901234567.0"[:16] + b".5",
    b"0.00000000000000000012345",
]


@mark.parametrize("path", ["", "delivery.", "payment.", "items.0."])
def test_every_field_is_required(path: str) -> None:
    tree = orjson.loads(SAMPLE)
    part = tree["items"][0] if path == "items.0." else tree[path.strip(".")] if path else tree
    shown = path.replace("items.0.", "items[0].")
    for name in part:
        assert faults_of(changed((path + name, GONE)))[f"$.{shown}{name}"] == "is required"


@mark.parametrize("number", GOOD_NUMBERS)
def test_numbers_that_every_reader_holds_are_kept_as_they_are(number: bytes) -> None:
    raw = changed(("x", 1)).replace(b'"x":1', b'"x":[%s, {"y":%s}]' % (number, number))
    assert faults_of(raw) == {}
    read_document(raw)


@mark.parametrize("path", ["", "delivery.", "payment.", "items.0."])
def test_extra_fields_are_kept_at_every_level(path: str) -> None:
    extra = {"a": [1, 2.5, None, {"b:c": "x:y"}], "ü": True}
    raw = changed((f"{path}note", extra))
    document = read_document(raw)
    assert plain_tree(raw) == orjson.loads(raw), "extra fields must not cost the slow reading"
    assert orjson.loads(document.model_dump_json()) == orjson.loads(raw)


@mark.parametrize(
    ("path", "value"),
    [
        # One type is not another.
        ("payment.amount", "1817"),
        ("payment.amount", 1817.0),
        ("payment.amount", None),
        ("items.0.sale", True),
        ("sm_id", "99"),
        ("locale", 1),
        ("delivery", []),
        ("items", {}),
        ("items.0", "x"),
        # Nothing negative, nothing that a reader of JSON numbers cannot hold.
        ("payment.amount", -1),
        ("payment.delivery_cost", -1),
        ("payment.goods_total", -1),
        ("payment.custom_fee", -1),
        ("payment.amount", MAX_WHOLE + 1),
        ("items.0.price", -1),
        ("items.0.total_price", -1),
        ("items.0.chrt_id", -1),
        ("items.0.nm_id", MAX_WHOLE + 1),
        ("items.0.sale", -1),
        ("items.0.sale", 101),
        ("items.0.status", -1),
        ("sm_id", -1),
        ("payment.payment_dt", -1),
        ("payment.payment_dt", 1637907727000),
        # Texts.
        ("order_uid", ""),
        ("order_uid", "-leading"),
        ("order_uid", "a/b"),
        ("order_uid", "a b"),
        ("order_uid", "a\n"),
        ("order_uid", "ä"),
        ("order_uid", "a" * 65),
        ("customer_id", ""),
        ("customer_id", "c" * 65),
        ("track_number", ""),
        ("items.0.rid", ""),
        ("items.0.name", "n" * 257),
        ("delivery.name", ""),
        ("delivery.address", "a" * 513),
        ("delivery.phone", "9720000000"),
        ("delivery.phone", "+0720000000"),
        ("delivery.phone", "+1234567890123456"),
        ("delivery.phone", "+97 200"),
        ("delivery.email", "test"),
        ("delivery.email", "a@b"),
        ("delivery.email", "a@@b.c"),
        ("delivery.email", "a b@c.de"),
        ("delivery.email", "a@b..c"),
        ("delivery.email", f"a@{'b' * 250}.com"),
        ("payment.currency", "usd"),
        ("payment.currency", "US"),
        ("payment.currency", "ABC"),
        ("payment.currency", "XAU"),
        ("locale", "english"),
        ("locale", "en "),
        ("date_created", "2021-11-26"),
        ("date_created", "2021-11-26T06:22:19"),
        ("date_created", "2021-11-26 06:22:19Z"),
        ("date_created", "2021-13-26T06:22:19Z"),
        ("date_created", "2021-11-26T24:22:19Z"),
        ("date_created", "2021-02-29T06:22:19Z"),
        ("date_created", "2021-04-31T06:22:19Z"),
        ("date_created", "0000-01-01T06:22:19Z"),
        ("date_created", 1637907739),
        ("items", []),
    ],
)
def test_a_bad_field_is_named(path: str, value: Any) -> None:
    shown = "$." + path.replace("items.0", "items[0]")
    raw = changed((path, value))
    assert shown in faults_of(raw)
    assert first_look(raw) is None


@mark.parametrize(
    ("path", "value"),
    [
        ("order_uid", "a" * 64),
        ("order_uid", "A.b_c~d-9"),
        ("delivery.email", "jürgen@bücher.example"),
        ("delivery.zip", ""),
        ("delivery.region", ""),
        ("payment.request_id", ""),
        ("payment.bank", ""),
        ("payment.currency", "JPY"),
        ("payment.payment_dt", 0),
        ("locale", "pt-BR"),
        ("locale", "zh_Hant_TW"),
        ("date_created", "2024-02-29T23:59:59.123456789+05:30"),
        ("date_created", "2021-12-31T00:00:00-11:00"),
        ("items.0.price", MAX_WHOLE),
        ("items.0.sale", 100),
        ("internal_signature", "a:b:c"),
        ("delivery.address", "Flat: 3, \\u0000 is only a backslash and five signs"),
    ],
)
def test_what_is_still_good(path: str, value: Any) -> None:
    assert faults_of(changed((path, value))) == {}


def with_two_items(*changes: tuple[str, Any]) -> bytes:
    item = orjson.loads(SAMPLE)["items"][0]
    return changed(("items", [item, {**item, "total_price": 183}]), ("payment.goods_total", 500), *changes)


@mark.parametrize(
    ("raw", "faults"),
    [
        param(with_two_items(("payment.amount", 2000)), {}, id="two items add up"),
        param(
            with_two_items(("payment.amount", 2000), ("items.1.track_number", "OTHER")),
            {"$.items[1].track_number": "is 'OTHER', but the order's track_number is 'WBILMTESTTRACK'"},
            id="another track number",
        ),
        param(
            with_two_items(("payment.amount", 2000), ("items.1.total_price", 184)),
            {"$.payment.goods_total": "is 500, but the items' total_price add up to 501"},
            id="goods_total",
        ),
        param(
            with_two_items(("payment.amount", 2000), ("payment.goods_total", 501)),
            {
                "$.payment.goods_total": "is 501, but the items' total_price add up to 500",
                "$.payment.amount": "is 2000, but goods_total + delivery_cost + custom_fee is 2001",
            },
            id="goods_total alone",
        ),
        param(
            with_two_items(("payment.amount", 2001)),
            {"$.payment.amount": "is 2001, but goods_total + delivery_cost + custom_fee is 2000"},
            id="amount",
        ),
        param(
            with_two_items(("payment.amount", 2007), ("payment.custom_fee", 7)),
            {},
            id="customs belong to the amount",
        ),
        param(
            changed(("payment.currency", "ABC")),
            {"$.payment.currency": "'ABC' is no ISO 4217 code in use; write three capital letters, as in USD"},
            id="no such currency",
        ),
    ],
)
def test_fields_agree_with_each_other(raw: bytes, faults: dict[str, str]) -> None:
    assert faults_of(raw) == faults
    assert (first_look(raw) is None) == bool(faults)


def test_all_faults_are_reported_together_the_sums_among_them() -> None:
    raw = changed(
        ("customer_id", GONE),
        ("delivery.email", "nobody"),
        ("items.0.price", "453"),
        ("items.0.track_number", "OTHER"),
        ("payment.goods_total", 318),
        ("payment.amount", 1819),
        ("date_created", "2021-02-30T00:00:00Z"),
    )
    assert faults_of(raw) == {
        "$.customer_id": "is required",
        "$.delivery.email": "must be an e-mail address, as in test@gmail.com",
        "$.items[0].price": "Input should be a valid integer",
        "$.items[0].track_number": "is 'OTHER', but the order's track_number is 'WBILMTESTTRACK'",
        "$.payment.goods_total": "is 318, but the items' total_price add up to 317",
        "$.payment.amount": "is 1819, but goods_total + delivery_cost + custom_fee is 1818",
        "$.date_created": "names a day that the calendar does not have",
    }


def test_a_sum_is_not_judged_by_what_is_missing() -> None:
    faults = faults_of(changed(("items.0.total_price", GONE), ("payment.delivery_cost", "1500")))
    assert set(faults) == {"$.items[0].total_price", "$.payment.delivery_cost"}


def nested(levels: int) -> bytes:
    """The sample with a field that makes it `levels` deep."""
    return SAMPLE.replace(b'"locale"', b'"deep":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b',"locale"', 1)


@mark.parametrize(
    ("raw", "path", "message"),
    [
        param(b"", "$", "not JSON: Expecting value at line 1 column 1", id="empty"),
        param(b"order", "$", "not JSON", id="no JSON"),
        param(SAMPLE[:-1], "$", "not JSON", id="cut off"),
        param(SAMPLE + b"x", "$", "not JSON: Extra data", id="more behind it"),
        param(b"\xef\xbb\xbf" + SAMPLE, "$", "not JSON", id="byte order mark"),
        param(SAMPLE.decode().encode("utf-16"), "$", "not UTF-8: byte 0 is 0xff", id="UTF-16"),
        param(SAMPLE.replace(b"Test Testov", b"Te\xffst"), "$", "not UTF-8: byte 104 is 0xff", id="bad UTF-8"),
        param(b"[]", "$", "must be an object", id="an array"),
        param(b"null", "$", "must be an object", id="null"),
        param(SAMPLE.replace(b"1817", b"NaN"), "$.payment.amount", "NaN is not JSON", id="NaN in a field"),
        param(changed(("x", 1)).replace(b'"x":1', b'"x":-Infinity'), "$.x", "-Infinity is not JSON", id="infinity"),
        param(changed(("x", 1)).replace(b'"x":1', b'"x":1e400'), "$.x", "1e400 is larger than any", id="1e400"),
        *(
            param(changed(("x", 1)).replace(b'"x":1', b'"x":[2,%s]' % number), "$.x[1]", message, id=f"{number[:24]!r}")
            for number, message in ODD_NUMBERS
        ),
        param(SAMPLE.replace(b"1817", b"9223372036854775808"), "$.payment.amount", "2^53", id="2^63 money"),
        param(changed(("delivery.name", "a\0b")), "$.delivery.name", "NUL", id="NUL"),
        param(changed(("x\0y", 1)), "$['x\\u0000y']", "NUL", id="NUL in a name"),
        param(SAMPLE.replace(b"Testov", b"\\ud800"), "$.delivery.name", "surrogate", id="half a surrogate pair"),
        param(SAMPLE.replace(b'"sm_id":99', b'"sm_id":98,"sm_id":99'), "$.sm_id", "more than once", id="a name twice"),
        param(SAMPLE.replace(b'"sm_id":99', b'"sm_id" :98,"sm_id"\n:99'), "$.sm_id", "more than once", id="with space"),
        param(
            SAMPLE.replace(b'"sm_id":99', b'"sm_id":99,"sm\\u005fid":99'),
            "$.sm_id",
            "more than once",
            id="escaped name",
        ),
        param(
            SAMPLE.replace(b"06:22:19", b"06\\u003a22\\u003A19").replace(
                b'"sm_id":99', b'"sm_id":9,"sm_id":9,"sm_id":9'
            ),
            "$.sm_id",
            "more than once",
            id="escaped colons do not hide a second name",
        ),
        param(
            changed(("items.0.x", {"y": 1})).replace(b'"y":1', b'"y":1,"y":1'),
            "$.items[0].x.y",
            "more than once",
            id="a name twice in an extra field",
        ),
        param(nested(65), "$.deep", "nested deeper than 64 levels", id="65 levels"),
        param(nested(300), "$.deep", "nested deeper than 64 levels", id="300 levels"),
        param(nested(4_000), "$", "nested deeper than 64 levels", id="4,000 levels"),
        param(nested(50_000), "$", "places are listed for records of at most", id="50,000 levels"),
        param(nested(100_000), "$", "at most 100000 are read", id="100,000 levels"),
        param(changed(("x", [[]] * 60_000)), "$", "at most 100000 are read", id="120,000 values"),
        param(
            changed(("x", [0] * 20_000)).replace(b"[0,", b"[NaN,"),
            "$",
            "unexpected character",
            id="NaN of 20,000 values",
        ),
        param(
            changed(("x", [0] * 20_000)).replace(b'"sm_id":99', b'"sm_id":99,"sm_id":99'),
            "$",
            "a name given twice",
            id="a name twice beside 20,000 values",
        ),
        param(SAMPLE + b" " * MAX_DOCUMENT_BYTES, "$", "at most 1048576 are taken", id="more than a mebibyte"),
    ],
)
def test_json_that_readers_read_differently(raw: bytes, path: str, message: str) -> None:
    assert first_look(raw) is None
    faults = faults_of(raw)
    (found,) = [fault for fault in faults if fault.startswith(path)]
    assert message in faults[found]


def test_64_levels_are_taken() -> None:
    assert faults_of(nested(64)) == {}


def test_what_is_no_json_is_told_from_what_is_no_order() -> None:
    for raw, reason in ((b"{", "not_json"), (b"{}", "invalid")):
        with pytest.raises(InvalidDocument) as caught:
            read_document(raw)
        assert caught.value.reason == reason


def test_the_list_of_faults_has_an_end_and_says_so() -> None:
    for raw in (with_items([{}] * 300), changed(("x", ["\0"] * 300))):
        with pytest.raises(InvalidDocument) as caught:
            read_document(raw)
        assert len(caught.value.faults) == MAX_FAULTS
        assert caught.value.faults[-1].message == "has more faults than are listed; mend these first"


def with_items(items: list[Any]) -> bytes:
    return changed(
        ("items", items), ("payment.goods_total", 317 * len(items)), ("payment.amount", 317 * len(items) + 1500)
    )


def test_faults_are_found_in_every_part_of_a_long_list() -> None:
    items = [orjson.loads(SAMPLE)["items"][0] for _ in range(1_000)]
    assert faults_of(with_items(items)) == {}
    for index in (0, 99, 100, 555, 999):
        items[index] = {**items[index], "sale": 101}
    assert list(faults_of(with_items(items))) == [f"$.items[{index}].sale" for index in (0, 99, 100, 555, 999)]


def test_more_items_than_are_taken() -> None:
    faults = faults_of(changed(("items", [1] * (MAX_ITEMS + 1))))
    assert faults["$.items"] == f"has {MAX_ITEMS + 1} items; at most {MAX_ITEMS} are taken"


def test_a_record_full_of_faults_does_not_hold_up_the_others() -> None:
    raw = with_items([{}] * 9_000)
    started = process_time()
    assert faults_of(raw)
    # It takes 10 ms. Naming all 99,000 faults took more than a second, in which the worker did nothing else.
    assert process_time() - started < 0.3


@mark.parametrize(
    ("other", "same"),
    [
        param(SAMPLE, True, id="the same bytes"),
        param(orjson.dumps(orjson.loads(SAMPLE), option=orjson.OPT_INDENT_2), True, id="white space"),
        param(orjson.dumps(dict(reversed(orjson.loads(SAMPLE).items()))), True, id="order of names"),
        param(SAMPLE.replace(b"Test", b"\\u0054est"), True, id="an escape"),
        param(changed(("items.0.size", "1")), False, id="another value"),
        param(changed(("note", None)), False, id="one field more"),
        param(SAMPLE.replace(b'"price":453', b'"price":453.0'), False, id="453 and 453.0"),
    ],
)
def test_the_same_document(other: bytes, same: bool) -> None:
    assert same_document(SAMPLE, other) is same


def test_the_schema_tells_callers_what_is_checked() -> None:
    schema = OrderDocument.model_json_schema()
    assert schema["additionalProperties"] is True
    assert schema["properties"]["order_uid"]["pattern"].startswith("^[A-Za-z0-9]")
    assert set(schema["required"]) == set(OrderDocument.model_fields)
    for part in (schema, *schema["$defs"].values()):
        for name, field in part["properties"].items():
            assert "description" in field or "examples" in field or "$ref" in field or "items" in field, name
