"""Files and directories that only their owner may read, and text without passwords."""

import os
import re
import stat
from pathlib import Path

_PASSWORD = re.compile(r"(\w+://[^:/@\s]*):[^@\s]*@")


def make_private(directory: Path, group: int | None = None) -> None:
    """Make a directory that only its owner may enter. `group`: one that may pass through it, and not list it.

    A directory of another user stays as it is: its owner decides. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory.stat().st_uid != os.geteuid():
        return
    if group is not None:
        os.chown(directory, -1, group)
    directory.chmod(0o700 if group is None else 0o710)


def is_regular(path: Path) -> bool:
    """Whether there is a file of its own, and not a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def masked(address: str) -> str:
    """An address without its password, for people and logs."""
    return _PASSWORD.sub(r"\1:***@", address)
