"""The sandbox carrier without its wires: what it does, says, says again, and what each switch changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
from pytest import mark, param

from local.carrier import Carrier, Depot
from schemas.shipping import CarrierResponse, CarrierStatus

WHOLE = ["registered", "picked_up", "out_for_delivery", "delivered"]


def asked(what: str = "book", switches: str | None = None, booking: str = "b1") -> dict[str, Any]:
    address = {"city": "Kiryat Mozkin"} | ({"carrier": f"sandbox:{switches}"} if switches else {})
    named = {"order_uid": "order-1", "shipment_id": "s1", "booking_id": booking}
    return {"type": "carrier_asked", **named, "what": what, "address": address}


def statuses(told: list[dict[str, Any]]) -> list[str]:
    return [CarrierResponse.model_validate_json(orjson.dumps(each)).status for each in told]


@mark.parametrize(
    ("switches", "said"),
    [
        param(None, WHOLE, id="as it should be"),
        param("fail=2", [*WHOLE[:3], "failed", "failed", "delivered"], id="fails"),
        param("return", [*WHOLE[:3], "returned_to_origin"], id="brings it back"),
        param("fail=1+return", [*WHOLE[:3], "failed", "returned_to_origin"], id="fails, and brings it back"),
        param("lose=picked_up", [WHOLE[0], *WHOLE[2:]], id="loses a word"),
        param("lose=all", [], id="says nothing"),
        param("repeat", [each for each in WHOLE for _ in range(3)], id="repeats"),
        param("disorder", WHOLE[::-1], id="the last first"),
        param("delay=0.1", WHOLE, id="quick"),
        param("deaf=1", [], id="did not hear"),
        param("teleport+fail=x", WHOLE, id="no switches"),
    ],
)
def test_what_a_switch_does(switches: str | None, said: list[str]) -> None:
    depot = Depot()
    told = depot.hear(asked(switches=switches), 0.0)
    for second in range(20):
        told += depot.work(float(second))
    assert statuses(told) == said


def test_it_takes_its_time_and_says_again_what_it_has_said() -> None:
    depot = Depot()
    assert depot.hear(asked(), 100.0) == [] and depot.work(100.5) == []
    first = depot.work(102.0)
    assert statuses(first) == WHOLE[:2]
    assert depot.hear(asked(), 102.0) == first, "the same ids: nobody can take it for news"
    assert statuses(depot.work(200.0)) == WHOLE[2:]
    assert depot.hear({"type": "carrier_reported"}, 0.0) == []


@mark.parametrize(
    ("switches", "fetched", "end"),
    [(None, False, "cancelled"), ("stubborn", False, "delivered"), (None, True, "delivered")],
)
def test_asked_to_cancel(switches: str | None, fetched: bool, end: str) -> None:
    depot = Depot()
    depot.hear(asked(switches=switches), 0.0)
    depot.work(2.0 if fetched else 1.0)
    depot.hear(asked("cancel", switches), 2.0)
    assert statuses(depot.work(50.0))[-1] == end


def test_asked_to_bring_it_back() -> None:
    depot = Depot()
    depot.hear(asked(), 0.0)
    depot.work(2.0)
    depot.hear(asked("recall"), 2.0)
    assert statuses(depot.work(50.0)) == ["returned_to_origin"]


def test_what_it_knows_outlives_it(tmp_path: Path) -> None:
    before = Carrier("127.0.0.1:9", tmp_path)
    before.depot.hear(asked(), 0.0)
    said = before.depot.work(2.0)
    before.offsets = {0: 7, 3: 1}
    before._save()
    after = Carrier("127.0.0.1:9", tmp_path)
    assert after.offsets == {0: 7, 3: 1} and after.depot.parcels == before.depot.parcels
    assert after.depot.hear(asked(), 3.0) == said
    assert statuses(after.depot.work(50.0)) == WHOLE[2:], "and goes on from there"


def test_it_forgets_the_oldest_that_are_at_their_end() -> None:
    depot = Depot()
    for number in range(10_002):
        depot.hear(asked(booking=f"b{number}"), 0.0)
    depot.work(50.0)
    depot.hear(asked(booking="open"), 50.0)
    depot.forget()
    assert len(depot.parcels) == 10_001 and "open" in depot.parcels and "b1" not in depot.parcels


def test_it_knows_every_word_that_is_a_carriers() -> None:
    assert {*WHOLE, "failed", "returned_to_origin", "cancelled"} == {str(status) for status in CarrierStatus}
