"""ORDERSTREAM_ environment variables -> checked once at the start -> one frozen settings object.

To add a setting: one annotated field with its default and a description that gives unit and reason. The variable's
name, its check, the error message and `python -m schemas.settings` (the reference table) follow from it.
"""

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, SecretStr, TypeAdapter, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.hints import pasteable
from schemas.masters import read_masters
from schemas.provider import ProviderUrl

PREFIX = "ORDERSTREAM_"
#: Characters of a key that secrets are made from.
LEAST_KEY = 32

#: A version's name: it becomes part of the names of topics, groups and directories.
VERSION = r"^[a-z0-9]{0,16}$"

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?|\[?[0-9a-f:.]+\]?")
_ORIGIN = re.compile(r"https?://([a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")

Port = Annotated[int, Field(ge=1, le=65535)]
Count = Annotated[int, Field(ge=1)]
Milliseconds = Annotated[int, Field(ge=0)]
Bytes = Annotated[int, Field(ge=1)]


class SettingsError(ValueError):
    """A variable that is unknown or has a bad value. The text names each and says what is allowed."""


class Settings(BaseSettings):
    """Everything that can be set from outside. Read with `load()`, which explains what is wrong."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)

    # Where things are
    data_dir: Path = Field(
        Path(".data"), description="Directory of the embedded stack, the workers' stores and the logs."
    )
    cache_dir: Path | None = Field(
        None, description="Where Kafka's jars are kept (45 MB). Unset: the user's own cache directory."
    )
    version: Annotated[str, Field(pattern=VERSION)] = Field(
        "", description="Names a version of the tables beside others, for blue and green. Only one of them is live."
    )
    kafka: str | None = Field(
        None, description="Bootstrap servers, host:port[,host:port…]. Unset: the embedded Kafka of data_dir."
    )
    postgres: str | None = Field(
        None, repr=False, description="PostgreSQL DSN for the sink. Unset: the embedded PostgreSQL of data_dir."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="How brokers are spoken to: with TLS (SSL), with a user (SASL), with both."
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="How the user proves who it is. SCRAM never sends the password; PLAIN does."
    )
    kafka_user: str | None = Field(None, description="The user that brokers know this application by (SASL).")
    kafka_password: SecretStr | None = Field(None, description="That user's password. Shown nowhere.")
    kafka_password_file: Path | None = Field(
        None, description="A file that holds the password, as a mounted secret does. Instead of kafka_password."
    )
    kafka_ca_file: Path | None = Field(
        None, description="The authorities that brokers' certificates are checked against, PEM. Unset: the system's."
    )
    kafka_cert_file: Path | None = Field(None, description="This client's own certificate, PEM, where brokers ask.")
    kafka_key_file: Path | None = Field(
        None, description="The certificate's private key, PEM, not encrypted. Unset: it is in kafka_cert_file."
    )
    kafka_port: Port = Field(9092, description="Port of the embedded Kafka, on loopback. Kafka's usual port.")
    kafka_brokers: Literal[1, 3] = Field(
        1, description="Brokers of the embedded Kafka: 3 listen on kafka_port and the two ports after it."
    )
    postgres_port: Port = Field(
        15432, description="Port of the embedded PostgreSQL, on loopback. Not 5432, which a system server often has."
    )

    # The window
    web_host: str = Field(
        "127.0.0.1", description="Address that a worker's HTTP server listens on. Loopback, until somebody decides."
    )
    web_port: Port = Field(6066, description="Port of a worker's HTTP server. Faust's usual port.")
    web_url: str | None = Field(
        None,
        description="URL under which other workers reach this one, to forward reads. Unset: http://web_host:web_port.",
    )
    web_allowed_hosts: str | None = Field(
        None,
        description="Further names under which callers address this worker (Host header), comma between: those of a"
        " proxy. Loopback, web_host and the host of web_url are always allowed; others are answered 421.",
    )
    web_cors_origins: str | None = Field(
        None,
        description="Origins whose pages may use the HTTP API, as https://shop.example, comma between. Unset: none.",
    )
    web_cursor_key: SecretStr | None = Field(
        None,
        description="What cursors of lists are signed with, 32 characters or more, the same on every worker. Unset:"
        " what webhook_keys says; without either, a cursor can be made by anybody. Shown nowhere.",
    )
    max_connections: Count = Field(
        1_024,
        description="Most HTTP connections; half of the process's open files (ulimit -n) at most. Beyond it the one"
        " that has been idle longest is closed.",
    )
    max_requests: Count = Field(
        512, description="Most HTTP requests under way at the same time; others are answered 503 with Retry-After."
    )
    header_timeout_ms: Annotated[int, Field(ge=100)] = Field(
        10_000, description="A connection that has not sent a request's whole header after this is closed, in ms."
    )
    max_request_bytes: Bytes = Field(
        1024 * 1024, description="Largest HTTP request body, in bytes. Equal to the largest record of the topic orders."
    )
    max_json_depth: Count = Field(
        32, description="Deepest nesting of a JSON body. An order has 3 levels; a parser's stack should not be tested."
    )
    outcome_wait_ms: Milliseconds = Field(
        5_000, description="How long a POST waits for the outcome before it answers 202, in ms. A commit takes 10-50."
    )
    request_timeout_ms: Milliseconds = Field(
        15_000, description="Longest time for one HTTP request, in ms. Above outcome_wait_ms and a forwarded read."
    )
    idle_connection_ms: Annotated[int, Field(ge=100)] = Field(
        75_000,
        description="An HTTP connection without a whole request is closed after this, in ms. Above a proxy's 60 s.",
    )

    as_of_max_records: Count = Field(
        100_000,
        description="Events that a read of the past may look at to find a position among them; a handful suffices when"
        " times ascend.",
    )

    # Orders that are bought here
    pay_within_ms: Milliseconds = Field(
        15 * 60_000, description="An order that is not paid within this time ends, in ms: stock and money are freed."
    )
    approve_after_ms: Annotated[int, Field(ge=-1)] = Field(
        0, description="A paid order is approved by itself after this, in ms. 0: at once; -1: never, only by hand."
    )
    return_within_ms: Milliseconds = Field(
        14 * 24 * 3_600_000, description="A delivered order is complete after this, in ms: nothing can be returned."
    )

    orders_per_customer: Annotated[int, Field(ge=0, le=1_000)] = Field(
        0, description="Most carts that one customer may place over HTTP in orders_window_ms, else 429. 0: any number."
    )
    orders_window_ms: Annotated[int, Field(ge=1_000, le=31 * 24 * 3_600_000)] = Field(
        60_000, description="The span that orders_per_customer is for, in ms; it slides, by the time of the records."
    )

    # Topics
    partitions: Count = Field(
        4,
        description="Partitions of each topic at creation: the most workers that can share the work. Fixed later.",
    )
    replication_factor: Count = Field(
        1,
        description="Copies of each topic at creation: 3 on a cluster (set by itself with 3 embedded brokers).",
    )

    # The engine
    group_instance_id: str | None = Field(
        None, description="Static membership: a restart within the session keeps its partitions. Unique per worker."
    )
    session_timeout_ms: Annotated[int, Field(ge=1_000)] = Field(
        6_000, description="A worker unheard of for this long loses its partitions, in ms. Lower fails over sooner."
    )
    max_stall_ms: Annotated[int, Field(ge=1_000)] = Field(
        60_000, description="A worker whose event loop stands still for this long loses its partitions, in ms."
    )
    standby_replicas: Annotated[int, Field(ge=0)] = Field(
        0, description="Copies of each store kept warm on other workers. 1 keeps a failover short, at twice the disk."
    )
    audit_every_s: Annotated[float, Field(ge=0)] = Field(
        0, description="Seconds between two slices of its tables that a worker compares with the changelogs. 0: none."
    )
    batch_max_records: Count = Field(
        2_000, description="Most records in one transaction. Above it throughput no longer grows; latency does."
    )
    fetch_max_wait_ms: Milliseconds = Field(
        5,
        description="How long a fetch may wait for records, in ms; 100 at least while idle. 5 is best at 1,000/s.",
    )
    commit_interval_ms: Annotated[int, Field(ge=0)] = Field(
        0, description="Pause between two transactions of a task, in ms. Above 0 orders wait as long and cost less CPU."
    )
    retry_backoff_ms: Annotated[int, Field(ge=1)] = Field(
        3, description="Pause before the producer asks again inside a transaction, in ms. 100, the default, is the p99."
    )
    transaction_timeout_ms: Annotated[int, Field(ge=1_000)] = Field(
        15_000, description="The broker aborts a transaction that is open for longer, in ms. Readers wait for no more."
    )

    # Personal data
    seal: bool = Field(
        False, description="Seal personal data of orders with a key for each customer, which `erase` destroys."
    )
    seal_master_key_file: Path | None = Field(
        None,
        description="A file with the key that wraps customers' keys: 32 bytes in base64 (openssl rand -base64 32); a"
        " newer one on a line before it.",
    )

    # The sink
    sink: bool = Field(True, description="Write orders, events and dead letters to PostgreSQL as well.")

    # The payment provider
    provider_url: ProviderUrl | None = Field(
        None, description="URL of the outside payment service. Unset: the sandbox of data_dir, if it runs, or none."
    )
    provider_secret: SecretStr | None = Field(
        None,
        description="What requests to the provider, and its callbacks, are signed with; while it is exchanged the new"
        " and the old one, comma between. Shown nowhere.",
    )
    provider_callback_secret: SecretStr | None = Field(
        None, description="What the provider's callbacks are signed with. Unset: provider_secret. Shown nowhere."
    )
    provider_timeout_ms: Annotated[int, Field(ge=1)] = Field(
        5_000, description="Longest time for one request to the provider, in ms."
    )
    provider_attempts: Count = Field(
        6, description="Requests before the provider counts as unreachable, 0.2 to 5 s apart: about 40 s at the worst."
    )
    provider_keys_kept_ms: Milliseconds = Field(
        24 * 3600 * 1000,
        description="How long the provider knows an Idempotency-Key again, in ms. What is older is not sent again.",
    )
    callback_window_ms: Milliseconds = Field(
        300_000, description="How far the time of a callback's signature may be from now, in ms. Bounds replays."
    )
    sandbox_port: Port = Field(16080, description="Port of the sandbox payment service, on loopback.")

    # Carriers
    carrier: Literal["sandbox", "topic", "none"] = Field(
        "sandbox",
        description="Who fetches packed orders. sandbox: that of data_dir, if it runs; topic: whoever reads"
        " shipping.events; none: nobody, shipments are told over HTTP.",
    )
    carrier_answer_within_ms: Annotated[int, Field(ge=100)] = Field(
        60_000, description="A carrier that has not answered within this time is asked again, in ms."
    )
    carrier_asks: Annotated[int, Field(ge=1, le=100)] = Field(
        5, description="How often, before it is given up and what it should have fetched is free again."
    )
    carrier_hold_ms: Milliseconds = Field(
        60_000, description="How long what a carrier says too early waits for what has to come before it, in ms."
    )

    # Webhooks
    webhook_keys: SecretStr | None = Field(
        None,
        description="What webhooks' secrets are made from: keys of 32 characters or more, comma between, the newest"
        " first. Unset: a key in data_dir with the embedded Kafka, else no webhooks. Shown nowhere.",
    )
    webhook_loopback: bool = Field(
        False, description="Deliver to this machine too, over plain HTTP if need be. For development only."
    )
    webhook_timeout_ms: Annotated[int, Field(ge=1)] = Field(
        10_000, description="Longest time for one attempt to deliver to a webhook, in ms."
    )
    webhook_attempts: Annotated[int, Field(ge=1, le=50)] = Field(
        12, description="Attempts before a delivery is given up. 12 with pauses from 5 s to 6 h take most of a day."
    )
    webhook_first_pause_ms: Annotated[int, Field(ge=1, le=24 * 3_600_000)] = Field(
        5_000, description="Pause after the first failed attempt, in ms. Each further one is three times as long."
    )

    # Logs
    log_format: Literal["auto", "json", "console"] = Field(
        "auto",
        description="json: one object per line, for a log collector. console: for a person. auto: console on a"
        " terminal, json elsewhere.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level logged.")

    @classmethod
    def load(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> "Settings":
        """Read the environment (the process's own by default); raises SettingsError that names every bad variable."""
        source = os.environ if environment is None else environment
        given = {name[len(PREFIX) :].lower(): value for name, value in source.items() if name.startswith(PREFIX)}
        given = _with_secret_files(given)
        unknown = sorted(set(given) - set(cls.model_fields))
        if unknown:
            raise SettingsError("\n".join(_unknown(name) for name in unknown))
        # Every field is given, so that nothing but `environment` is read.
        values: dict[str, Any] = {name: field.default for name, field in cls.model_fields.items()}
        values |= {name: value for name, value in given.items() if value != ""}
        try:
            loaded = cls(**(values | overrides))
        except ValidationError as error:
            raise SettingsError("\n".join(_bad(dict(fault)) for fault in error.errors())) from None
        loaded = loaded.model_copy(update={"kafka_password": _kafka_password(loaded)})
        _require_fitting_security(loaded)
        _require_dsn(loaded.postgres)
        _require_long_keys(loaded)
        loaded.masters_of_seals()
        loaded.allowed_hosts(), loaded.cors_origins()
        if (loaded.provider_url is None) != (loaded.provider_secret is None):
            raise SettingsError(f"{PREFIX}PROVIDER_URL and {PREFIX}PROVIDER_SECRET belong together: set both, or none.")
        return loaded

    @classmethod
    def load_or_exit(cls) -> "Settings":
        """For a program's first line: a person who mistyped a variable needs the sentence, not a traceback."""
        try:
            return cls.load()
        except SettingsError as error:
            print(pasteable(f"error: {error}"), file=sys.stderr)
            raise SystemExit(2) from None

    def kafka_security(self) -> dict[str, Any]:
        """What a client needs besides addresses, the password in the clear: for the client, not for a log."""
        return {
            "protocol": self.kafka_security_protocol,
            "mechanism": self.kafka_sasl_mechanism,
            "user": self.kafka_user,
            "password": self.kafka_password.get_secret_value() if self.kafka_password else None,
            "ca_file": self.kafka_ca_file,
            "cert_file": self.kafka_cert_file,
            "key_file": self.kafka_key_file,
        }

    def keys_of_webhooks(self) -> tuple[bytes, ...]:
        """The keys in the clear, the newest first."""
        given = self.webhook_keys.get_secret_value() if self.webhook_keys else ""
        return tuple(key.strip().encode() for key in given.split(",") if key.strip())

    def masters_of_seals(self) -> tuple[bytes, ...]:
        """The master keys in the clear, the newest first; none: nothing is sealed. Raises SettingsError."""
        file = self.seal_master_key_file
        name = f"{PREFIX}SEAL_MASTER_KEY_FILE"
        if self.seal and file is None:
            raise SettingsError(
                f"{PREFIX}SEAL=true needs {name}: a file that every process can read, and nobody else."
                " `openssl rand -base64 32` makes its content."
            )
        if file is None:
            return ()
        if not self.seal:
            raise SettingsError(f"{name} is not used without {PREFIX}SEAL=true: set that, or unset it.")
        try:
            return read_masters(file.read_text())
        except OSError as error:
            raise SettingsError(f"{name}={file} cannot be read: {error.strerror}.") from None
        except ValueError as error:
            raise SettingsError(f"{name}={file}: {error}.") from None

    def allowed_hosts(self) -> frozenset[str]:
        """Names in `web_allowed_hosts`, in lower case. Raises SettingsError."""
        hosts = frozenset(part.strip().lower().rstrip(".") for part in (self.web_allowed_hosts or "").split(","))
        bad = sorted(host for host in hosts if host and not _HOST.fullmatch(host))
        if bad:
            raise SettingsError(
                f"{PREFIX}WEB_ALLOWED_HOSTS: {bad[0]!r} is not a host name; give names without scheme and port,"
                " such as shop.example."
            )
        return hosts - {""}

    def cors_origins(self) -> frozenset[str]:
        """Origins in `web_cors_origins`, in lower case. Raises SettingsError."""
        origins = frozenset(part.strip().lower().rstrip("/") for part in (self.web_cors_origins or "").split(","))
        bad = sorted(origin for origin in origins if origin and not _ORIGIN.fullmatch(origin))
        if bad:
            raise SettingsError(
                f"{PREFIX}WEB_CORS_ORIGINS: {bad[0]!r} is not an origin; give scheme, host and port, such as"
                " https://shop.example. A wildcard would let every page write."
            )
        return origins - {""}

    @property
    def url(self) -> str:
        """Where other workers, and people on this machine, reach this worker."""
        return self.web_url or f"http://{self.web_host}:{self.web_port}"


#: Settings whose value may be in a file that <name>_FILE names, as a mounted secret is. kafka_password has its own.
IN_FILES = ("postgres", "provider_secret", "provider_callback_secret", "webhook_keys", "web_cursor_key")


def _with_secret_files(given: dict[str, str]) -> dict[str, str]:
    """The settings with the contents of files in the place of their names. Raises SettingsError."""
    found = dict(given)
    for name in IN_FILES:
        file = found.pop(f"{name}_file", "")
        if not file:
            continue
        variable = f"{PREFIX}{name.upper()}"
        if found.get(name):
            raise SettingsError(f"{variable} and {variable}_FILE are both set: unset one.")
        try:
            found[name] = Path(file).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is no text"
            raise SettingsError(f"{variable}_FILE={file} cannot be read: {why}.") from None
        if not found[name]:
            raise SettingsError(f"{variable}_FILE={file} is empty.")
    return found


def _kafka_password(settings: Settings) -> SecretStr | None:
    """The password, given or in its file. Raises SettingsError."""
    given, file = settings.kafka_password, settings.kafka_password_file
    if given is not None and file is not None:
        raise SettingsError(f"{PREFIX}KAFKA_PASSWORD and {PREFIX}KAFKA_PASSWORD_FILE are both set: unset one.")
    if file is None:
        return given
    try:
        return SecretStr(file.read_text().rstrip("\r\n"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SettingsError(f"{PREFIX}KAFKA_PASSWORD_FILE={file} cannot be read: {why}.") from None


def _require_fitting_security(settings: Settings) -> None:
    """Raise SettingsError for what is missing, and for what would not be used: it would look safer than it is."""
    protocol = f"{PREFIX}KAFKA_SECURITY_PROTOCOL={settings.kafka_security_protocol}"
    with_user = settings.kafka_security_protocol.startswith("SASL")
    encrypted = settings.kafka_security_protocol.endswith("SSL")
    password = settings.kafka_password is not None
    files = settings.kafka_ca_file or settings.kafka_cert_file or settings.kafka_key_file
    if (with_user or encrypted) and settings.kafka is None:
        raise SettingsError(f"{protocol} needs {PREFIX}KAFKA: the embedded broker has neither TLS nor users.")
    if with_user and not (settings.kafka_user and password):
        raise SettingsError(
            f"{protocol} needs {PREFIX}KAFKA_USER, and {PREFIX}KAFKA_PASSWORD or {PREFIX}KAFKA_PASSWORD_FILE."
        )
    if not with_user and (settings.kafka_user or password):
        raise SettingsError(
            f"{PREFIX}KAFKA_USER and its password are not used with {protocol}: set that to SASL_SSL (or"
            " SASL_PLAINTEXT), or unset them."
        )
    if not encrypted and files:
        raise SettingsError(
            f"{PREFIX}KAFKA_CA_FILE, _CERT_FILE and _KEY_FILE are not used with {protocol}: set that to SSL or"
            " SASL_SSL, or unset them."
        )
    if settings.kafka_key_file and not settings.kafka_cert_file:
        raise SettingsError(f"{PREFIX}KAFKA_KEY_FILE needs {PREFIX}KAFKA_CERT_FILE, the certificate it belongs to.")


def _require_long_keys(settings: Settings) -> None:
    """Raise SettingsError, without a word of them, for keys that somebody could guess."""
    if any(len(key) < LEAST_KEY for key in settings.keys_of_webhooks()):
        raise SettingsError(
            f"{PREFIX}WEBHOOK_KEYS: each key must have {LEAST_KEY} characters or more;"
            " `openssl rand -base64 32` makes one."
        )
    if settings.web_cursor_key and len(settings.web_cursor_key.get_secret_value()) < LEAST_KEY:
        raise SettingsError(
            f"{PREFIX}WEB_CURSOR_KEY must have {LEAST_KEY} characters or more; `openssl rand -base64 32` makes one."
        )


def _require_dsn(dsn: str | None) -> None:
    """Raise SettingsError, without a word of it: what stands in the wrong place may be half of the password."""
    if dsn is None:
        return
    try:
        parts = urlsplit(dsn)
        usable = parts.scheme in ("postgresql", "postgres") and (parts.port or 1) > 0
        asked = dict(parse_qsl(parts.query))
    except ValueError:
        usable, asked = False, {}
    if not usable:
        raise SettingsError(
            f"{PREFIX}POSTGRES is no DSN: postgresql://user:password@host:port/database is expected. What is special in"
            " a URL (/ @ : ? # %) is written as %2F %40 %3A %3F %23 %25 within a password."
        )
    for name in ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile"):
        if name in asked and not Path(asked[name]).is_file():
            raise SettingsError(f"{PREFIX}POSTGRES: {name}={asked[name]}: there is no such file.")


def _unknown(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, Settings.model_fields, n=1)
    hint = f"Did you mean {PREFIX}{close[0].upper()}?" if close else "`python -m schemas.settings` lists all settings."
    return f"{PREFIX}{name.upper()} is not a setting of Orderstream. {hint}"


def _bad(fault: dict[str, Any]) -> str:
    name = str(fault["loc"][0])
    about = Settings.model_fields[name].description or "" if name in Settings.model_fields else ""
    return f"{PREFIX}{name.upper()}={fault['input']!s}: {fault['msg']}. {about}".rstrip()


def reference() -> str:
    """Every setting as a Markdown table, for the README and the terminal."""
    rows = ["| variable | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = "unset" if field.default is None else TypeAdapter(Any).dump_python(field.default, mode="json")
        rows.append(f"| `{PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(reference())
