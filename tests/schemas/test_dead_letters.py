"""Dead letters: what streams/ writes is what schemas/ reads."""

from __future__ import annotations

import orjson
import pytest

from schemas import dead_letters as ours
from schemas.base import MAX_FAULTS, Fault
from schemas.dead_letters import DeadLetter, Redriven, read_dead_letter
from streams import FaultAt, Poison, errors
from streams import dead_letters as engine
from streams.records import StoredRecord

RECORD = StoredRecord("orders", 2, 1234, 1_637_907_739_007, b"k", b"\xffraw", [("trace", b"1"), (ours.ATTEMPT, b"3")])


def read(error: Exception, record: StoredRecord = RECORD) -> DeadLetter:
    written = engine.dead_letter(record, "orders.intake", error)
    letter = read_dead_letter(written.key, written.value, written.headers)
    assert isinstance(letter, DeadLetter)
    return letter


def test_poison_is_read_as_it_was_written() -> None:
    letter = read(Poison([FaultAt("$.items[0].price", "is -1"), FaultAt("$.locale", "is 5")], "invalid"))
    assert letter == DeadLetter(
        id="orders-2-1234",
        kind="poison",
        reason="invalid",
        faults=(Fault(path="$.items[0].price", message="is -1"), Fault(path="$.locale", message="is 5")),
        topic="orders",
        partition=2,
        offset=1234,
        timestamp=1_637_907_739_007,
        attempt=3,
        agent="orders.intake",
        key=b"k",
        value=b"\xffraw",
        headers=(("trace", b"1"),),
    )


def test_a_bug_of_ours_is_read_as_it_was_written() -> None:
    letter = read(ZeroDivisionError("division by zero"))
    assert (letter.kind, letter.reason, letter.faults[0].message) == ("failed", "ZeroDivisionError", "division by zero")


def test_both_rooms_mean_the_same_headers() -> None:
    assert (ours.PREFIX, ours.ATTEMPT) == (engine.PREFIX, engine.ATTEMPT)
    written = {name for name, _ in engine.dead_letter(RECORD, "a", Poison([])).headers if name.startswith(ours.PREFIX)}
    names = ("KIND", "REASON", "FAULTS", "TOPIC", "PARTITION", "OFFSET", "TIMESTAMP", "ATTEMPT", "AGENT")
    assert written == {getattr(ours, name) for name in names}


def test_all_faults_that_we_report_fit_into_the_header() -> None:
    assert MAX_FAULTS <= errors.MAX_FAULTS


def test_a_marker_names_what_was_sent_back() -> None:
    assert read_dead_letter(b"orders-2-1234", b"", [(ours.REDRIVEN, b"orders-2-1234")]) == Redriven("orders-2-1234")


def test_what_is_no_dead_letter_is_said_to_be_none() -> None:
    with pytest.raises(ValueError, match="dead-letter-kind"):
        read_dead_letter(b"k", b"v", [("trace", b"1")])


def test_details_can_be_written_as_json_whatever_the_bytes() -> None:
    details = read(Poison([FaultAt("$", "not JSON")], "not_json")).details()
    assert orjson.loads(orjson.dumps(details))["value"] == {"base64": "/3Jhdw=="}
    assert details["key"] == "k"
    assert details["headers"] == [{"name": "trace", "value": "1"}]
    assert "value" not in read(Poison([])).summary()
