"""a peer's requirements -> a virtual environment or a directory of jars in the user's cache -> what runs it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from local.console import say
from local.errors import LocalError
from local.jars import cache_dir
from local.kafka import find_java

HERE = Path(__file__).parent
INSTALL_TIMEOUT_S = 600


class Missing(Exception):
    """This peer cannot run here. The message says why and what would change that."""


def python_with(requirements: str) -> Path:
    """The Python of a virtual environment that has what `<requirements>.txt` pins. Made once per content of it."""
    file = HERE / f"{requirements}.txt"
    home = _home(requirements, file.read_bytes() + sys.version.encode())
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        say(f"Installing the peer {requirements} into {home} (once) ...")
        shutil.rmtree(home, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(home)], requirements)
        _run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(file)],
            requirements,
        )
        (home / "ready").touch()
    return python


def java_with(project: str) -> list[str]:
    """The command that starts the JVM with the classes and jars of a Maven project. Built once per content of it."""
    if shutil.which("mvn") is None:
        raise Missing("Maven (mvn) is not installed")
    if shutil.which("javac") is None:
        raise Missing("a Java compiler (javac) is not installed")
    try:
        java = find_java()
    except LocalError as error:
        raise Missing(str(error)) from None
    folder = HERE / project
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    home = _home(project, b"".join(path.read_bytes() for path in files))
    if not (home / "ready").exists():
        say(f"Building the peer {project} in {home} (once) ...")
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(folder, home)
        goals = ["package", "dependency:copy-dependencies", "-DoutputDirectory=target/jars", "-DincludeScope=runtime"]
        _run(["mvn", "--batch-mode", "--quiet", *goals], project, home)
        (home / "ready").touch()
    return [java, "-cp", os.pathsep.join((str(home / "target" / "classes"), f"{home / 'target' / 'jars'}/*"))]


def _home(name: str, content: bytes) -> Path:
    return cache_dir() / "bench" / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"


def _run(command: list[str], name: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(f"{name} could not be installed: {error}") from None
    if done.returncode != 0:
        told = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line.lower()]
        raise Missing(f"{name} could not be installed: {' | '.join(told[:3]) or 'no reason given'}")
