"""The map: every topic, table, agent, view and command on one screen. `faust -A app worker` runs it.

A reader who wants to know what happens to an order reads this page downwards: words (schemas), memory (tables), rules
(agents), window (web), hands (cli).
"""

from __future__ import annotations

import cli
import local
import web
from agents import orders as order_rules
from agents import requests as request_rules
from agents.effects import postgres
from schemas.requests import RequestCommand
from schemas.settings import Settings
from schemas.topics import topics as topic_specs
from streams import App, Security
from streams.logs import logging_config
from tables import orders as order_tables
from tables import requests as request_tables

settings = Settings.load_or_exit()

# -- the application --------------------------------------------------------------------------------------------------

app = App(
    "orderstream",
    broker=[f"kafka://{host}" for host in local.bootstrap(settings).split(",")],
    broker_hint=local.no_broker(settings),
    security=Security(**settings.kafka_security()),
    access_hint=local.no_access(settings),
    data_dir=settings.data_dir,
    web_bind=settings.web_host,
    web_host=settings.web_host,
    web_port=settings.web_port,
    canonical_url=settings.url,
    idle_connection_s=settings.idle_connection_ms / 1000,
    logging_config=logging_config(settings.log_format, settings.log_level),
    tuning={
        "replication_factor": settings.replication_factor,
        "dead_letter_partitions": settings.partitions,
        "batch_max_records": settings.batch_max_records,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "retry_backoff_ms": settings.retry_backoff_ms,
        "session_timeout_ms": settings.session_timeout_ms,
        "transaction_timeout_ms": settings.transaction_timeout_ms,
        "group_instance_id": settings.group_instance_id,
        "standby_replicas": settings.standby_replicas,
    },
)

# -- topics: schemas/topics.py says what each is for ------------------------------------------------------------------

VALUES = {"requests.commands.v1": RequestCommand}  # all others are read as the bytes they came as
topics = {
    spec.name: app.topic(
        spec.name,
        partitions=spec.partitions,
        group=spec.group,
        value_type=VALUES.get(spec.name),
        config=spec.config(),
        max_message_bytes=spec.max_message_bytes,
    )
    for spec in topic_specs(settings.partitions, settings.replication_factor)
}

# -- tables -----------------------------------------------------------------------------------------------------------

orders = order_tables.declare(app)
requests = request_tables.declare(app)

# -- agents: topic -> rules -> tables and topics ----------------------------------------------------------------------

order_rules.attach(
    app,
    intake=topics["orders"],
    commands=topics["orders.commands.v1"],
    events=topics["orders.events.v1"],
    tables=orders,
)
request_rules.attach(app, commands=topics["requests.commands.v1"], requests=requests)

# -- effects: what leaves the log -------------------------------------------------------------------------------------

sinks = [postgres.attach(app, lambda: local.postgres_dsn(settings))] if settings.sink else []

# -- the window and the operator's hands ------------------------------------------------------------------------------

app.on_web(
    lambda web_app: web.attach(
        app,
        web_app,
        orders=orders,
        requests=requests,
        topics=topics,
        settings=settings,
        checks=app.engine.health,
        registry=app.metrics.registry,
        sinks=sinks,
    )
)
cli.attach(app, settings)
