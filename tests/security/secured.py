"""A directory -> a real Kafka with TLS, users and rights; PostgreSQL behind TLS -> what a deployment would have."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from cli.acls import command_lines
from local.jars import cache_dir
from local.kafka import Kafka
from local.ports import HOST, find_free
from streams.brokers import Brokers, Security
from streams.rights import Resource, Right
from tests.processes import RunningStack

#: Nobody else's: it is looked for in logs.
PASSWORD = "planted-S3cret-of-the-broker"
SCRAM, PLAIN, MUTUAL = "SASL_SSL", "SASL_PLAINTEXT", "SSL"
MODULES = "org.apache.kafka.common.security"
RESOURCES = {
    Resource.TOPIC: ResourceType.TOPIC,
    Resource.GROUP: ResourceType.GROUP,
    Resource.TRANSACTIONAL_ID: ResourceType.TRANSACTIONAL_ID,
}


#: How long a login with SCRAM-SHA-256 over SASL_PLAINTEXT lasts.
LOGIN_MS = 8_000


class SecuredKafka(Kafka):
    """An open listener for the tests themselves, as a superuser; the others let in whom they know, to what is granted.

    SASL_SSL knows SCRAM, SASL_PLAINTEXT knows PLAIN and SCRAM, SSL wants a certificate of ours.
    """

    def __init__(self, directory: Path, users: Iterable[str]) -> None:
        plaintext, *ports = find_free(4)
        super().__init__(directory, plaintext, cache=cache_dir(None), log=directory / "kafka.log")
        self.ports = dict(zip((SCRAM, PLAIN, MUTUAL), ports, strict=True))
        self.users = list(users)
        self.format_options = [
            word
            for user in self.users
            for mechanism in ("SCRAM-SHA-512", "SCRAM-SHA-256")
            for word in ("--add-scram", f"{mechanism}=[name={user},password={PASSWORD}]")
        ]
        self.authority = trustme.CA()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca_file, self.client_pem = self.directory / "ca.pem", self.directory / "client.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        # Kafka reads keys of PKCS 8 only; trustme writes the older form.
        _pkcs8(self.authority.issue_cert(HOST, "localhost"), self.directory / "broker.pem")
        self.authority.issue_cert("worker.test").private_key_and_cert_chain_pem.write_to_path(str(self.client_pem))

    def _java(self, options: Sequence[str], main_class: str, *arguments: str) -> list[str]:
        """It lives for two minutes: the quick compiler alone takes half the CPU."""
        return super()._java((*options, "-XX:TieredStopAtLevel=1"), main_class, *arguments)

    def properties(self, controller: int) -> dict[str, str]:
        plain = super().properties(controller)
        ours = ",".join(f"{name}://{HOST}:{port}" for name, port in self.ports.items())
        users = " ".join(f'user_{user}="{PASSWORD}"' for user in self.users)
        plain_login = f"{MODULES}.plain.PlainLoginModule required {users};"
        scram = f"{MODULES}.scram.ScramLoginModule required;"
        return plain | {
            "listeners": f"{plain['listeners']},{ours}",
            "advertised.listeners": f"{plain['advertised.listeners']},{ours}",
            "listener.security.protocol.map": ",".join(f"{name}:{name}" for name in ("PLAINTEXT", SCRAM, PLAIN, MUTUAL))
            + ",CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms": "SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.sasl_plaintext.plain.sasl.jaas.config": plain_login,
            "listener.name.sasl_plaintext.scram-sha-512.sasl.jaas.config": scram,
            "listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config": scram,
            # Only here a login ends: test_logins.py.
            "listener.name.sasl_plaintext.scram-sha-256.connections.max.reauth.ms": str(LOGIN_MS),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": "broker.pem",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": "ca.pem",
            "listener.name.ssl.ssl.client.auth": "required",
        }

    def address(self, protocol: str) -> str:
        return f"{HOST}:{self.ports[protocol]}"

    def brokers(self, user: str, protocol: str = SCRAM, mechanism: str = "SCRAM-SHA-512", **more: object) -> Brokers:
        """How this user comes in; `more` replaces what is right by what is not."""
        values: dict[str, object] = {"protocol": protocol}
        if protocol != MUTUAL:
            values |= {"mechanism": mechanism, "user": user, "password": PASSWORD}
        if protocol != PLAIN:
            values |= {"ca_file": self.ca_file}
        return Brokers(self.address(protocol), Security(**(values | more)))  # type: ignore[arg-type]

    def grant(self, user: str, rights: Iterable[Right]) -> None:
        """By the broker's own API, which takes a moment; kafka-acls.sh takes a Java process for each line."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        bindings = [
            AclBinding(
                RESOURCES[right.resource],
                right.name,
                ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL,
                f"User:{user}",
                "*",
                getattr(AclOperation, _upper(operation)),
                AclPermissionType.ALLOW,
            )
            for right in rights
            for operation in right.operations
        ]
        for future in admin.create_acls(bindings).values():
            future.result(timeout=20)

    def revoke(self, user: str) -> None:
        """Every right of this user."""
        every = AclBindingFilter(
            ResourceType.ANY,
            None,  # type: ignore[arg-type]  # any name
            ResourcePatternType.ANY,
            f"User:{user}",
            None,  # type: ignore[arg-type]  # any host
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        admin = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        for future in admin.delete_acls([every]).values():
            future.result(timeout=20)

    def grant_by_tool(self, user: str, rights: Iterable[Right]) -> None:
        """By running the lines that the command prints, with Kafka's own tool."""
        for line in command_lines(rights, f"User:{user}", self.bootstrap):
            script, *arguments = _words(line)
            assert script == "kafka-acls.sh"
            ran = subprocess.run(
                self.tool("org.apache.kafka.tools.AclCommand", *arguments), capture_output=True, text=True, timeout=180
            )
            assert ran.returncode == 0 and "Error" not in ran.stdout, ran.stdout + ran.stderr


def _pkcs8(certificate: trustme.LeafCert, path: Path) -> None:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        load_pem_private_key,
    )

    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + chain)


