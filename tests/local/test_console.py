"""Progress of a long start -> stderr: a bar on a terminal, a few lines elsewhere."""

import os
import pty
import subprocess
import sys

from local.console import bar
from tests.processes import ROOT

PROGRAM = """
from local.console import bar
with bar("Kafka", 2_000_000, "MB", 1_000_000) as shown:
    for _ in range(8):
        shown.add(250_000)
"""


def test_off_a_terminal_each_quarter_is_a_line() -> None:
    result = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == ""
    assert result.stderr.splitlines()[0] == "Kafka: 0 of 2 MB" and result.stderr.splitlines()[-1] == "Kafka: 2 of 2 MB"
    assert len(result.stderr.splitlines()) == 4 and "\r" not in result.stderr


def test_on_a_terminal_one_line_is_drawn_over_and_ended() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, stderr=theirs, check=True)
    os.close(theirs)
    drawn = os.read(ours, 65536).decode()
    os.close(ours)
    assert drawn.count("\r") >= 8 and drawn.count("\n") == 1 and drawn.endswith("\n")
    assert "[##############################] 2 of 2 MB" in drawn


def test_a_bar_of_nothing_and_one_that_runs_over_stay_within_their_bounds() -> None:
    with bar("nothing", 0, "MB") as shown:
        shown.add(5)
    assert shown.done == shown.total
