"""Whatever bytes and headers come -> the readers of the platform -> a value, or the one error that is documented."""

from __future__ import annotations

import base64
import contextlib
import random
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import BaseModel
from yarl import URL

from schemas.base import InvalidDocument
from schemas.dead_letters import read_dead_letter
from schemas.orders import check_document, encode_command, find_faults, read_command, read_document, samples
from schemas.orders.words import PlaceOrder
from streams.dead_letters import dead_letter
from streams.errors import FaultAt, Poison
from streams.records import Position, StoredRecord
from web import listing, reading
from web.body import parse_json, too_deep
from web.middlewares import request_id
from web.orders import shapes
from web.orders.writes import Cancellation
from web.problems import Problem
from web.requests import KEY, _key

ORDERS = [samples.generate(number) for number in range(4)]
DOCUMENTS = [orjson.dumps(order) if isinstance(order, dict) else order for order in ORDERS]
COMMANDS = [encode_command(PlaceOrder.of(read_document(raw), raw, "c-1")) for raw in DOCUMENTS]
#: What parsers have stumbled over: depth, lengths, numbers, half characters, marks of order and of nothing.
TRAPS = [
    b"[" * 5_000, b'{"a":' * 5_000, b"9" * 5_000, b"-" * 3, b"1e999999", b"0x1f", b"\xef\xbb\xbf{}",
    b"\xff\xfe{\x00}\x00",
    b'"\\ud800"', b'"\\u0000"', b"\xed\xa0\x80", b"\x00" * 64, b"null", b"true", b'""', b"{}", b"[]", b'{"":{}}',
    b'{"document":}', b'{"type":"place_order","document":[]}',
    b'{"type":"place_order","document":{"a":1}', b",", b"NaN",
]  # fmt: skip


