"""Writes the commands that messages name so that they can be pasted into the terminal they appear on."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

#: `faust -A app …`, and `python -m` with a package of this project.
_COMMAND = re.compile(r"(?<![\w/.-])(faust(?= -A app\b)|python(?= -m (?:local|schemas|bench)\b))")


def pasteable(text: str) -> str:
    """The text with each command's program as this process would start it: `.venv/bin/faust -A app topics create`.

    A program that the shell finds by its name is left as it is, as in a virtual environment that is activated.
    """
    return _COMMAND.sub(lambda found: _program(found[1]), text)


def _program(name: str) -> str:
    own = Path(sys.executable) if name == "python" else Path(sys.executable).parent / name
    found = shutil.which(name)
    if not own.exists() or (found is not None and Path(found).samefile(own)):
        return name
    try:
        return str(own.relative_to(Path.cwd()))
    except ValueError:
        return str(own)
