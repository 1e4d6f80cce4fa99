"""addresses, protocol, user, certificates -> the options of every Kafka client of ours, or why none gets in."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnsupportedSaslMechanismError,
)

from streams import aiokafka_patches, record_batches

log = logging.getLogger(__name__)

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]

#: What a broker, or the handshake with it, says to somebody whom it does not let in.
NOT_LET_IN = (
    AuthenticationFailedError,
    AuthenticationMethodNotSupported,
    IllegalSaslStateError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    ssl.SSLError,
)
#: What a broker says to a user whom it knows and who may not do this.
NOT_ALLOWED = (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)
#: The command that prints what has to be granted.
GRANT = "faust -A app acls"


def told(error: BaseException) -> str:
    """An error for a log line or another error; one of rights says what to do, since to try again does not help."""
    if isinstance(error, NOT_ALLOWED):
        what = f"{type(error).__name__}({_names(error)})"
        return f"{what}: this user has not the right to it; `{GRANT}` prints what it needs"
    return repr(error)


def _names(error: BaseException) -> str:
    """What the error is about; aiokafka gives one name where a request was refused, and a set where metadata were."""
    return ", ".join(
        repr(name) for said in error.args for name in (sorted(said) if isinstance(said, set | frozenset) else [said])
    )


class NotLetIn(Exception):
    """Nothing gets in with these settings: a file that cannot be used, a broker not trusted, a user refused.

    To try again changes nothing. The message says what and where; which setting to mend, whoever knows their names.
    """


@dataclass(frozen=True)
class Security:
    """How brokers are spoken to. `password` is not shown by repr; certificates are files in PEM, keys unencrypted."""

    protocol: Protocol = "PLAINTEXT"
    mechanism: Mechanism = "SCRAM-SHA-512"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def encrypted(self) -> bool:
        return self.protocol in ("SSL", "SASL_SSL")

    @property
    def with_user(self) -> bool:
        return self.protocol in ("SASL_PLAINTEXT", "SASL_SSL")


#: Neither encryption nor a user.
PLAINTEXT = Security()


@dataclass(frozen=True)
class Brokers:
    """A Kafka cluster: where it is and how it is spoken to. As text, its addresses."""

    addresses: str
    security: Security = PLAINTEXT

    def __str__(self) -> str:
        return self.addresses

    @property
    def how(self) -> str:
        """For an error: `SASL_SSL, SCRAM-SHA-512 as orders`."""
        if not self.security.with_user:
            return self.security.protocol
        return f"{self.security.protocol}, {self.security.mechanism} as {self.security.user}"


def as_brokers(brokers: Brokers | str) -> Brokers:
    return Brokers(brokers) if isinstance(brokers, str) else brokers


#: A connection without a request is closed after this long: load balancers and NAT forget it silently after 350 s and
#: less, and the next request would wait for its time-out.
MAX_IDLE_MS = 300_000


def client_options(brokers: Brokers | str) -> dict[str, Any]:
    """What every client connects with; a bare address means neither encryption nor a user. Raises NotLetIn."""
    aiokafka_patches.apply()
    record_batches.install()  # whoever has these options makes a client
    brokers = as_brokers(brokers)
    security = brokers.security
    options: dict[str, Any] = {
        "bootstrap_servers": brokers.addresses,
        "security_protocol": security.protocol,
        "connections_max_idle_ms": MAX_IDLE_MS,
    }
    if security.encrypted:
        options["ssl_context"] = _ssl_context(security)
    if security.with_user:
        options["sasl_mechanism"] = security.mechanism
        options["sasl_plain_username"] = security.user
        options["sasl_plain_password"] = security.password
    return options


@lru_cache(maxsize=4)
def _ssl_context(security: Security) -> ssl.SSLContext:
    """Once for all clients: reading the authorities takes longer than anything else that a client does at its start."""
    return ReloadingContext.of(security)


class ReloadingContext(ssl.SSLContext):
    """A context that reads its files again when they have changed, before the next connection is made.

    So a rotated client certificate needs no restart. A new CA is trusted in addition to the old one, which only a
    restart forgets. Files that do not fit together yet (the certificate is new, the key is not) change nothing.
    """

    _security: Security
    _stamps: tuple[Any, ...]

    @classmethod
    def of(cls, security: Security) -> ReloadingContext:
        """Raises NotLetIn, with the file that cannot be used."""
        _load(ssl.create_default_context(), security)
        context = cls(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_flags = ssl.create_default_context(cafile=security.ca_file).verify_flags
        if security.ca_file is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        _load(context, security)
        context._security, context._stamps = security, _stamps(security)
        return context

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """Called by asyncio for each connection."""
        self.reload_if_changed()
        return super().wrap_bio(*args, **options)

    def reload_if_changed(self) -> None:
        """Tried in another context first: half of a new pair must not end up in this one."""
        if (stamps := _stamps(self._security)) == self._stamps:
            return
        try:
            _load(ssl.create_default_context(), self._security)
            _load(self, self._security)
        except NotLetIn as error:
            log.warning("changed certificate files are not used yet: %s", error)
            return
        self._stamps = stamps
        log.info("certificate files have changed and are read again")


def _stamps(security: Security) -> tuple[Any, ...]:
    """What tells one version of the files from another; a file that is away for a moment has none."""
    found: list[Any] = []
    for path in (security.ca_file, security.cert_file, security.key_file):
        try:
            status = None if path is None else path.stat()
        except OSError:
            status = None
        found.append(status and (status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _load(context: ssl.SSLContext, security: Security) -> None:
    """Raises NotLetIn."""
    _require_file(security.ca_file, "the CA file")
    _require_file(security.cert_file, "the client certificate")
    _require_file(security.key_file, "the client key")
    if security.ca_file is not None:
        try:
            context.load_verify_locations(cafile=security.ca_file)
        except ssl.SSLError as error:
            raise NotLetIn(f"the CA file {security.ca_file} holds no certificate in PEM form: {error}") from None
    if security.cert_file is not None:
        try:
            # Without a password OpenSSL would ask for one on the terminal.
            context.load_cert_chain(security.cert_file, security.key_file, password="")
        except ssl.SSLError as error:
            raise NotLetIn(
                f"the client certificate {security.cert_file} and the key {security.key_file or 'in it'} do not fit"
                f" together, are not in PEM form, or the key is encrypted: {error}"
            ) from None


def _require_file(path: Path | None, what: str) -> None:
    if path is None:
        return
    try:
        path.open("rb").close()
    except OSError as error:
        raise NotLetIn(f"{what} {path} cannot be read: {error.strerror}") from None


async def unresolved(brokers: Brokers | str) -> str | None:
    """The first host that has no address, if none of them has one."""
    hosts: list[str] = [host for host, _, _ in collect_hosts(as_brokers(brokers).addresses)]
    for host in hosts:
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().getaddrinfo(host, None)
            return None
    return sorted(hosts)[0]


async def let_in(brokers: Brokers | str, timeout_s: float) -> None:
    """Ask each address once, after a client found none. Raises NotLetIn with the reason that aiokafka only logs.

    Returns when one lets us in after all, and when none answers: then it is no question of rights.
    """
    brokers = as_brokers(brokers)
    options = client_options(brokers)
    del options["connections_max_idle_ms"]
    for host, port, _ in collect_hosts(options.pop("bootstrap_servers")):
        place = f"{host}:{port}"
        aiokafka_patches.unreachable.reached((host, port))  # its own answer is wanted, whatever it did before
        try:
            connection = await create_conn(host, port, request_timeout_ms=int(timeout_s * 1000), **options)
        except NOT_LET_IN as error:
            raise NotLetIn(f"the broker at {place} and this client ({brokers.how}): {_why(error)}") from error
        except (KafkaError, OSError, TimeoutError):
            continue
        connection.close()
        return


def _why(error: Exception) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return f"the broker's certificate is not trusted: {error.verify_message}"
        case ssl.SSLError():
            return f"they did not agree on TLS: {error.reason or error}"
        case UnsupportedSaslMechanismError():
            return "the broker does not take this mechanism"
        case _:
            return f"the broker refused: {error or type(error).__name__}"