def _upper(operation: str) -> str:
    """DescribeConfigs -> DESCRIBE_CONFIGS"""
    return "".join(f"_{letter}" if letter.isupper() else letter for letter in operation).lstrip("_").upper()


def _words(line: str) -> list[str]:
    import shlex

    return shlex.split(line)


@dataclass(frozen=True)
class Secured(RunningStack):
    """A stack whose workers and commands come in as `user`, over TLS with SCRAM, and reach PostgreSQL over TLS."""

    user: str = "worker"
    more: Mapping[str, str] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        assert isinstance(self.broker, SecuredKafka)
        secret = self.data_dir / "kafka-password"
        secret.write_text(PASSWORD + "\n")
        return super().env | {
            "ORDERSTREAM_KAFKA": self.broker.address(SCRAM),
            "ORDERSTREAM_KAFKA_SECURITY_PROTOCOL": SCRAM,
            "ORDERSTREAM_KAFKA_USER": self.user,
            "ORDERSTREAM_KAFKA_PASSWORD_FILE": str(secret),
            "ORDERSTREAM_KAFKA_CA_FILE": str(self.broker.ca_file),
            **self.more,
        }


@contextlib.contextmanager
def tls_before_postgres(dsn: str, certificate: trustme.LeafCert) -> Iterator[int]:
    """A port that takes nothing but TLS and hands on to the embedded PostgreSQL, which was built without it.

    PostgreSQL's own protocol: an SSLRequest of 8 bytes, the answer S, then the handshake.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    place = urlsplit(dsn)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(1 << 16):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            asked = await reader.readexactly(8)
            if asked != bytes.fromhex("0000000804d2162f"):  # somebody who wants to speak in the clear
                writer.close()
                return
            writer.write(b"S")
            await writer.drain()
            await writer.start_tls(context)
            behind, to_behind = await asyncio.open_connection(place.hostname, place.port)
            await asyncio.gather(copy(reader, to_behind), copy(behind, writer))

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(serve, HOST, 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
