"""one small topic -> which version of an application is live -> this one works, stands by, or lets go.

Versions (blue and green) share inputs and outputs; each has tables, journals and positions of its own. Who is live is
the last record of the topic; none means the version without a name. A switch writes `switching`, fences every task of
the one version, brings the other to where that one ended, and writes `live`: that one record is the switch.

A task first initialises its producer, which fences older owners, and looks here *after* that. One that initialised
before the switch fenced it is fenced; one that did later finds `switching`, and stands still. So each input record is
in the committed past of exactly one version. Whoever writes here does the same: first its producer, which ends every
other writer, then a look at what is said.

Readers must not go back either. A worker that finds `switching` answers no more and leaves its group; one that sleeps
is put out of it after its session, past which it does not answer. The switch goes on when nobody is left in the group.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

import orjson

from streams import faults
from streams.clock import Clock
from streams.errors import LogMismatch, NotLive
from streams.log import Offsets, Transactions
from streams.records import Outgoing, Record, TopicPartition

KEY = b"live"
#: A commit is answered before its marker is written; until then nobody sees what was said.
SEEN_EVERY_S = 0.01


class Turn(StrEnum):
    """What a version has to do."""

    WORKS = "live"
    LETS_GO = "letting go"
    STANDS_BY = "standing by"


@dataclass(frozen=True)
class Said:
    """A record of the topic. `source` is the version that was live before; `run` tells one switch from another."""

    state: Literal["switching", "live"]
    source: str
    to: str
    at_ms: int
    run: str

    def encode(self) -> bytes:
        content = {"state": self.state, "from": self.source, "to": self.to, "at_ms": self.at_ms, "run": self.run}
        return orjson.dumps(content)

    @classmethod
    def decode(cls, raw: bytes) -> Said:
        content: dict[str, Any] = orjson.loads(raw)
        return cls(content["state"], content["from"], content["to"], content["at_ms"], content["run"])

    @property
    def live(self) -> str | None:
        """None while a switch is under way."""
        return self.to if self.state == "live" else None


class Looker(Protocol):
    """The part of a log that a look needs."""

    async def bounds(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, tuple[int, int]]: ...
    def read(
        self, starts: Offsets, ends: Offsets | None
    ) -> AsyncIterator[tuple[TopicPartition, Sequence[Record], int]]: ...


def turn_of(version: str, said: Said | None) -> Turn:
    """What this version has to do when that was said last."""
    if said is None:
        return Turn.STANDS_BY if version else Turn.WORKS
    if said.state == "switching" and said.source == version:
        return Turn.LETS_GO
    return Turn.WORKS if said.live == version else Turn.STANDS_BY


def named(version: str) -> str:
    """A version as people read it."""
    return f"version {version}" if version else "the version without a name"


def id_of(shared_id: str, version: str) -> str:
    """The app id of a version: the name of its group, and what its topics' names begin with."""
    return f"{shared_id}-v{version}" if version else shared_id


def folder_of(data_dir: Path, version: str) -> Path:
    """Where a version's stores are."""
    return data_dir / f"v{version}" if version else data_dir


