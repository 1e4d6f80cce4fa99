"""a call of a broker -> its answer: late, lost before or after it took effect, or too late, as chance will have it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from aiokafka.errors import RequestTimedOutError

from tests.simulation.loop import NOWHERE, SimLoop


@dataclass
class Weather:
    """How likely each mishap is, and how slow everything is (seconds). All zero but the slowness: a good day."""

    latency_s: float = 0.002
    lose_request: float = 0.0
    lose_answer: float = 0.0
    late: float = 0.0
    give_up: float = 0.0
    timeout_s: float = 3.0


class Network:
    """Every call is two messages. A call that was lost fails after a while; whether it took effect is not known."""

    def __init__(self, loop: SimLoop, chance: Random, weather: Weather) -> None:
        self.loop, self.chance, self.weather = loop, chance, weather
        self.down_until = 0.0
        self.calls = self.lost = self.late = 0

    def delay(self) -> float:
        """How long one message takes: mostly little, now and then very long."""
        chance = self.chance.random()
        latency = self.weather.latency_s
        if chance > 0.97:
            return latency * (5 + 400 * (chance - 0.97) * self.chance.random() * 10)
        return latency * (0.2 + chance)

    def call(self, fun: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Ask `fun`, which runs in one step at the broker; it may give a future, whose outcome is then the answer."""
        self.calls += 1
        loop, weather = self.loop, self.weather
        answer: asyncio.Future[Any] = loop.create_future()
        arrives_at = max(loop.now, self.down_until) + self.delay()
        lost = self.chance.random()
        if lost < weather.lose_request:
            self._lose(answer, self.chance.choice([0.01, 0.1, weather.timeout_s]))
        elif lost < weather.lose_request + weather.lose_answer:
            self._lose(answer, self.chance.choice([0.01, 0.1, weather.timeout_s]))
            loop.call_at(arrives_at, self._arrive, None, fun, args, context=NOWHERE)
        elif lost < weather.lose_request + weather.lose_answer + weather.late:
            # The caller has given this connection up, and asks again on another: the two may overtake each other.
            self.late += 1
            wait_s = self.chance.choice([0.01, weather.timeout_s])
            self._lose(answer, wait_s)
            arrives_at = loop.now + wait_s + min(10.0, self.delay() * self.chance.choice([1, 10, 50]))
            loop.call_at(arrives_at, self._arrive, None, fun, args, context=NOWHERE)
        else:
            loop.call_at(arrives_at, self._arrive, answer, fun, args, context=NOWHERE)
        return answer

    def gives_up(self) -> bool:
        """Whether a client whose call was lost stops trying."""
        return self.chance.random() < self.weather.give_up

    def _lose(self, answer: asyncio.Future[Any], wait_s: float) -> None:
        self.lost += 1
        self.loop.call_later(wait_s, self._answer, answer, None, RequestTimedOutError(), context=NOWHERE)

    def _arrive(self, answer: asyncio.Future[Any] | None, fun: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result, error = fun(*args), None
        except Exception as raised:
            result, error = None, raised
        if answer is None:
            return
        if isinstance(result, asyncio.Future):
            result.add_done_callback(lambda done: self._answer_later(answer, done), context=NOWHERE)
        else:
            self.loop.call_later(self.delay(), self._answer, answer, result, error, context=NOWHERE)

    def _answer_later(self, answer: asyncio.Future[Any], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        result = None if error else done.result()
        self.loop.call_later(self.delay(), self._answer, answer, result, error, context=NOWHERE)

    @staticmethod
    def _answer(answer: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(result)
