"""Files of the embedded stack: nobody else reads them, links are not followed, signals go to its own process only."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from local.private import make_private, masked
from local.process import Child, rotate, tail
from local.stack import STACK_FILE, running


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_directory_is_its_owners_and_becomes_so_again(tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    make_private(directory)
    assert mode(directory) == 0o700
    directory.chmod(0o755)
    make_private(directory)
    assert mode(directory) == 0o700
    make_private(directory, os.getgid())
    assert mode(directory) == 0o710


def test_what_a_guarded_process_creates_is_its_users_alone(tmp_path: Path) -> None:
    made, log = tmp_path / "made", tmp_path / "logs" / "x.log"
    program = f"import os; open({str(made)!r}, 'w').close(); os.mkdir({str(made)!r} + '.d')"
    Child.start("a child", [sys.executable, "-c", program], log).wait(60)
    assert (mode(made), mode(made.with_suffix(".d"))) == (0o600, 0o700)
    assert (mode(log), mode(log.parent)) == (0o600, 0o700)


def test_a_log_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim, log = tmp_path / "victim", tmp_path / "logs" / "x.log"
    victim.write_text("planted-s3cret")
    log.parent.mkdir()
    log.symlink_to(victim)
    with pytest.raises(Exception, match="Could not start"):
        Child.start("a child", [sys.executable, "-c", "print('written')"], log)
    assert victim.read_text() == "planted-s3cret" and tail(log) == ""
    rotate(log)
    assert victim.read_text() == "planted-s3cret"


def stack_file(directory: Path, process: psutil.Process) -> Path:
    file = directory / STACK_FILE
    said = {"kafka": "k", "postgres": "p", "pid": process.pid, "started_at": process.create_time()}
    file.write_text(json.dumps(said))
    return file


def test_only_a_process_of_the_files_owner_is_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        process = psutil.Process(child.pid)
        file = stack_file(tmp_path, process)
        assert running(tmp_path) is not None
        uids = process.uids()
        monkeypatch.setattr(psutil.Process, "uids", lambda _: uids._replace(real=uids.real + 1))
        assert running(tmp_path) is None, "another user's process"
        monkeypatch.undo()
        other = tmp_path / "other.json"
        file.rename(other)
        file.symlink_to(other)
        assert running(tmp_path) is None, "a link"
        file.unlink()
        file.write_text(other.read_text().replace('"started_at": ', '"started_at": 1'))
        assert running(tmp_path) is None, "another process has the pid by now"
    finally:
        child.kill()
        child.wait()


def test_addresses_are_shown_without_their_password() -> None:
    assert masked("postgresql://orderstream:s3cret%2F@127.0.0.1:1/x") == "postgresql://orderstream:***@127.0.0.1:1/x"
    assert masked("127.0.0.1:9092") == "127.0.0.1:9092"
