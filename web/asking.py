"""a question about one partition -> its owner, this worker or another -> the answer from committed state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import aiohttp
import orjson
import structlog
from aiohttp import web
from yarl import URL

from streams.errors import NotOwner, NotReadable
from streams.lookup import LogReader
from streams.records import Position
from web import problems
from web.costly import CostlyReads
from web.limits import Limits
from web.metrics import HttpMetrics
from web.problems import Problem

#: Marks a request of one worker to another and counts its hops. Not a security boundary: anybody can send it.
HOP = "Orderstream-Hop"
#: The owner answers from its own state or says that it is not the owner; it never forwards. One hop is always enough.
MOST_HOPS = 1
INTERNAL_PATH = "/internal/v1/{group}/{partition}/{question}"
ANSWER_TYPE = "application/vnd.orderstream.answer"

#: A partition that moves is back within tens of milliseconds, one that recovers within seconds.
_PAUSE_S, _LONGEST_PAUSE_S = 0.03, 0.3


class Owner(Protocol):
    """Who answers for a partition: `url` is where, `local` says that it is this worker."""

    @property
    def partition(self) -> int: ...
    @property
    def url(self) -> str: ...
    @property
    def local(self) -> bool: ...


class Engine(Protocol):
    """The part of streams.App that reading needs."""

    def owner(self, group: str, key: bytes | str) -> Owner: ...
    def owners(self, group: str) -> Sequence[Owner]: ...
    def log_reader(self) -> AbstractAsyncContextManager[LogReader]: ...
    def reading(
        self, group: str, partition: int, *, min_position: Position | None = None, timeout_s: float = 2.0
    ) -> AbstractAsyncContextManager[Any]: ...


@dataclass(frozen=True)
class Answer:
    """What an owner says: a little JSON, and parts that are bytes as the table holds them, not parsed on the way."""

    meta: dict[str, Any] = field(default_factory=dict)
    parts: Sequence[bytes] = ()

    def encode(self) -> bytes:
        """One line of JSON with the size of each part, then the parts."""
        head = orjson.dumps({"meta": self.meta, "sizes": [len(part) for part in self.parts]})
        return b"".join((head, b"\n", *self.parts))

    @classmethod
    def decode(cls, raw: bytes) -> Answer:
        head, _, rest = raw.partition(b"\n")
        told = orjson.loads(head)
        parts, start = [], 0
        for size in told["sizes"]:
            parts.append(rest[start : start + size])
            start += size
        if start != len(rest):
            raise ValueError(f"an answer of {len(rest)} bytes, its parts are {start}")
        return cls(told["meta"], tuple(parts))


@dataclass(frozen=True)
class Question:
    """Something that the owner of a partition of `group` can be asked. `answer` reads tables and does nothing else.

    `costly`: it may read many rows, so that it waits for its turn (web/costly.py).
    """

    name: str
    group: str
    answer: Callable[[Mapping[str, str]], Answer]
    costly: bool = False


#: Arguments of questions that are whole numbers, with the least of each.
_NUMBERS = {"limit": 1, "bytes": 1, "version": 0, "before": 0}


class Arguments(dict[str, str]):
    """Arguments of another worker's question. Any caller can send them, so that a bad one is the caller's fault."""

    def __missing__(self, name: str) -> str:
        raise ValueError(f"`{name[:64]}` is required")

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Arguments:
        """The arguments in a query. Raises ValueError for a number that is none."""
        for name, least in _NUMBERS.items():
            text = query.get(name, str(least))
            if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) >= least):
                raise ValueError(f"`{name}` must be a whole number from {least}, not {text[:32]!a}")
        return cls({name: value for name, value in query.items() if not name.startswith("_")})


class Desk:
    """Puts questions to owners and answers those of other workers."""

    def __init__(self, engine: Engine, limits: Limits, metrics: HttpMetrics) -> None:
        self._engine, self._limits, self._metrics = engine, limits, metrics
        self._questions: dict[tuple[str, str], Question] = {}
        self._costly = CostlyReads(limits.costly_waiting)
        self._session: aiohttp.ClientSession | None = None

    def learn(self, question: Question) -> Question:
        """Make a question answerable for other workers too."""
        self._questions[question.group, question.name] = question
        return question

    async def session(self, _: web.Application) -> Any:
        """aiohttp's clean-up context: the connections to other workers live as long as the server."""
        connector = aiohttp.TCPConnector(limit=0, limit_per_host=self._limits.connections_per_worker)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as self._session:
            yield
        self._session = None

    async def ask_about(
        self, question: Question, key: str, args: Mapping[str, str], *, after: Position | None = None, wait_s: float
    ) -> Answer:
        """Ask the owner of a key. Raises NotReadable when nobody could answer within `wait_s`."""
        return await self._ask(question, lambda: self._engine.owner(question.group, key), args, after, wait_s)

    async def ask_partition(
        self, question: Question, partition: int, args: Mapping[str, str], *, wait_s: float
    ) -> Answer:
        """Ask the owner of a partition. Raises NotReadable when nobody could answer within `wait_s`."""

        def owner() -> Owner:
            for candidate in self._engine.owners(question.group):
                if candidate.partition == partition:
                    return candidate
            raise NotReadable(f"nobody owns partition {partition} of {question.group}")

        return await self._ask(question, owner, args, None, wait_s)

    async def ask_every(self, question: Question, args: Mapping[str, str], *, wait_s: float) -> list[Answer]:
        """Ask the owner of each partition of the question's group, all at the same time.

        One that cannot answer stands for all: a part would look like the whole. Raises NotReadable, or its Problem.
        """
        partitions = self.partitions(question.group)
        try:
            async with asyncio.TaskGroup() as group:
                asked = [
                    group.create_task(self.ask_partition(question, each, args, wait_s=wait_s)) for each in partitions
                ]
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if isinstance(first, Problem):
                raise Problem(problems.UNAVAILABLE, first.detail, headers={"Retry-After": "1"}) from None
            raise first from None
        return [task.result() for task in asked]

    def log_reader(self) -> AbstractAsyncContextManager[LogReader]:
        """The log itself. Raises NotReadable while this worker has no connection."""
        return self._engine.log_reader()

    def home(self, group: str, key: str) -> int:
        """The partition of a key. Raises NotReadable when it has no owner."""
        return self._engine.owner(group, key).partition

    def partitions(self, group: str) -> list[int]:
        """Every partition of a group. Raises NotReadable when one has no owner."""
        return sorted(owner.partition for owner in self._engine.owners(group))

    async def _ask(
        self,
        question: Question,
        find: Callable[[], Owner],
        args: Mapping[str, str],
        after: Position | None,
        wait_s: float,
    ) -> Answer:
        """Ask until somebody answers: owners change while we look, and a question changes nothing."""
        clock = asyncio.get_running_loop().time
        deadline, pause = clock() + wait_s, _PAUSE_S
        while True:
            where = "nobody"
            try:
                owner = find()
                where = "here" if owner.local else "there"
                left = max(deadline - clock(), 0.05)
                if owner.local:
                    answer = await self._answer(question, owner.partition, args, after, left)
                else:
                    answer = await self._forward(question, owner, args, after, left)
            except NotReadable as error:
                self._metrics.asked.labels(question.name, where, "not_readable").inc()
                if clock() + pause >= deadline:
                    raise
                # An owner that names its successor is asked about at once; anything else needs a moment.
                await asyncio.sleep(0.0 if isinstance(error, NotOwner) and pause == _PAUSE_S else pause)
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                self._metrics.asked.labels(question.name, where, "answered").inc()
                return answer

    async def _answer(
        self, question: Question, partition: int, args: Mapping[str, str], after: Position | None, wait_s: float
    ) -> Answer:
        if after is not None and after.partition != partition:
            raise Problem(
                problems.BAD_PARAMETER,
                f"Position {after} is on partition {after.partition}, but this key lives on partition {partition};"
                " use the position that the write answered with.",
                parameter=args.get("position_in", "min_offset"),
            )
        if not question.costly:
            async with self._engine.reading(question.group, partition, min_position=after, timeout_s=wait_s):
                return question.answer(args)
        if after is not None:  # before the turn: a position may take long to come
            async with self._engine.reading(question.group, partition, min_position=after, timeout_s=wait_s):
                pass
        async with (
            self._costly.turn(wait_s),
            self._engine.reading(question.group, partition, min_position=after, timeout_s=wait_s),
        ):
            return question.answer(args)

    async def _forward(
        self, question: Question, owner: Owner, args: Mapping[str, str], after: Position | None, wait_s: float
    ) -> Answer:
        """One hop to the owner. Whatever goes wrong on the way is `not readable`: the caller looks again."""
        if self._session is None:
            raise NotReadable("this worker's web server has not started")
        path = INTERNAL_PATH.format(group=question.group, partition=owner.partition, question=question.name)
        control = {"wait_ms": str(int(wait_s * 1000))} | ({"min_offset": str(after)} if after else {})
        identity = structlog.contextvars.get_contextvars().get("request_id", "-")
        timeout = aiohttp.ClientTimeout(total=wait_s + 0.5, sock_connect=1.0)
        try:
            async with self._session.get(
                URL(owner.url) / path.removeprefix("/"),
                params={**args, **{f"_{name}": value for name, value in control.items()}},
                headers={HOP: "1", "X-Request-Id": str(identity)},
                timeout=timeout,
            ) as response:
                return _understand(response.status, await response.read(), owner, response.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotReadable(
                f"the worker at {owner.url}, owner of partition {owner.partition} of {question.group},"
                f" does not answer ({type(error).__name__})"
            ) from error

    async def answer_another(self, request: web.Request) -> web.Response:
        """The internal route: another worker's question, answered from the partition that this worker owns."""
        hop = request.headers.get(HOP, "")
        if hop != str(MOST_HOPS):
            raise Problem(
                problems.BAD_PARAMETER,
                f"{request.path} is for other workers, which send {HOP}: {MOST_HOPS}; see /openapi.json.",
            )
        question, partition = self._parse_target(request)
        try:
            args = Arguments.of(request.query)
            after = Position.parse(request.query["_min_offset"]) if "_min_offset" in request.query else None
            wait_s = min(max(int(request.query.get("_wait_ms", "0")), 0) / 1000, self._limits.request_s)
            answer = await self._answer(question, partition, args, after, wait_s)
        except NotOwner as error:
            raise Problem(problems.MISDIRECTED, error.reason, owner=error.url) from None
        except ValueError as error:
            raise Problem(problems.BAD_PARAMETER, f"{error}."[:500]) from None
        return web.Response(body=answer.encode(), content_type=ANSWER_TYPE)

    def _parse_target(self, request: web.Request) -> tuple[Question, int]:
        group, name, partition = (request.match_info[part] for part in ("group", "question", "partition"))
        question = self._questions.get((group, name))
        if question is None or not (partition.isascii() and partition.isdigit()):
            raise Problem(problems.NO_SUCH_ROUTE, f"No question {name!r} about partition {partition!r} of {group!r}.")
        return question, int(partition)


def _understand(status: int, body: bytes, owner: Owner, retry_after: str | None) -> Answer:
    """What another worker said, in the terms of this one."""
    match status:
        case 200:
            return Answer.decode(body)
        case 421 if b"/problems#misdirected" in body:
            raise NotOwner(owner.url)
        case 400:
            told = orjson.loads(body)
            raise Problem(problems.BAD_PARAMETER, told["detail"], parameter=told.get("parameter"))
        case 503:
            told = orjson.loads(body)
            raise NotReadable(told["detail"], float(retry_after or 1))
        case _:
            # An older or newer worker during an upgrade, or its failure: it has logged why. Not "does not exist".
            raise NotReadable(f"the worker at {owner.url} answered {status}")
