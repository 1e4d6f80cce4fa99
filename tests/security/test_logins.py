"""Logins that end and certificates that are rotated: clients go on without a restart."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
import trustme
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.protocol.metadata import MetadataRequest

from streams import aiokafka_patches
from streams.brokers import Brokers, ReloadingContext, Security, client_options
from tests.security.secured import LOGIN_MS, PLAIN, Secured, SecuredKafka


async def test_a_connection_is_replaced_before_its_login_ends(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker closes a connection at the first request after its login has ended (KIP-368)."""
    broker = secured.broker
    assert isinstance(broker, SecuredKafka)
    monkeypatch.setattr(aiokafka_patches, "RENEW_AFTER", (0.2, 0.25))  # most of the time is left for a slow machine
    client = AIOKafkaClient(**client_options(broker.brokers("nobody", PLAIN, "SCRAM-SHA-256")))
    await client.bootstrap()
    (node,) = [each.nodeId for each in client.cluster.brokers()]
    used: set[int] = set()
    began = time.monotonic()
    try:
        async with asyncio.timeout(90):
            while len(used) < 4 or time.monotonic() < began + 1.5 * LOGIN_MS / 1000:
                await client.send(node, MetadataRequest([]))
                used.add(id(client._conns[node, ConnectionGroup.DEFAULT]))
                await asyncio.sleep(0.1)
    finally:
        await client.close()


def test_rotated_certificates_are_read_before_the_next_connection(tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file, client_pem = tmp_path / "ca.pem", tmp_path / "client.pem"
    authority.cert_pem.write_to_path(str(ca_file))

    def rotate() -> None:
        authority.issue_cert("worker.test").private_key_and_cert_chain_pem.write_to_path(str(client_pem))

    rotate()
    security = Security("SSL", ca_file=ca_file, cert_file=client_pem)
    context = client_options_context(security)
    first = context._stamps
    context.reload_if_changed()
    assert context._stamps == first
    rotate()
    context.reload_if_changed()
    second = context._stamps
    assert second != first and client_options_context(security) is context, "clients that run have it, too"
    client_pem.write_text("half of a new certificate")
    context.reload_if_changed()
    assert context._stamps == second, "it goes on with the one before, and looks again"
    rotate()
    context.reload_if_changed()
    assert context._stamps != second


def client_options_context(security: Security) -> ReloadingContext:
    context = client_options(Brokers("a:1", security))["ssl_context"]
    assert isinstance(context, ReloadingContext)
    return context