@st.composite
def bent(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Good bytes with a few of them cut, doubled, flipped or replaced by a trap."""
    raw = bytearray(draw(st.sampled_from(seeds)))
    chance = random.Random(draw(st.integers(0, 2**32)))
    for _ in range(draw(st.integers(1, 6))):
        at, end = sorted(chance.randrange(len(raw) + 1) for _ in range(2))
        match chance.randrange(5):
            case 0:
                del raw[at : min(end, at + 40)]
            case 1:
                raw[at:at] = raw[at : min(end, at + 200)]
            case 2:
                raw[at : at + 1] = bytes([chance.randrange(256)])
            case 3:
                raw[at : at + chance.randrange(3)] = chance.choice(TRAPS)
            case _:
                raw[at:at] = chance.choice([b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"\xff", b"1", b"-"])
    return bytes(raw)


RAW = st.binary(max_size=200) | st.sampled_from(TRAPS)
TEXT = st.text(max_size=80) | st.text('0123456789-+eE._ ,"W/*\\\x00\xe9', max_size=40)
READERS: list[Callable[[bytes], Any]] = [read_document, check_document, read_command]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
@settings(max_examples=200, deadline=None)
@given(raw=bent(DOCUMENTS) | bent(COMMANDS) | RAW)
def test_the_intake_reads_or_says_every_fault(reader: Callable[[bytes], Any], raw: bytes) -> None:
    try:
        reader(raw)
    except InvalidDocument as error:
        assert error.faults and all(fault.path.startswith("$") and fault.message for fault in error.faults)
        # What was wrong becomes headers of a dead letter, and those are read back.
        record = StoredRecord("orders", 0, 7, 1, None, raw, [])
        letter = dead_letter(record, "intake", Poison(FaultAt(fault.path, fault.message) for fault in error.faults))
        assert read_dead_letter(letter.key, letter.value, letter.headers)
    faults, _ = find_faults(raw)
    assert isinstance(faults, tuple)


#: What cursors are signed with.
CURSOR_KEY = b"k" * 32


@settings(max_examples=200, deadline=None)
@given(raw=RAW | bent([b'{"reason":"changed my mind"}']))
def test_a_small_body_is_a_model_or_a_problem(raw: bytes) -> None:
    try:
        assert isinstance(parse_json(raw, Cancellation, 32), BaseModel)
    except Problem as problem:
        assert problem.kind.status in (400, 422)
    with contextlib.suppress(orjson.JSONDecodeError):
        too_deep(orjson.loads(raw), 32)


@settings(max_examples=200, deadline=None)
@given(text=TEXT | st.from_regex(r"\A[a-z.]{1,9}-\d{1,30}-\d{1,30}\Z"))
@example(text="orders-" + "9" * 5000 + "-1")
@example(text="orders-²-1")
def test_a_position_is_read_or_refused(text: str) -> None:
    try:
        read = Position.parse(text)
    except ValueError as error:
        assert "not a position" in str(error)
    else:
        assert Position.parse(str(read)) == read and 0 <= read.partition < 2**31 and 0 <= read.offset < 2**63


@settings(max_examples=200, deadline=None)
@given(
    cursor=TEXT | st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()),
    digest=st.integers(0, 2**32 - 1),
)
@example(cursor=base64.urlsafe_b64encode(b"[" * 3000).decode(), digest=0)
@example(cursor=listing.write_cursor("\x00", 0, [CURSOR_KEY]), digest=0)
def test_a_cursor_is_ours_or_a_problem(cursor: str, digest: int) -> None:
    try:
        place = listing.read_cursor(cursor, digest, [CURSOR_KEY])
    except Problem as problem:
        assert problem.kind.status == 400
    else:
        assert 0 < len(place) <= 256
    assert (
        listing.read_cursor(listing.write_cursor("x" + str(digest), digest, [CURSOR_KEY]), digest, [CURSOR_KEY])
        == f"x{digest}"
    )


@settings(max_examples=80, deadline=None)
@given(value=TEXT, query=st.dictionaries(st.sampled_from(["limit", "min_offset", "status", "odd"]), TEXT, max_size=3))
@example(value="x" * 9000, query={"limit": "9" * 5000, "min_offset": "orders-1-" + "9" * 5000})
def test_headers_and_query_are_values_or_problems(value: str, query: dict[str, str]) -> None:
    headers = CIMultiDict({KEY: value, "If-None-Match": value, "X-Request-Id": value})
    request = make_mocked_request("GET", "/", headers=headers)
    url = URL.build(path="/", query={name: text.encode(errors="replace").decode() for name, text in query.items()})
    asked = make_mocked_request("GET", str(url))
    reading.matches_etag(request, '"3"')
    assert request_id(request).isascii() and 0 < len(request_id(request)) <= 128
    readers: list[Callable[[], Any]] = [
        lambda: _key(request),
        lambda: reading.only(asked, "limit", "min_offset", "status"),
        lambda: reading.whole(asked, "limit", 50, 200),
        lambda: reading.choice(asked, "status", ("placed", "cancelled")),
        lambda: reading.position(asked, "min_offset", frozenset({"orders"})),
    ]
    for reader in readers:
        try:
            reader()
        except Problem as problem:
            assert problem.kind.status == 400
            orjson.dumps(str(problem))  # it is going to be a body


@settings(max_examples=200, deadline=None)
@given(name=TEXT)
def test_an_address_names_an_order_or_nothing(name: str) -> None:
    request = make_mocked_request("GET", "/", match_info={"order_uid": name})
    try:
        assert shapes.order_uid(request) == name
    except Problem as problem:
        assert problem.kind.status == 404
        orjson.dumps(str(problem))


@settings(max_examples=200, deadline=None)
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                ["kind", "reason", "faults", "topic", "partition", "offset", "timestamp", "attempt", "redriven"]
            ).map(lambda name: f"dead-letter-{name}"),
            st.binary(max_size=12) | st.sampled_from([b"poison", b"[]", b"1", b"orders", b"9" * 5000]),
        ),
        max_size=10,
    ),
    value=st.none() | RAW,
)
def test_a_letter_is_read_or_is_none_of_ours(headers: list[tuple[str, bytes]], value: bytes | None) -> None:
    with contextlib.suppress(ValueError):
        read_dead_letter(None, value, headers)
