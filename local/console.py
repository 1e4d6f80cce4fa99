"""Steps of a long start -> stderr -> a bar on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


def say(text: str, stream: TextIO | None = None) -> None:
    """One line of progress. stdout is kept for data and for the closing table."""
    print(text, file=stream or sys.stderr, flush=True)


class Bar:
    """Counts towards a total. Off a terminal it prints a line at each quarter, so that a log stays readable."""

    WIDTH = 30

    def __init__(self, title: str, total: int, unit: str, scale: int = 1) -> None:
        self.title, self.total, self.unit, self.scale = title, max(total, 1), unit, scale
        self.done = 0
        self._quarter = 0
        self._live = sys.stderr.isatty()

    def add(self, amount: int) -> None:
        self.done = min(self.done + amount, self.total)
        share = self.done / self.total
        figures = f"{self.done // self.scale:,} of {self.total // self.scale:,} {self.unit}"
        if self._live:
            filled = int(share * self.WIDTH)
            bar = "#" * filled + "." * (self.WIDTH - filled)
            sys.stderr.write(f"\r{self.title} [{bar}] {figures} ")
            sys.stderr.flush()
        elif int(share * 4) > self._quarter:
            self._quarter = int(share * 4)
            say(f"{self.title}: {figures}")

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\n")
            sys.stderr.flush()


@contextmanager
def bar(title: str, total: int, unit: str, scale: int = 1) -> Iterator[Bar]:
    """A bar that always ends its line, also when the work inside fails."""
    shown = Bar(title, total, unit, scale)
    try:
        yield shown
    finally:
        shown.close()
