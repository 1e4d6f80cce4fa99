"""A guarded child -> stopped, killed, orphaned in every way we could think of -> nothing of it is left."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from local.errors import LocalError
from local.process import LOG_LIMIT_BYTES, Child
from tests.local.sites import eventually, gone

# Starts a grandchild in a session of its own, prints both pids, ignores SIGTERM when told to, then sleeps.
FAMILY = """
import os, signal, subprocess, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), grandchild.pid, flush=True)
time.sleep(600)
"""
# Ends with code 7 when it is asked by SIGINT.
ASKED = """
import signal, sys, time
signal.signal(signal.SIGINT, lambda *_: sys.exit(7))
print("up", flush=True)
time.sleep(600)
"""
SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


def family(log: Path) -> list[psutil.Process]:
    """The processes that FAMILY printed, once both are there."""
    assert eventually(lambda: log.exists() and len(log.read_text().split()) == 2)
    return [psutil.Process(int(pid)) for pid in log.read_text().split()]


def test_a_stop_sends_the_stop_signal_and_returns_the_exit_code(tmp_path: Path) -> None:
    child = Child.start("it", [sys.executable, "-c", ASKED], tmp_path / "log", stop_signal=signal.SIGINT)
    assert eventually(lambda: "up" in child.log_tail())
    assert child.stop() == 7
    assert not child.running() and child.exit_code == 7


@pytest.mark.parametrize("manner", ["", "stubborn"])
def test_a_stop_leaves_neither_child_nor_grandchild(tmp_path: Path, manner: str) -> None:
    log = tmp_path / "log"
    child = Child.start("it", [sys.executable, "-c", FAMILY, manner], log, grace_s=0.5)
    processes = family(log)
    code = child.stop()
    assert code == 128 + (signal.SIGKILL if manner else signal.SIGTERM)
    assert gone(processes)


def test_a_kill_leaves_neither_child_nor_grandchild(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child.start("it", [sys.executable, "-c", FAMILY], log)
    processes = family(log)
    assert child.kill() == 128 + signal.SIGKILL
    assert gone(processes)


def test_a_child_that_ends_by_itself_takes_its_orphans_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child.start("it", [sys.executable, "-c", FAMILY.replace("time.sleep(600)\n", "sys.exit(5)\n")], log)
    assert child.wait(10) == 5
    grandchild = int(log.read_text().split()[1])
    assert not psutil.pid_exists(grandchild)


@pytest.mark.parametrize("victim", ["parent", "parent and guard"])
def test_a_kill_of_the_parent_leaves_nothing(tmp_path: Path, victim: str) -> None:
    log = tmp_path / "log"
    program = f"""
        import sys, time
        from pathlib import Path
        from local.process import Child
        child = Child.start("it", [sys.executable, "-c", {FAMILY!r}, "stubborn"], Path({str(log)!r}), grace_s=0.5)
        time.sleep(600)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    processes = family(log)
    guards = psutil.Process(parent.pid).children()
    assert len(guards) == 1
    parent.kill()
    if victim == "parent and guard":
        guards[0].kill()
        processes = processes[:1]  # a grandchild that fled into its own session can be found by a living guard only
    parent.wait()
    assert eventually(lambda: gone([*guards, *processes]))


def test_pause_stops_and_resume_continues_the_whole_family(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = Child.start("it", [sys.executable, "-c", FAMILY], log)
    processes = family(log)
    child.pause()
    assert eventually(lambda: all(process.status() == psutil.STATUS_STOPPED for process in processes))
    child.resume()
    assert eventually(lambda: all(process.status() != psutil.STATUS_STOPPED for process in processes))
    child.pause()
    assert child.stop() == 128 + signal.SIGTERM, "a paused child must wake up to see the request, not be killed"
    assert gone(processes)


def test_a_signal_to_the_guard_stops_the_child(tmp_path: Path) -> None:
    child = Child.start("it", SLEEP, tmp_path / "log")
    psutil.Process(child.pid).parent().send_signal(signal.SIGTERM)  # type: ignore[union-attr]
    assert child.wait(10) == 128 + signal.SIGTERM


def test_a_ctrl_c_on_the_terminal_reaches_neither_guard_nor_child(tmp_path: Path) -> None:
    """It goes to the foreground process group; the parent alone decides in which order things stop."""
    child = Child.start("it", SLEEP, tmp_path / "log")
    guard = psutil.Process(child.pid).ppid()
    assert os.getpgrp() not in (os.getpgid(guard), os.getpgid(child.pid))
    child.kill()


def test_wait_says_who_still_runs(tmp_path: Path) -> None:
    child = Child.start("the sleeper", SLEEP, tmp_path / "log")
    with pytest.raises(TimeoutError, match="the sleeper"):
        child.wait(0.1)
    child.kill()


def test_a_command_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no-such-program"):
        Child.start("it", ["/no-such-program"], tmp_path / "log")


def test_a_large_log_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1))
    child = Child.start("it", [sys.executable, "-c", "print('new')"], log)
    assert child.wait(10) == 0
    assert log.read_text() == "new\n"
    assert (tmp_path / "log.1").stat().st_size == LOG_LIMIT_BYTES + 1


def test_the_child_runs_with_the_environment_and_directory_it_was_given(tmp_path: Path) -> None:
    code = "import os; print(os.environ['WORD'], os.getcwd(), os.environ.get('ABSENT'))"
    os.environ["ABSENT"] = "leaked"
    try:
        child = Child.start("it", [sys.executable, "-c", code], tmp_path / "log", env={"WORD": "given"}, cwd=tmp_path)
        assert child.wait(10) == 0
    finally:
        del os.environ["ABSENT"]
    assert (tmp_path / "log").read_text().split() == ["given", str(tmp_path), "None"]
