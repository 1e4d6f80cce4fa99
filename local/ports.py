"""A port number -> free or taken, by whom -> an error that names the setting that moves it."""

import errno
import random
import socket
from pathlib import Path
from tempfile import TemporaryFile

import psutil

from local.errors import LocalError

HOST = "127.0.0.1"
# Below the ports that systems hand out to outgoing connections (32768 up on Linux, 49152 up on macOS): a port found
# free here is not taken by somebody's client between the look and the use.
FREE_RANGE = range(20000, 32000)


def is_free(port: int) -> bool:
    """True when a server could listen on it, on loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: TIME_WAIT does not count
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def find_free(count: int = 1) -> list[int]:
    """`count` different free ports. The caller should use them soon."""
    found: list[int] = []
    for port in random.sample(FREE_RANGE, len(FREE_RANGE)):
        if len(found) == count:
            break
        if is_free(port):
            found.append(port)
    if len(found) < count:
        raise LocalError(f"No {count} free ports between {FREE_RANGE.start} and {FREE_RANGE.stop} on {HOST}.")
    return found


def holder(port: int) -> str | None:
    """Who listens on the port: "java (pid 123)". None where the system does not tell (another user's process)."""
    for process in psutil.process_iter():
        try:
            rows = process.net_connections(kind="tcp")
            if any(row.status == psutil.CONN_LISTEN and row.laddr and row.laddr.port == port for row in rows):
                return f"{process.name()} (pid {process.pid})"
        except psutil.Error:
            continue
    return None


def find_free_run(count: int) -> int:
    """The first of `count` free ports in a row."""
    for first in random.sample(FREE_RANGE, len(FREE_RANGE)):
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise LocalError(f"No {count} free ports in a row between {FREE_RANGE.start} and {FREE_RANGE.stop} on {HOST}.")


def require_free(port: int, what: str, setting: str, in_a_row: int = 1) -> None:
    """Raise LocalError when the port is taken. `in_a_row`: how many ports, from the setting's on, have to be free."""
    if is_free(port):
        return
    who = holder(port)
    free = "to a free port," if in_a_row == 1 else f"to the first of {in_a_row} free ports in a row,"
    taken = f"by {who}" if who else "by a process that this user may not see"
    raise LocalError(
        f"{what} cannot listen on port {port} of {HOST}: it is taken {taken}. Stop that process, or set {setting} "
        f"{free} for example {setting}={find_free_run(in_a_row)}."
    )


def why_no_worker(port: int, state_dir: Path) -> str | None:
    """Why no worker can start with this port of HTTP and this directory for its stores; None when one can."""
    try:
        require_free(port, "The worker's HTTP server", "ORDERSTREAM_WEB_PORT")
        state_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=state_dir):
            pass
    except LocalError as error:
        return str(error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = (
                f"{state_dir} is on a disk that is full: free some space, or set ORDERSTREAM_DATA_DIR to another disk"
            )
            return f"A worker cannot keep its stores: {free}."
        return (
            f"A worker cannot keep its stores in {state_dir}: {error.strerror}. Let this user write there, or set"
            " ORDERSTREAM_DATA_DIR to another directory."
        )
    return None
