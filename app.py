"""The map: every topic, table, agent, view and command on one screen. `faust -A app worker` runs it.

A reader who wants to know what happens to an order reads this page downwards: words (schemas), memory (tables), rules
(agents), window (web), hands (cli).
"""

from __future__ import annotations

import gc

# Nothing that is imported is garbage, and a fifth of the time of a start went by with looking for it.
gc.disable()

import cli
import local
import web
from agents.effects import postgres, provider, seals, webhooks
from agents.wiring import (
    declare_topics,
    wire_accounts,
    wire_checkout,
    wire_customers,
    wire_inventory,
    wire_orders,
    wire_outlets,
    wire_payments,
    wire_purchases,
    wire_requests,
    wire_shipping,
    wire_webhooks,
)
from schemas.hints import pasteable
from schemas.settings import Settings
from schemas.topics import EFFECTS, LIVE
from schemas.topics import topics as topic_specs
from streams import App, Security
from streams.logs import logging_config

settings = Settings.load_or_exit()

# -- the application --------------------------------------------------------------------------------------------------

app = App(
    "orderstream",
    version=settings.version,
    live_topic=LIVE.name,
    effects_topic=EFFECTS.name,
    broker=[f"kafka://{host}" for host in local.bootstrap(settings).split(",")],
    broker_hint=local.no_broker(settings),
    security=Security(**settings.kafka_security()),
    access_hint=local.no_access(settings),
    show_hint=pasteable,
    preflight=local.why_no_worker,
    data_dir=settings.data_dir,
    web_bind=settings.web_host,
    web_host=settings.web_host,
    web_port=settings.web_port,
    canonical_url=settings.url,
    runner=web.Runner,
    idle_connection_s=settings.idle_connection_ms / 1000,
    logging_config=logging_config(settings.log_format, settings.log_level),
    tuning={
        "replication_factor": local.replication_factor(settings),
        "dead_letter_partitions": settings.partitions,
        "batch_max_records": settings.batch_max_records,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
        "commit_interval_ms": settings.commit_interval_ms,
        "retry_backoff_ms": settings.retry_backoff_ms,
        "session_timeout_ms": settings.session_timeout_ms,
        "max_stall_ms": settings.max_stall_ms,
        "transaction_timeout_ms": settings.transaction_timeout_ms,
        "group_instance_id": settings.group_instance_id,
        "standby_replicas": settings.standby_replicas,
        "audit_every_s": settings.audit_every_s,
    },
)

# -- topics: schemas/topics.py says what each is for ------------------------------------------------------------------

specs = topic_specs(settings.partitions, local.replication_factor(settings), sealing=settings.seal)
topics = declare_topics(app, specs)

# -- domains: topic -> rules (agents/) -> tables (tables/) and topics; agents/wiring.py binds each --------------------

checkout = wire_checkout(topics)  # what one domain's events ask of the others
orders = wire_orders(app, topics)  # orders, orders.commands.v1 -> orders.events.v1
purchases = wire_purchases(app, topics, orders, checkout)  # purchases.commands.v1 -> purchases.events.v1
shipping = wire_shipping(app, topics, checkout)  # shipping.commands.v1, shipping.responses -> shipping.events
payments = wire_payments(app, topics, checkout)  # payments.commands.v1 -> payments.events.v1
accounts = wire_accounts(app, topics, checkout)  # accounts.commands.v1 -> accounts.events.v1
customers = wire_customers(app, topics, checkout)  # customers.commands.v1 -> customers.events.v1
inventory = wire_inventory(app, topics, checkout)  # inventory.commands.v1 -> inventory.events.v1
subscriptions = wire_webhooks(app, topics)  # webhooks.commands.v1 -> webhooks.events.v1, deliveries.events.v1
outlets = wire_outlets(app, topics, checkout)  # outlets.commands.v1 -> outlets.events.v1
requests = wire_requests(app, topics)  # requests.commands.v1: idempotency keys of HTTP

# -- effects: what leaves the log -------------------------------------------------------------------------------------

folds = cli.Folds(orders, purchases, payments)  # what effects and commands that read events know of the rules
sinks = [postgres.attach(app, lambda: local.postgres_dsn(settings), folds.rows)] if settings.sink else []
effects = [provider.attach(app, topics["payments.commands.v1"], settings, lambda: local.provider(settings))]
keyring, intake = seals.attach(app, topics, settings)  # what personal data is sealed with, if ORDERSTREAM_SEAL says so
opened = keyring.opened if keyring is not None else None
router, outbound = webhooks.attach(
    app, topics["webhooks.commands.v1"], settings, lambda: local.webhook_keys(settings), opened=opened
)
effects += outbound + intake

# -- the window and the operator's hands ------------------------------------------------------------------------------

app.on_web(
    lambda web_app: web.attach(
        app,
        web_app,
        orders=orders,
        purchases=purchases,
        shipping=shipping,
        accounts=accounts,
        customers=customers,
        inventory=inventory,
        outlets=outlets,
        payments=payments,
        webhooks=web.Webhooks(subscriptions, lambda: local.webhook_keys(settings), router.starts),
        requests=requests,
        keyring=keyring,
        topics=topics,
        settings=settings,
        checks=app.engine.health,
        registry=app.metrics.registry,
        sinks=sinks,
        effects=effects,
        carrier=lambda: local.has_carrier(settings),
        bootstrap=app.bootstrap,
        callback_secret=lambda: local.callback_secret(settings),
    )
)
app.on_web(lambda web_app: web.only_when_live(web_app, app.engine.standing_by))
cli.attach(app, settings, folds)

gc.freeze()  # all of that stays
gc.enable()
