"""A port -> free, or taken by a process that the error names."""

import os
import socket

import pytest

from local import ports
from local.errors import LocalError


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
