"""payments.events.v1 from where a payment was asked for -> folded up to a moment -> how it stood there.

No table keeps the versions of a payment: its events are few, and lie near to each other in time. Any worker reads them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, NamedTuple

from schemas.base import unix_ms
from schemas.payments import Payment, PaymentCommandRefused, PaymentEvent, Refund, read_event
from streams.errors import NotReadable, OutcomeUnknown
from streams.lookup import LogReader
from streams.records import Record, TopicPartition
from tables.payments import GROUP, Fold
from tables.versions import AfterRecord, AtTime, AtVersion, Cut
from web import as_of, reading
from web.asking import Desk
from web.limits import Limits
from web.problems import Problem
from web.told import not_in_the_log

TOLD_ON = "payments.events.v1"


class Stood(NamedTuple):
    """A payment as it was, and its refunds by their ids."""

    payment: Payment
    refunds: Mapping[str, Refund]


class PaymentPast:
    """Looks into the log. `fold`: the rules' own."""

    def __init__(self, desk: Desk, limits: Limits, fold: Fold) -> None:
        self._desk, self._limits, self._fold = desk, limits, fold

    async def at(self, uid: str, now: Mapping[str, Any], count: int, cut: Cut) -> Stood:
        """`now`: the payment as callers see it now; `count`: how many events it has had. Raises Problem."""
        home, what = self._desk.home(GROUP, uid), f"the payment of order {uid}"
        if isinstance(cut, AfterRecord) and cut.position.partition != home:
            where = f"{what} lives on partition {home}"
            raise reading.bad(as_of.PARAMETER, f"is on partition {cut.position.partition} of {TOLD_ON}, but {where}.")
        if isinstance(cut, AtVersion) and cut.version > now["version"]:
            raise as_of.not_there(what, cut, _since(now))
        try:
            async with self._desk.log_reader() as log:
                found = await self._folded(log, TopicPartition(TOLD_ON, home), uid, now, count, cut)
        except OutcomeUnknown as error:
            raise NotReadable(str(error)) from error
        if found is None:
            raise as_of.not_there(what, cut, _since(now))
        return found

    async def _folded(
        self, log: LogReader, place: TopicPartition, uid: str, now: Mapping[str, Any], count: int, cut: Cut
    ) -> Stood | None:
        payment: Payment | None = None
        refunds: Mapping[str, Refund] = {}
        seen: set[str] = set()  # a replay may have been told to send events again
        async with aclosing(self._records(log, place, now["requested_at"], cut)) as records:
            async for record in records:
                if record.key != uid.encode() or record.value is None:
                    continue
                event = read_event(record.value)
                if event.event_id in seen:
                    continue
                if _comes_after(event, payment, cut):
                    break
                seen.add(event.event_id)
                if payment is None and isinstance(event, PaymentCommandRefused):
                    continue  # of what there was not yet
                payment, refunds = self._fold(payment, refunds, event)
                if payment is not None and payment.attempts == count:
                    break
        return None if payment is None else Stood(payment, refunds)

    async def _records(
        self, log: LogReader, place: TopicPartition, requested_at: str, cut: Cut
    ) -> AsyncGenerator[Record]:
        """From the payment's first event to the cut, or to the end; so many at most as one request may look at."""
        first, end = (await log.bounds([place]))[place]
        if isinstance(cut, AfterRecord):
            if not first <= cut.position.offset < end:
                raise not_in_the_log(cut.position, first, end)
            end = cut.position.offset + 1
        start = await log.offset_at(place, unix_ms(requested_at))
        if start is None:
            return
        left = self._limits.as_of_records
        async with aclosing(log.read({place: start}, {place: end})) as pieces:  # type: ignore[type-var]  # a generator
            async for _, records, _ in pieces:
                for record in records:
                    if record.offset >= end:
                        return
                    left -= 1
                    if left < 0:
                        raise self._too_far(place, start)
                    yield record

    def _too_far(self, place: TopicPartition, start: int) -> Problem:
        return reading.bad(
            as_of.PARAMETER,
            f"would take more than {self._limits.as_of_records} records to find ({TOLD_ON}-{place.partition} from"
            f" {start}): other payments came in between. ORDERSTREAM_AS_OF_MAX_RECORDS is the bound.",
        )


def _comes_after(event: PaymentEvent, payment: Payment | None, cut: Cut) -> bool:
    """A version says no more than that it was made: who was refused after that comes later."""
    match cut:
        case AtVersion(version):
            made = payment is not None and payment.version == version
            return event.version > version or (made and isinstance(event, PaymentCommandRefused))
        case AtTime(at):
            return event.occurred_at > at
        case AfterRecord():
            return False


def _since(now: Mapping[str, Any]) -> dict[str, Any]:
    return {"version": now["version"], "since": now["requested_at"]}
