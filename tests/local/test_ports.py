"""A port -> free, or taken by a process that the error names."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from local import ports
from local.errors import LocalError
from tests.processes import ROOT


def test_a_taken_port_is_reported_with_its_holder_and_the_setting_that_moves_it() -> None:
    with socket.socket() as taken:
        taken.bind((ports.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(LocalError) as caught:
            ports.require_free(port, "Kafka", "ORDERSTREAM_KAFKA_PORT")
    text = str(caught.value)
    assert f"port {port}" in text and f"pid {os.getpid()}" in text and "ORDERSTREAM_KAFKA_PORT=" in text
    assert ports.is_free(port)


def test_a_server_on_every_address_takes_the_port_too() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        assert not ports.is_free(taken.getsockname()[1])


def test_a_port_whose_connections_linger_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java and PostgreSQL do
        server.bind((ports.HOST, 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection((ports.HOST, port)):
            accepted, _ = server.accept()
            accepted.close()  # the side that closes first keeps the pair in TIME_WAIT
    assert ports.is_free(port)


def test_free_ports_differ_and_can_be_used() -> None:
    found = ports.find_free(20)
    assert len(set(found)) == 20
    assert all(port in ports.FREE_RANGE and ports.is_free(port) for port in found)


def test_what_keeps_a_worker_from_starting_is_said_before_anything_runs(tmp_path: Path) -> None:
    port = ports.find_free()[0]
    assert ports.why_no_worker(port, tmp_path / "new" / "state") is None
    assert (tmp_path / "new" / "state").is_dir()
    (tmp_path / "file").write_text("no directory")
    unwritable = ports.why_no_worker(port, tmp_path / "file" / "state")
    assert unwritable is not None and "Not a directory" in unwritable and "ORDERSTREAM_DATA_DIR" in unwritable
    with socket.socket() as taken:
        taken.bind((ports.HOST, port))
        taken.listen()
        said = ports.why_no_worker(port, tmp_path)
    assert said is not None and f"port {port}" in said and f"(pid {os.getpid()})" in said
    assert "ORDERSTREAM_WEB_PORT=" in said


def test_a_worker_that_cannot_start_says_why_in_its_last_line(tmp_path: Path) -> None:
    port = ports.find_free()[0]
    env = {**os.environ, "ORDERSTREAM_KAFKA": "no-such-host.invalid:9092", "ORDERSTREAM_DATA_DIR": str(tmp_path)}
    worker = [sys.executable, "-m", "faust", "-A", "app", "worker", "--web-port", str(port)]
    unknown = subprocess.run(worker, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert unknown.returncode != 0 and "the name no-such-host.invalid cannot be resolved" in unknown.stderr
    with socket.socket() as taken:
        taken.bind((ports.HOST, port))
        taken.listen()
        refused = subprocess.run(worker, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert refused.returncode != 0 and "Traceback" not in refused.stderr
    *lines, last = refused.stderr.strip().splitlines()
    assert last.startswith(f"The worker's HTTP server cannot listen on port {port}")
    assert any(json.loads(line)["event"] == f"the worker cannot start: {last}" for line in lines), "and as a record"