class Live:
    """What is known here of the topic. A look costs two small requests, and one read when something new was said."""

    def __init__(self, topic: str, version: str) -> None:
        self.partition, self.version = TopicPartition(topic, 0), version
        self.said: Said | None = None
        self._end = -1
        self._known, self._working = asyncio.Event(), asyncio.Event()

    @property
    def turn(self) -> Turn | None:
        """None before the first look."""
        return None if self._end < 0 else turn_of(self.version, self.said)

    @property
    def works(self) -> bool:
        return self.turn is Turn.WORKS

    def __str__(self) -> str:
        """Why this version is not at work, and what to do if that is not as it should be."""
        if self.turn is Turn.LETS_GO and self.said is not None:
            return (
                f"a switch from {named(self.said.source)} to {named(self.said.to)} is under way: it goes on with"
                f" `faust -A app replay --into '{self.said.to}'`, or ends with `faust -A app versions --abandon`"
            )
        if self.turn is None:
            return f"{named(self.version)} does not know yet whether it is live"
        live = "" if self.said is None else self.said.live
        ours = f"{named(self.version)} stands by"
        return f"{ours}: a switch is under way" if live is None else f"{ours}: {named(live)} is live"

    async def look(self, log: Looker) -> Turn:
        """Ask the broker now. Raises LogMismatch when what was said has been deleted."""
        begin, end = (await log.bounds([self.partition]))[self.partition]
        if end > self._end:
            last: Record | None = None
            if begin < end:
                async for _, records, _ in log.read({self.partition: begin}, {self.partition: end}):
                    last = records[-1] if records else last
            if last is None and begin > 0:
                raise LogMismatch(
                    f"{self.partition.topic} has lost its records, so which version is live is not known: bring them"
                    " back (from a mirror, a backup)"
                )
            if end > self._end:  # another look may have been quicker, and have seen more
                self._end, self.said = end, None if last is None or last.value is None else Said.decode(last.value)
                self._known.set()
                (self._working.set if self.works else self._working.clear)()
        turn = self.turn
        assert turn is not None, "it was looked at"
        return turn

    async def require(self, log: Looker) -> None:
        """Raise NotLive unless it is this version's turn now."""
        if await self.look(log) is not Turn.WORKS:
            raise NotLive(str(self))

    async def until_known(self) -> Turn:
        """Wait for the first look."""
        await self._known.wait()
        turn = self.turn
        assert turn is not None, "it was looked at"
        return turn

    async def until_working(self) -> None:
        """Wait until a look finds this version live."""
        await self._working.wait()

    async def say(self, log: Looker, producer: Transactions, said: Said) -> None:
        """Write it, and wait until everybody sees it. Raises Fenced when somebody else has begun to write here."""
        await producer.begin()
        await producer.send({self.partition: [Outgoing(said.at_ms, KEY, said.encode())]})
        await producer.commit()
        await self.look(log)
        while self.said != said:
            await asyncio.sleep(SEEN_EVERY_S)
            await self.look(log)


@dataclass(frozen=True)
class Switch:
    """From one version to another, step by step. `fences` are the transactional ids of the one's tasks.

    `left`: returns when no worker of the one is in its group any more; raises StillThere when that takes too long.
    `bring`: brings the other version to where the one has ended.
    """

    live: Live
    log: Looker
    producer: Transactions
    fences: Sequence[Transactions]
    left: Callable[[], Awaitable[None]]
    bring: Callable[[], Awaitable[None]]
    clock: Clock

    async def carry_out(self, source: str, to: str, run: str) -> None:
        """Raises StillThere, after which the one works on, and Fenced when somebody else switches, or has given it up.

        Killed anywhere, it is carried out again: it does no harm to fence twice, and `bring` goes on from where it is.
        """
        await self.producer.start()
        await self.live.look(self.log)
        said = self.live.said
        if said is None or said.state != "switching":
            hold_live(said, source)
            await self._say("switching", source, to, run)
        elif (said.source, said.to) != (source, to):
            raise NotLive(f"a switch from {named(said.source)} to {named(said.to)} is under way already")
        faults.point("switch_said")
        try:
            await self.left()
        except StillThere:
            await self._say("live", source, source, run)
            raise
        faults.point("switch_left")
        for fence in self.fences:
            await fence.start()
        faults.point("switch_fenced")
        await self.bring()
        faults.point("switch_brought")
        await self._say("live", source, to, run)
        faults.point("switch_done")

    async def give_back(self, run: str) -> str:
        """End a switch that was cut short: what was live goes on. Gives its name. Raises NotLive when there is none."""
        await self.producer.start()
        await self.live.look(self.log)
        said = self.live.said
        if said is None or said.state != "switching":
            raise NotLive("no switch is under way")
        await self._say("live", said.to, said.source, run)
        return said.source

    async def _say(self, state: Literal["switching", "live"], source: str, to: str, run: str) -> None:
        await self.live.say(self.log, self.producer, Said(state, source, to, self.clock.now_ms(), run))


class StillThere(Exception):
    """Workers of the version that is to be switched from have not let go in time."""


def hold_live(said: Said | None, source: str) -> None:
    """Raise NotLive unless this version is the live one."""
    live = "" if said is None else said.live
    if live != source:
        raise NotLive(f"{named(source)} is not live" + ("" if live is None else f": {named(live)} is"))
