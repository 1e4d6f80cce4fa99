"""the fold of the events -> what workers must answer; and what a poller saw -> whether it can have been."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from tests.oracle.history import Fold, Happened, Order
from tests.oracle.log import Position
from tests.oracle.tables import place_of, timeline_entry, timeline_key
from tests.oracle.verdict import Kind, Verdict


class Answer(NamedTuple):
    """What a worker said to a question. `body` is parsed JSON."""

    status: int
    body: Any
    etag: str | None = None


class Sight(NamedTuple):
    """One look at one order. Times in seconds of one clock; status 0: no answer; version None: none was shown."""

    worker: str
    order_uid: str
    asked_at: float
    answered_at: float
    status: int
    version: int | None = None
    retry_after: bool = False


def judge_order(order: Order, answer: Answer, who: str, verdict: Verdict) -> None:
    """GET of one order."""
    verdict.looked("orders over HTTP")
    where = f"{order.order_uid} at {who}"
    if answer.status != 200:
        verdict.add(Kind.LOST, "orders over HTTP", where, f"answered {answer.status}: {answer.body!r}")
        return
    verdict.equal("orders over HTTP", where, shown(order), answer.body)
    verdict.equal("orders over HTTP", where, f'"{order.version}"', answer.etag)


def judge_timeline(entries: Sequence[Happened], answer: Answer, who: str, verdict: Verdict) -> None:
    """GET of a timeline: every event and refusal, by version, refusals after the version that they met."""
    verdict.looked("timelines over HTTP")
    where = f"{entries[0].event['order_uid']} at {who}"
    expected = [
        {**timeline_entry(each), "position": str(Position(*each.cause[:3]))}
        for each in sorted(entries, key=timeline_key)
    ]
    if answer.status != 200:
        verdict.add(Kind.LOST, "timelines over HTTP", where, f"answered {answer.status}: {answer.body!r}")
        return
    verdict.equal("timelines over HTTP", where, expected, answer.body["entries"])


def judge_list(orders: Iterable[Order], listed: Sequence[Any], what: str, verdict: Verdict) -> None:
    """A list, all its pages together: complete, each order once, newest first."""
    verdict.looked("lists over HTTP")
    expected = sorted(orders, key=place_of)
    verdict.looked("orders in lists", len(expected))
    seen = [row.get("order_uid") for row in listed]
    wanted = {order.order_uid: order for order in expected}
    for uid in wanted.keys() - set(seen):
        verdict.add(Kind.LOST, "lists over HTTP", f"{uid} in {what}", "is not in the list")
    for uid in set(seen) - wanted.keys():
        verdict.add(Kind.WRONG, "lists over HTTP", f"{uid} in {what}", "does not belong in the list")
    if len(set(seen)) != len(seen):
        twice = sorted({uid for uid in seen if seen.count(uid) > 1})
        verdict.add(Kind.DOUBLED, "lists over HTTP", f"{twice[0]} in {what}", f"{len(twice)} orders are listed twice")
    elif set(seen) == wanted.keys() and seen != [order.order_uid for order in expected]:
        verdict.add(Kind.REORDERED, "lists over HTTP", what, "is not newest first")
    for row in listed:
        order = wanted.get(row.get("order_uid"))
        if order is not None:
            verdict.equal("lists over HTTP", f"{order.order_uid} in {what}", shown(order), row)


def shown(order: Order) -> dict[str, Any]:
    """An order as callers see it."""
    return {
        "order_uid": order.order_uid,
        "version": order.version,
        "status": order.status,
        "customer_id": order.customer_id,
        "placed_at": order.placed_at,
        "updated_at": order.updated_at,
        "cancel_reason": order.cancel_reason,
        "document": orjson.loads(order.document),
    }


def timelines(fold: Fold) -> dict[str, list[Happened]]:
    """order_uid -> what happened to it, in the order of the events."""
    found: dict[str, list[Happened]] = defaultdict(list)
    for each in fold.happened:
        found[each.event["order_uid"]].append(each)
    return found


def judge_sights(sights: Iterable[Sight], verdict: Verdict, *, longest_gap_s: float) -> float:
    """What a poller saw of each order, whichever worker it asked; gives the longest outage of an order.

    Once an order was seen, no later question is answered with 404, and no later answer has an older version. Later:
    asked after the earlier answer had come. In between there may be 503 with Retry-After, or no answer from a worker
    that is starting or ending, but not for longer than `longest_gap_s`.
    """
    by_order: Mapping[str, list[Sight]] = defaultdict(list)
    for sight in sights:
        by_order[sight.order_uid].append(sight)
    longest = 0.0
    for uid, looks in by_order.items():
        verdict.looked("looks at orders", len(looks))
        _judge_monotone(uid, looks, verdict)
        gap = _longest_gap(looks)
        longest = max(longest, gap)
        if gap > longest_gap_s:
            verdict.add(Kind.WRONG, "looks at orders", uid, f"no worker answered for {gap:.1f} s")
    return longest


def _judge_monotone(uid: str, looks: list[Sight], verdict: Verdict) -> None:
    answered = sorted((look for look in looks if look.version is not None), key=lambda look: look.answered_at)
    known: list[tuple[float, int]] = []  # when it was known -> the newest version that was shown until then
    for look in answered:
        assert look.version is not None
        known.append((look.answered_at, max(look.version, known[-1][1] if known else 0)))
    at, version = 0, 0
    for look in sorted(looks, key=lambda look: look.asked_at):
        while at < len(known) and known[at][0] < look.asked_at:
            version = known[at][1]
            at += 1
        where = f"{uid} at {look.worker}"
        if look.status == 404 and version:
            verdict.add(Kind.LOST, "looks at orders", where, f"404 after version {version} had been shown")
        elif look.version is not None and look.version < version:
            verdict.add(Kind.REORDERED, "looks at orders", where, f"version {look.version} after {version}")
        elif look.status == 503 and not look.retry_after:
            verdict.add(Kind.WRONG, "looks at orders", where, "503 without Retry-After")
        elif look.status not in (0, 200, 201, 404, 503):
            verdict.add(Kind.WRONG, "looks at orders", where, f"answered {look.status}")


def _longest_gap(looks: list[Sight]) -> float:
    """Seconds between the first and the last of questions that met a 503 or silence, with no answer between them.

    What was seen, and no more: how long it went on after the last one, until somebody asked again, is nobody's outage,
    and a question to a worker that sleeps takes its time while others would have answered.
    """
    longest, since = 0.0, None
    for look in sorted(looks, key=lambda look: look.answered_at):
        if look.status in (0, 503):
            since = look.asked_at if since is None else since
            longest = max(longest, look.asked_at - since)
        else:
            since = None
    return longest
