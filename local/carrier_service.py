"""A data directory and brokers -> the sandbox carrier (local/carrier.py) as a process on their topics."""

import sys
import time
from pathlib import Path

from local.service import Service

ROOT = Path(__file__).parent.parent
#: It says so more than once a second that it works.
ALIVE_S = 10.0


class SandboxCarrier(Service):
    """One carrier. `directory` is its own; a second start on it goes on where the first one stopped."""

    name = "The sandbox carrier"

    def __init__(self, directory: Path, kafka: str, *, log: Path) -> None:
        super().__init__(directory, log)
        self.kafka = kafka

    def launch(self) -> None:
        (self.directory / "beat").unlink(missing_ok=True)
        options = ["--kafka", self.kafka, "--directory", str(self.directory)]
        self.spawn([sys.executable, "-m", "local.carrier", *options], cwd=ROOT)

    def answers(self, timeout_s: float = 3.0) -> bool:
        return answers(self.directory)


def answers(directory: Path) -> bool:
    """It has no address: that it works is seen by a file that it touches all the time."""
    try:
        return time.time() - (directory / "beat").stat().st_mtime < ALIVE_S
    except FileNotFoundError:
        return False
