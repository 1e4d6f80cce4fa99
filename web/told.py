"""a position on a topic of events -> the version that stood there, found in the log by the times of versions.

Tables know which record caused a version, not where the event about it came to stand. The broker's index leads near to
it, so that nothing is read but what lies beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

import orjson

from schemas.base import unix_ms
from streams.errors import NotReadable, OutcomeUnknown
from streams.lookup import LogReader, Sought, TooFar, how_many_by
from streams.records import Position, Record, TopicPartition
from tables.versions import AfterRecord, AtTime, AtVersion, Cut
from web import as_of, problems, reading
from web.asking import Desk, Question
from web.limits import Limits
from web.problems import Problem


class About(NamedTuple):
    """What a moment is asked of.

    `what`: in words. `key_is`: the name of its key. `tellers`: the topics that may tell of it. `moment`: the question
    when a version of it came to be.
    """

    what: str
    key_is: str
    key: str
    tellers: Collection[str]
    moment: Question


#: Searches at the same time; each reads the log over a connection of its own. More wait, as long as a request may.
AT_ONCE = 4


class Told:
    """Settles positions among events. Any worker may: it reads the log, and asks the owner for times."""

    def __init__(self, desk: Desk, limits: Limits) -> None:
        self._desk, self._limits, self._turn = desk, limits, asyncio.Semaphore(AT_ONCE)

    async def settle(self, cut: Cut | None, about: About) -> Cut | None:
        """A position on a topic of events as the version that stood there; any other cut as it is."""
        if not (isinstance(cut, AfterRecord) and cut.position.topic in about.tellers):
            return cut
        topic, number, _ = cut.position
        home = self._desk.home(about.moment.group, about.key)
        if number != home:
            where = f"{about.what} lives on partition {home}"
            raise reading.bad(as_of.PARAMETER, f"is on partition {number} of {topic}, but {where}.")
        try:
            async with self._turn, self._desk.log_reader() as log:
                return await self._version_by(log, cut, about)
        except OutcomeUnknown as error:
            raise NotReadable(str(error)) from error
        except TooFar as error:
            most = self._limits.as_of_records
            raise reading.bad(
                as_of.PARAMETER,
                f"would take more than {most} records to find ({error}): times do not ascend there. Give a version (the"
                " timeline has them) or a time; ORDERSTREAM_AS_OF_MAX_RECORDS is the bound.",
            ) from None

    async def _version_by(self, log: LogReader, cut: AfterRecord, about: About) -> Cut:
        topic, number, offset = cut.position
        place = TopicPartition(topic, number)
        # Before the newest version is asked for: what the log has by then, the owner's state has too.
        first, end = (await log.bounds([place]))[place]
        newest = await self._moment(about, 0)
        if newest is None:
            return AtTime("0001-01-01T00:00:00.000Z")  # whatever came to be since was not there
        if topic != newest["told_on"]:
            tells = f"{newest['told_on']} tells of {about.what}"
            raise reading.bad(as_of.PARAMETER, f"is on {topic}, but {tells}.")
        if not first <= offset < end:
            raise not_in_the_log(cut.position, first, end)

        async def sought(version: int) -> Sought:
            found = await self._moment(about, version)
            if found is None:
                raise NotReadable(f"{about.what} was there a moment ago")
            return Sought(unix_ms(found["occurred_at"]), partial(is_version, about.key.encode(), version))

        version = await how_many_by(log, place, offset, newest["version"], sought, self._limits.as_of_records)
        if version == 0:
            raise as_of.not_there(about.what, cut, newest)
        return AtVersion(version)

    async def _moment(self, about: About, version: int) -> dict[str, Any] | None:
        args = {about.key_is: about.key, "version": str(version)}
        answer = await self._desk.ask_about(about.moment, about.key, args, wait_s=self._limits.read_wait_s)
        as_of.require_kept(answer.meta)
        found: dict[str, Any] | None = answer.meta.get("moment")
        return found


def is_version(key: bytes, version: int, record: Record) -> bool:
    """Whether an event is of this version or a later one: refusals and warnings repeat the version they met."""
    return record.key == key and record.value is not None and bool(orjson.loads(record.value)["version"] >= version)


def not_in_the_log(position: Position, first: int, end: int) -> Problem:
    has = f"has the offsets from {first} to {end - 1}" if first < end else "is empty"
    detail = f"{position} is not in the log: {position.topic}-{position.partition} {has}."
    return Problem(problems.NO_SUCH_PAST, detail, reason="not_in_the_log")
