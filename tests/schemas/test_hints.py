"""A message that names commands -> the same with programs that this shell finds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.hints import pasteable
from tests.processes import ROOT

BIN = Path(sys.executable).parent


def test_programs_get_the_path_that_this_process_was_started_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = "`faust -A app topics create`, (python -m local reset), python -m schemas.settings; faust and python stay"
    assert pasteable(text) == (
        f"`{BIN}/faust -A app topics create`, ({sys.executable} -m local reset), {sys.executable} -m schemas.settings;"
        " faust and python stay"
    )
    assert pasteable(pasteable(text)) == pasteable(text)
    shown = pasteable("python -m schemas.settings")
    ran = subprocess.run(shown, shell=True, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0 and "ORDERSTREAM_KAFKA" in ran.stdout, ran.stderr


def test_below_the_working_directory_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(BIN.parent)
    assert pasteable("faust -A app doctor") == "bin/faust -A app doctor"


def test_what_the_shell_finds_by_itself_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    assert pasteable("faust -A app doctor") == "faust -A app doctor"
