"""settings and the running stack -> where Kafka, PostgreSQL, provider and carrier are, asked in one place by all."""

import os
import secrets

from local.sandbox_service import callback_secret_in, secret_in
from local.stack import running
from schemas.settings import Settings


def bootstrap(settings: Settings) -> str:
    """The brokers: the setting's, those of the running stack, or else the place where the embedded one would be."""
    if settings.kafka is not None:
        return settings.kafka
    stack = running(settings.data_dir)
    return stack.kafka if stack else f"127.0.0.1:{settings.kafka_port}"


def replication_factor(settings: Settings) -> int:
    """Copies of each topic: the setting's, or as many as the running embedded Kafka has brokers, if that is more."""
    stack = None if settings.kafka is not None else running(settings.data_dir)
    return max(settings.replication_factor, stack.brokers if stack else 1)


def no_broker(settings: Settings) -> str:
    """What to do when no broker answers there."""
    if settings.kafka is not None:
        protocol = settings.kafka_security_protocol
        return f"Start it, or correct ORDERSTREAM_KAFKA, or ORDERSTREAM_KAFKA_SECURITY_PROTOCOL (now {protocol})."
    return (
        "Start the embedded Kafka and PostgreSQL with `make dev` (or `python -m local up`), or name your brokers in"
        f" ORDERSTREAM_KAFKA. Looked for a running stack in {settings.data_dir.absolute()}."
    )


def no_access(settings: Settings) -> str:
    """What to do when a broker answers there and lets nobody in, or is not trusted."""
    protocol = settings.kafka_security_protocol
    names = ["KAFKA_SECURITY_PROTOCOL"]
    if protocol.startswith("SASL"):
        names += ["KAFKA_SASL_MECHANISM", "KAFKA_USER", "KAFKA_PASSWORD (or ORDERSTREAM_KAFKA_PASSWORD_FILE)"]
    if protocol.endswith("SSL"):
        names += ["KAFKA_CA_FILE", "KAFKA_CERT_FILE", "KAFKA_KEY_FILE"]
    return f"Look at ORDERSTREAM_{', ORDERSTREAM_'.join(names)}; docs/security.md says what each is for."


def postgres_dsn(settings: Settings) -> str:
    """The DSN: the setting's, or the running stack's. Raises LookupError with the mend when there is neither."""
    stack = running(settings.data_dir)
    dsn = settings.postgres or (stack.postgres if stack else None)
    if dsn is None:
        raise LookupError(no_postgres(settings))
    return dsn


def no_postgres(settings: Settings) -> str:
    """What to do when no PostgreSQL answers there."""
    if settings.postgres is not None:
        return "Start it, or correct ORDERSTREAM_POSTGRES. Orders flow without it; the sink catches up afterwards."
    return "Start the embedded one with `make dev` (or `python -m local up`), or set ORDERSTREAM_POSTGRES."


def has_carrier(settings: Settings) -> bool:
    """Whether somebody fetches what is packed: a carrier on the topics, or the running stack's sandbox."""
    if settings.carrier == "sandbox":
        stack = running(settings.data_dir)
        return stack is not None and stack.carrier
    return settings.carrier == "topic"


def provider(settings: Settings) -> tuple[str, str] | None:
    """URL and secret of the payment provider: the settings', or those of the running stack's sandbox; or none."""
    if settings.provider_url is not None and settings.provider_secret is not None:
        return settings.provider_url, settings.provider_secret.get_secret_value()
    stack = running(settings.data_dir)
    if stack is None or stack.provider is None:
        return None
    return stack.provider, secret_in(settings.data_dir / "provider")


def callback_secret(settings: Settings) -> str | None:
    """What the provider's callbacks are signed with: the setting's, or else that of requests, or the sandbox's."""
    if settings.provider_callback_secret is not None:
        return settings.provider_callback_secret.get_secret_value()
    found = provider(settings)
    if found is None or settings.provider_url is not None:
        return None if found is None else found[1]
    return callback_secret_in(settings.data_dir / "provider")


def webhook_keys(settings: Settings) -> tuple[bytes, ...]:
    """What webhooks' secrets are made from: the settings' keys, or with the embedded Kafka one that lies beside it."""
    given = settings.keys_of_webhooks()
    if given or settings.kafka is not None:
        return given
    file = settings.data_dir / "webhooks.key"
    if not file.exists():
        # Written under another name first: workers that start together must all read the whole of the same key.
        mine = file.with_name(f"{file.name}.{os.getpid()}")
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.touch(mode=0o600)
        mine.write_text(secrets.token_urlsafe(32) + "\n")
        try:
            os.link(mine, file)
        except FileExistsError:
            pass
        finally:
            mine.unlink()
    return (file.read_text().strip().encode(),)
