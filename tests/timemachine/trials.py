"""a log at rest -> other rules tried on it -> nothing differs for the same ones, and what must for a dearer thing."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import orjson

from tests.oracle.broker import read_topic
from tests.timemachine.ground import Ground

PURCHASES = "purchases.events.v1"
#: Rules by which one thing costs more: what is asked of stock comes back at another price.
DEARER = """
from agents import checkout

as_it_is = checkout._reserved


def _reserved(event):
    said = as_it_is(event)
    return said.model_copy(update={{"price_minor": said.price_minor + {more}}}) if event.item_id == "{item}" else said


checkout._reserved = _reserved
"""
MORE = 7


def what_if(ground: Ground, *arguments: str) -> tuple[dict[str, Any], float]:
    began = time.monotonic()
    found = orjson.loads(ground.stack.faust("what-if", "--json", *arguments, timeout_s=1_800).stdout)
    return found, time.monotonic() - began


def verify(ground: Ground) -> dict[str, Any]:
    """No difference anywhere; the sink has taken what there is, so that PostgreSQL is among it."""
    began = time.monotonic()
    told = orjson.loads(ground.stack.faust("verify", "--json", timeout_s=1_800).stdout)
    assert told["equal"], told["differences"][:1]
    sums = {name: sum(each.get(name, 0) for each in told["parts"]) for name in ("records", "rows", "events", "stores")}
    seconds = time.monotonic() - began
    return {"parts": len(told["parts"]), **sums, "seconds": round(seconds, 1)}


def same_rules(ground: Ground) -> dict[str, Any]:
    """Nothing differs: no order, no row of any table, no event."""
    found, seconds = what_if(ground)
    assert not found["differing"] and not found["tables"] and not found["topics"], found["tables"] or found["topics"]
    assert not found["dead_letters"]
    return {
        "orders": found["orders"]["count"],
        "differing": 0,
        "records": found["records"],
        "seconds": round(seconds, 1),
        "records_per_s": found["records_per_s"],
    }


def dearer(ground: Ground) -> dict[str, Any]:
    """The orders that got the thing, and no other; and of those that had a sum, each by so much for each piece."""
    item, pieces = most_wanted(ground)
    rules = ground.directory / "dearer.py"
    rules.write_text(DEARER.format(item=item, more=MORE))
    found, seconds = what_if(ground, "--rules", str(rules))
    differing = {each["order_uid"] for each in found["differing"] if each["ends_differently"]}
    assert differing == pieces.keys(), (sorted(differing ^ pieces.keys())[:5], len(differing), len(pieces))
    wrong = {
        each["order_uid"]: (each["was"], each["would_be"])
        for each in found["differing"]
        if each["ends_differently"]
        and each["was"].get("total_minor")
        and each["would_be"]["total_minor"] - each["was"]["total_minor"] != MORE * pieces[each["order_uid"]]
    }
    return {
        "item": item,
        "orders with it": len(pieces),
        "ending differently": len(differing),
        "numbered otherwise": found["orders"]["another_way_to_the_same_end"],
        "whose sum is not just so much more": len(wrong),
        "money moved by": {currency: sums["moved_minor"]["difference"] for currency, sums in found["money"].items()},
        "records_per_s": found["records_per_s"],
        "seconds": round(seconds, 1),
    }


def most_wanted(ground: Ground) -> tuple[str, Counter[str]]:
    """The thing of the crowd that most orders got, and how many pieces each of them got."""
    items: dict[tuple[str, int], str] = {}
    got: dict[str, Counter[str]] = {}
    for record in read_topic(ground.stack.kafka, PURCHASES):
        event = orjson.loads(record.value or b"")
        if event["type"] == "cart_placed":
            for number, line in enumerate(event["lines"], 1):
                items[event["order_uid"], number] = line["item_id"]
        elif event["type"] == "line_reserved":
            item = items[event["order_uid"], event["line"]]
            got.setdefault(item, Counter())[event["order_uid"]] += event["quantity"]
    crowds = {item: orders for item, orders in got.items() if int(item.rsplit("-", 1)[1]) >= 100}
    return max(crowds.items(), key=lambda each: len(each[1]))
