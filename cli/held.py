"""`python -m cli.held faust ARGUMENTS` -> the same as `faust ARGUMENTS`, and it ends when its standard input does."""

from __future__ import annotations

import os
import sys
import threading

from faust.cli.faust import cli as faust


def end_with_parent() -> None:
    """A parent that was killed leaves nothing at work."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written to it
    os._exit(1)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    threading.Thread(target=end_with_parent, daemon=True).start()
    faust()
