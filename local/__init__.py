"""Nothing but Python -> a real Apache Kafka and a real PostgreSQL on this machine -> `running(data_dir)` finds them."""

from local.addresses import (
    bootstrap,
    callback_secret,
    has_carrier,
    no_access,
    no_broker,
    no_postgres,
    postgres_dsn,
    provider,
    replication_factor,
    webhook_keys,
)
from local.errors import LocalError
from local.ports import why_no_worker
from local.stack import Embedded, Stack, running

__all__ = [
    "Embedded",
    "LocalError",
    "Stack",
    "bootstrap",
    "callback_secret",
    "has_carrier",
    "no_access",
    "no_broker",
    "no_postgres",
    "postgres_dsn",
    "provider",
    "replication_factor",
    "running",
    "webhook_keys",
    "why_no_worker",
]
