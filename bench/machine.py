"""this machine, this commit, this moment -> what a figure must be read with."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from local.jars import KAFKA_VERSION

ROOT = Path(__file__).parent.parent
#: Above this the figures are of this machine and something else.
QUIET_LOAD = 0.5


def about(rounds: int, scale: float) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": _commit(),
        "rounds": rounds,
        "scale": scale,
        "machine": {
            "cores": psutil.cpu_count(),
            "cpu": _cpu(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "kafka": KAFKA_VERSION,
            "load_at_start": round(os.getloadavg()[0], 2),
        },
    }


def warning() -> str | None:
    """Why figures of this moment should not be published, if so."""
    load = os.getloadavg()[0]
    if load <= QUIET_LOAD:
        return None
    return f"The machine is not quiet (load {load:.1f}): the figures will be too low and spread too far."


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit that was measured; marked when files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
