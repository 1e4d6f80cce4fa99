"""A command -> a child under a guard (local/guard.py) -> something that can be stopped, killed, paused and resumed."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from local.errors import LocalError
from local.private import is_regular, make_private

GUARD = Path(__file__).with_name("guard.py")
LOG_LIMIT_BYTES = 16 * 1024 * 1024  # a log larger than this is set aside at the next start; one old one is kept


class Child:
    """One guarded child process. As long as the guard lives, `pid` is the child's and nobody else's."""

    def __init__(self, name: str, guard: subprocess.Popen[str], pid: int, log: Path, grace_s: float) -> None:
        self.name, self.pid, self.log = name, pid, log
        self._guard, self._grace_s = guard, grace_s

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: tuple[int, int] | None = None,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 20.0,
        keep_fds: Sequence[int] = (),
    ) -> "Child":
        """Start the command as `user` (uid, gid), or as the caller. `keep_fds` stay open in guard and child."""
        rotate(log)
        options = ["--log", str(log), "--stop-signal", str(int(stop_signal)), "--grace-s", str(grace_s)]
        if user is not None:
            options += ["--user", f"{user[0]}:{user[1]}"]
        guard = subprocess.Popen(
            [sys.executable, str(GUARD), *options, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=None if env is None else dict(env),
            cwd=cwd,
            pass_fds=tuple(keep_fds),
            start_new_session=True,  # Ctrl-C on the terminal is for the parent; it decides the order of stopping
        )
        assert guard.stdout is not None and guard.stderr is not None
        line = guard.stdout.readline().strip()
        if not line.isdigit():
            problem = guard.stderr.read().strip().splitlines()
            guard.wait()
            raise LocalError(f"Could not start {name} ({command[0]}): {problem[-1] if problem else 'no reason given'}")
        return cls(name, guard, int(line), log, grace_s)

    def running(self) -> bool:
        return self._guard.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs; 128 + n when it ended by signal n."""
        return self._guard.poll()

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for its end; TimeoutError when it takes longer."""
        try:
            return self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} (pid {self.pid}) still runs after {timeout_s} s") from None

    def stop(self) -> int:
        """Ask it to end (its stop signal), kill it after the grace period; returns the exit code."""
        assert self._guard.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guard.stdin.close()
        return self._finish(self._grace_s + 15)

    def kill(self) -> int:
        """kill -9, as a crash would; returns when nothing of it is left."""
        self._signal(signal.SIGKILL, family=False)
        return self._finish(15)

    def pause(self) -> None:
        """SIGSTOP for it and everything it started."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log_tail(self, lines: int = 15) -> str:
        return tail(self.log, lines)

    def _signal(self, number: signal.Signals, family: bool = True) -> None:
        if not self.running():
            return
        with contextlib.suppress(psutil.NoSuchProcess):
            child = psutil.Process(self.pid)
            for process in [child, *(child.children(recursive=True) if family else [])]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def _finish(self, timeout_s: float) -> int:
        try:
            code = self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # The guard itself hangs or was paused: what it should have done is done from here.
            family = [*psutil.Process(self._guard.pid).children(recursive=True)]
            for process in [*family, psutil.Process(self._guard.pid)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            code = self._guard.wait()
        for pipe in (self._guard.stdin, self._guard.stdout, self._guard.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return code


def rotate(log: Path) -> None:
    """Keep one old log, so that a long-lived data directory does not fill the disk with them."""
    make_private(log.parent)
    if is_regular(log) and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(log.suffix + ".1"))


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    if not is_regular(log):
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 64 * 1024))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])
