"""A broker that asks who you are -> our clients -> in with what is right, and a plain sentence for each thing wrong."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import trustme
from aiokafka.errors import TopicAuthorizationFailedError
from pytest import mark, param

from streams import admin
from streams.admin import BrokerUnreachable
from streams.brokers import Brokers, NotLetIn, client_options, let_in, told
from tests.security.secured import MUTUAL, PASSWORD, PLAIN, Secured, SecuredKafka


@pytest.fixture(scope="session")
def broker(secured: Secured) -> SecuredKafka:
    assert isinstance(secured.broker, SecuredKafka)
    return secured.broker


@mark.parametrize(
    ("protocol", "mechanism"),
    [
        ("SASL_SSL", "SCRAM-SHA-512"),
        ("SASL_SSL", "SCRAM-SHA-256"),
        ("SASL_PLAINTEXT", "SCRAM-SHA-512"),
        (PLAIN, "PLAIN"),
    ],
)
async def test_every_way_in(broker: SecuredKafka, protocol: str, mechanism: str) -> None:
    assert await admin.partition_counts(broker.brokers("nobody", protocol, mechanism)) == {}, "in, and sees nothing"


async def test_a_certificate_of_ones_own(broker: SecuredKafka) -> None:
    await admin.partition_counts(broker.brokers("", MUTUAL, cert_file=broker.client_pem))
    with pytest.raises(BrokerUnreachable, match=r"refused or cut \(SSL\)"):
        await admin.partition_counts(broker.brokers("", MUTUAL))


@mark.parametrize(
    ("wrong", "said"),
    [
        param({"password": "wrong"}, "SCRAM-SHA-512 as worker.*invalid credentials", id="password"),
        param({"user": "stranger"}, "SCRAM-SHA-512 as stranger.*invalid credentials", id="user"),
        param({"mechanism": "PLAIN"}, "PLAIN as worker.*does not take this mechanism", id="mechanism"),
        param({"ca_file": None}, "certificate is not trusted: unable to get local issuer", id="no CA"),
        param({"ca_file": Path("nowhere.pem")}, "CA file nowhere.pem cannot be read: No such file", id="missing CA"),
        param({"ca_file": Path("README.md")}, "README.md holds no certificate in PEM form", id="CA is no CA"),
        param({"cert_file": Path("nowhere.pem")}, "client certificate nowhere.pem cannot be read", id="certificate"),
        param({"key_file": Path("nowhere.pem")}, "client key nowhere.pem cannot be read", id="key"),
        param({"cert_file": Path("README.md")}, "client certificate README.md .*not in PEM form", id="no certificate"),
    ],
)
async def test_what_is_wrong_is_said_at_once(broker: SecuredKafka, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(NotLetIn, match=said) as caught:
        await admin.partition_counts(broker.brokers(**({"user": "worker"} | wrong)))
    assert PASSWORD not in str(caught.value)


async def test_a_name_that_is_not_the_certificates_is_not_trusted(broker: SecuredKafka) -> None:
    right = broker.brokers("worker")
    other = Brokers(right.addresses.replace("127.0.0.1", "127.0.0.2"), right.security)
    with pytest.raises((NotLetIn, BrokerUnreachable)) as caught:
        await admin.partition_counts(other)
    assert isinstance(caught.value, BrokerUnreachable) or "not valid for" in str(caught.value)


async def test_a_listener_that_expects_something_else(broker: SecuredKafka) -> None:
    """It only hangs up; so what it was asked with is in the error."""
    security = broker.brokers("worker").security
    with pytest.raises(BrokerUnreachable, match=r"refused or cut .SASL_SSL, SCRAM-SHA-512 as worker"):
        await admin.partition_counts(Brokers(broker.bootstrap, security))
    with pytest.raises(BrokerUnreachable, match=r"refused or cut$"):
        await admin.partition_counts(broker.address("SASL_SSL"))


async def test_nobody_there_is_no_question_of_rights(broker: SecuredKafka) -> None:
    await let_in(Brokers("127.0.0.1:1", broker.brokers("worker").security), 1.0)
    await let_in(broker.bootstrap, 1.0)


def test_the_options_say_all_and_repr_keeps_the_password_back(broker: SecuredKafka) -> None:
    brokers = broker.brokers("worker")
    options = client_options(brokers)
    assert options["sasl_plain_password"] == PASSWORD and isinstance(options["ssl_context"], ssl.SSLContext)
    assert options["ssl_context"].check_hostname and options["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert options["ssl_context"] is client_options(brokers)["ssl_context"], "read once"
    assert PASSWORD not in f"{brokers!r} {brokers} {brokers.how} {brokers.security}"
    plain = {"bootstrap_servers": "a:1", "security_protocol": "PLAINTEXT", "connections_max_idle_ms": 300_000}
    assert client_options("a:1") == plain


async def test_postgres_over_tls(secured: Secured, tmp_path: Path) -> None:
    connection = await asyncpg.connect(secured.postgres)
    try:
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        await connection.close()
    other = tmp_path / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncpg.connect(f"{secured.postgres.partition('&sslrootcert')[0]}&sslrootcert={other}")
    with pytest.raises((ConnectionError, asyncpg.PostgresConnectionError)):
        await asyncpg.connect(secured.postgres.partition("?")[0] + "?sslmode=disable")


@mark.parametrize("argument", ["orders", {"orders"}], ids=["of a request", "of metadata"])
def test_what_is_refused_is_named_alike(argument: object) -> None:
    """aiokafka says it in two ways, by which of its requests was refused first."""
    assert told(TopicAuthorizationFailedError(argument)).startswith(
        "TopicAuthorizationFailedError('orders'): this user"
    )
