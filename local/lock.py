"""A lock file -> one owner at a time -> released by the system when the owner and all it gave the lock to are gone."""

import fcntl
import os
import time
from pathlib import Path

from local.errors import LocalError


class Lock:
    """flock on a file. A child that inherits the descriptor holds it too, so "free" means "nothing is left"."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._fd = fd
        return True

    def acquire(self, timeout_s: float) -> None:
        """Wait for an owner that is on its way out, as after a kill of the parent; then give up with a reason."""
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire():
            if time.monotonic() > deadline:
                raise LocalError(
                    f"{self.what} already runs on {self.path.parent}. Stop it (python -m local stop), or use another "
                    "directory (ORDERSTREAM_DATA_DIR)."
                )
            time.sleep(0.1)

    @property
    def held(self) -> bool:
        return self._fd is not None

    def fileno(self) -> int:
        if self._fd is None:
            raise RuntimeError(f"the lock {self.path} is not held")
        return self._fd

    def release(self) -> None:
        """Closes this descriptor only: children that still run keep the lock until they end."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
