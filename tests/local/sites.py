"""A data directory and ports of its own -> `python -m local` on it, as a person runs it -> what it printed and left."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.processes import ROOT

START_TIMEOUT_S = 120.0  # on a loaded two-core machine; a quiet one takes 4 s


@dataclass
class Site:
    """A data directory with ports of its own, and the command line on it."""

    data_dir: Path
    kafka_port: int
    postgres_port: int
    web_port: int
    sandbox_port: int
    as_user: Sequence[str] = ()  # a command that runs the rest as another user
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("ORDERSTREAM_")}
        return plain | {
            "ORDERSTREAM_DATA_DIR": str(self.data_dir),
            "ORDERSTREAM_KAFKA_PORT": str(self.kafka_port),
            "ORDERSTREAM_POSTGRES_PORT": str(self.postgres_port),
            "ORDERSTREAM_WEB_PORT": str(self.web_port),
            "ORDERSTREAM_SANDBOX_PORT": str(self.sandbox_port),
            "JAVA_TOOL_OPTIONS": "-XX:TieredStopAtLevel=1",  # these brokers live for seconds: half the CPU to start
            **self.extra,
        }

    def command(self, *arguments: str) -> list[str]:
        return [*self.as_user, sys.executable, "-m", "local", *arguments]

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments),
            cwd=ROOT,
            env=self.env | dict(env or {}),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=START_TIMEOUT_S,
        )

    def up(self, command: str = "up", *options: str) -> "Up":
        """Start `up`, `dev` or `demo`; returns when it says that Ctrl-C stops it."""
        process = subprocess.Popen(
            self.command(command, *options),
            cwd=ROOT,
            env=self.env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "Ctrl-C stops" in line:
                family = psutil.Process(process.pid).children(recursive=True)
                assert {"java", "postgres"} <= {member.name() for member in family}
                return Up(process, "".join(lines), family)
        raise AssertionError(f"it ended with {process.wait()}:\n{''.join(lines)}")


@dataclass
class Up:
    process: subprocess.Popen[str]
    output: str
    family: list[psutil.Process]  # guards, java, postgres and its workers

    def end(self, number: signal.Signals) -> tuple[int, str]:
        """Exit code and the rest of the output; nothing of the family may be left."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)  # as a terminal does
        else:
            self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=START_TIMEOUT_S)
        assert eventually(lambda: gone(self.family), 20), [p for p in self.family if p.is_running()]
        return self.process.returncode, rest

    def named(self, name: str) -> psutil.Process:
        return next(process for process in self.family if process.name() == name)


def eventually(holds: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
