"""ways to run the same thing -> run in turn, round by round, so that noise falls on all alike -> samples."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import KafkaException

from bench.ground import Ground, NotReady
from bench.peers.install import Missing
from bench.results import Measured
from bench.watching import Stuck

PROGRAM_TIMEOUT_S = 300
#: What may go wrong in a run without being a fault of our code.
FAILURES = (NotReady, Stuck, KafkaException, TimeoutError, ConnectionError)


@dataclass
class Bench:
    """One run: where, how often, how much. `scale` shrinks counts and times; 1 is what results are published from."""

    ground: Ground
    rounds: int = 3
    scale: float = 1.0
    peers: bool = True
    measured: Measured = field(default_factory=Measured)
    failures: list[str] = field(default_factory=list)

    def count(self, full: int, least: int = 400) -> int:
        return max(least, int(full * self.scale))

    def seconds(self, full: float, least: float = 1.0) -> float:
        return max(least, full * self.scale)

    def add(self, who: str, **values: float) -> None:
        for quantity, value in values.items():
            self.measured.add(quantity, who, value)

    def in_turn(self, ways: Mapping[str, Callable[[], None]]) -> None:
        """Each way once a round, each round beginning with another. One that cannot run here is left out, with its
        reason; one that fails has no sample of that round, and the bench does not end well."""
        left = dict(ways)
        for number in range(self.rounds):
            names = list(left)
            at = number % max(1, len(names))
            for name in names[at:] + names[:at]:
                began = time.monotonic()
                try:
                    left[name]()
                except Missing as reason:
                    self.measured.skip(name, str(reason))
                    say(f"  {name} is skipped: {reason}")
                    del left[name]
                except FAILURES as error:
                    self.failures.append(f"{name}: {error}")
                    say(f"  round {number + 1}/{self.rounds} {name} failed: {error}")
                else:
                    say(f"  round {number + 1}/{self.rounds} {name}: {time.monotonic() - began:.1f} s")

    def asks(self, name: str, module: str, *arguments: object) -> dict[str, Any]:
        """Run one of our measuring programs to its end; gives its line of JSON."""
        child = self.ground.start(self.ground.name(name), self.ground.python(module, *map(str, arguments)))
        code = child.wait(PROGRAM_TIMEOUT_S)
        lines = [line for line in child.log.read_text(errors="replace").splitlines() if line.startswith("{")]
        if code != 0 or not lines:
            raise NotReady(f"{name} ended with code {code}:\n{child.log_tail(30)}")
        found: dict[str, Any] = json.loads(lines[-1])
        return found


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
