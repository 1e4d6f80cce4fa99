"""A command and a pipe from the parent -> runs the command -> when the pipe closes, nothing of it is left.

Run as a script, one per child process of the stack. The parent holds the other end of this process's stdin and never
writes to it, so it reads end-of-file when the parent is gone, however it went (kill -9 included), or when it asks for
a stop. The child is then stopped politely, and after the grace period killed with everything it started.
"""

import argparse
import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import sys
import time

import psutil

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36


def _prctl(option: int, value: int) -> None:
    """Linux only. Elsewhere the guard still works, but orphans of the child leave it and a killed guard goes unseen."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _die_with_guard() -> None:
    """In the child, after it dropped its privileges: should the guard itself be killed, the kernel kills the child."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _start(options: argparse.Namespace) -> subprocess.Popen[bytes]:
    uid, _, gid = options.user.partition(":")
    os.umask(0o077)  # what the child creates is its user's alone
    # A log that is a symbolic link is refused: it may lead to any file of the user who starts this.
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with os.fdopen(os.open(options.log, flags, 0o600), "ab") as log:
        return subprocess.Popen(
            options.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_guard,
            user=int(uid) if uid else None,
            group=int(gid) if uid else None,
            extra_groups=[] if uid else None,
        )


def _descendants() -> list[psutil.Process]:
    try:
        return psutil.Process().children(recursive=True)
    except psutil.Error:
        return []


def _signal_all(processes: list[psutil.Process], number: int) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            process.send_signal(number)


def _stop(child: subprocess.Popen[bytes], stop_signal: int, grace_s: float) -> None:
    """Politely first. SIGCONT, because a paused process would sleep through the request."""
    family = _descendants()
    child.send_signal(stop_signal)
    _signal_all(family, signal.SIGCONT)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _sweep() -> None:
    """Whatever is left below the guard is killed and reaped, also what outlived its own parent."""
    deadline = time.monotonic() + 10
    while (left := _descendants()) and time.monotonic() < deadline:
        _signal_all(left, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)


class Requests:
    """Signals to this process, turned into something that select can wait for. Made before the child is started: a
    request that comes at once must not find a guard that does not listen yet."""

    def __init__(self) -> None:
        self.stop = False
        self.fd, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: object) -> None:
        self.stop = True


def _wait(child: subprocess.Popen[bytes], requests: Requests) -> bool:
    """True: the child ended by itself. False: the parent is gone, or asked for a stop by closing the pipe."""
    parent = sys.stdin.fileno()
    with selectors.DefaultSelector() as selector:
        selector.register(requests.fd, selectors.EVENT_READ)
        selector.register(parent, selectors.EVENT_READ)
        while child.poll() is None:
            ready = {key.fd for key, _ in selector.select()}
            if requests.fd in ready:
                os.read(requests.fd, 512)
            if requests.stop or (parent in ready and not os.read(parent, 512)):
                return child.poll() is not None
    return True


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", required=True)
    parser.add_argument("--user", default="")
    parser.add_argument("--stop-signal", type=int, default=int(signal.SIGTERM))
    parser.add_argument("--grace-s", type=float, default=20.0)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    requests = Requests()
    child = _start(options)
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.close()
    if not _wait(child, requests):
        _stop(child, options.stop_signal, options.grace_s)
    _sweep()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    os._exit(main())
