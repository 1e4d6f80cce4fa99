"""Every topic as data: what is on it, who writes it, how long it is kept and why. Created and checked from here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from schemas.accounts import (
    AccountCommandRefused,
    AccountOpened,
    CaptureHold,
    Deposit,
    FundsDeposited,
    FundsHeld,
    FundsRefunded,
    FundsWithdrawn,
    HoldCaptured,
    HoldFunds,
    HoldReleased,
    OpenAccount,
    RefundFunds,
    ReleaseHold,
    Withdraw,
)
from schemas.customers import AdmitOrder, CustomerEvent
from schemas.effects import EffectBegan
from schemas.inventory import (
    AdjustStock,
    ChangeItem,
    CommitStock,
    CreateItem,
    InventoryCommandRefused,
    ItemChanged,
    ItemCreated,
    ReleaseStock,
    ReserveStock,
    StockAdjusted,
    StockCommitted,
    StockLow,
    StockOut,
    StockReleased,
    StockReserved,
)
from schemas.orders import (
    CancellationRefused,
    CancelOrder,
    OrderCancelled,
    OrderDocument,
    OrderPlaced,
    OrderRefused,
    PlaceOrder,
)
from schemas.outlets import AnyOutletCommand, NoteOutlet, OutletEvent
from schemas.payments import PaymentCommand, PaymentEvent
from schemas.purchases import AnyPurchaseCommand, PurchaseEvent
from schemas.requests import ClaimRequest, CompleteRequest, ForgetRequest
from schemas.seals import CustomerKey
from schemas.shipping import AnyShippingCommand, CarrierResponse, ShippingEvent
from schemas.versions import VersionSaid
from schemas.webhooks import AnyWebhookCommand, DeliveryEvent, SubscriptionEvent

FOR_EVER = -1
DAY_MS = 24 * 60 * 60 * 1000
HOUR_MS = DAY_MS // 24

#: Kafka's own default, and what producers send without being told otherwise.
INTAKE_MAX_BYTES = 1 << 20
#: Records that carry a document carry a head or headers too, so they need room above the largest document.
CARRIER_MAX_BYTES = 2 << 20


@dataclass(frozen=True)
class TopicSpec:
    """One topic. `values` are the types of its records; `group` consumes it, co-partitioned with the group's others.

    `compact_within_ms`: of a compacted topic, the bound after which no value is left that was replaced or destroyed.
    `segment_ms`: a file of the broker is closed after this; only closed ones are deleted, so records go as much later.
    `dated_on_arrival`: the broker dates the records. What an agent sends has the time of the record that caused it,
    which may be older than the retention. `looked_into`: requests read it, when they ask how things stood then.
    `single`: it has one partition in every installation, so that all of its records have one order.
    """

    name: str
    key: str
    values: tuple[type[Any], ...]
    group: str | None
    writer: str
    description: str
    public: bool
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = FOR_EVER
    max_message_bytes: int = CARRIER_MAX_BYTES
    compact_within_ms: int | None = None
    segment_ms: int | None = None
    dated_on_arrival: bool = False
    looked_into: bool = False
    single: bool = False
    partitions: int = 4
    replication_factor: int = 1

    def config(self) -> dict[str, str]:
        """The broker's names and values for what is declared here."""
        found = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.dated_on_arrival:
            found["message.timestamp.type"] = "LogAppendTime"
        if self.segment_ms is not None:
            found["segment.ms"] = str(self.segment_ms)
        if self.compact_within_ms is not None:
            found |= {
                # A new segment so often: the cleaner leaves the one alone that is written to.
                "segment.ms": str(self.compact_within_ms),
                # After that it must clean, however little there is to gain.
                "max.compaction.lag.ms": str(self.compact_within_ms),
                "min.cleanable.dirty.ratio": "0.01",
                # Who was away for longer reads the topic anew.
                "delete.retention.ms": str(KEEP_KEY_DELETIONS_MS),
            }
        return found


ORDERS = TopicSpec(
    name="orders",
    key="anything or nothing; records are brought to the partition of their order_uid",
    values=(OrderDocument,),
    group="orders",
    writer="any producer",
    description="The public intake: one JSON order document per record.",
    public=True,
    # Kafka is the system of record: every table and row can be rebuilt from here, so nothing is ever dropped.
    retention_ms=FOR_EVER,
    max_message_bytes=INTAKE_MAX_BYTES,
)

ORDER_COMMANDS = TopicSpec(
    name="orders.commands.v1",
    key="order_uid",
    values=(PlaceOrder, CancelOrder),
    group="orders",
    writer="web, the intake of orders, any producer",
    description="What shall happen to an order. An event answers each command, or nothing when it repeats.",
    public=True,
    # Orders that came by HTTP and all cancellations exist only here: a replay needs them as much as the intake.
    retention_ms=FOR_EVER,
)

ORDER_EVENTS = TopicSpec(
    name="orders.events.v1",
    key="order_uid",
    values=(OrderPlaced, OrderCancelled, OrderRefused, CancellationRefused),
    group=None,
    writer="the agents of group orders",
    description="What happened to orders, refusals included. Written in transactions: read it read_committed.",
    public=True,
    # A new reader, such as the Postgres sink, starts at the beginning; compaction would lose history and refusals.
    retention_ms=FOR_EVER,
    looked_into=True,
)

PAYMENT_COMMANDS = TopicSpec(
    name="payments.commands.v1",
    key="order_uid",
    values=get_args(get_args(PaymentCommand)[0]),
    group="orders",
    writer="checkout, the provider's effect, web (callbacks), the deadlines of group orders, any producer",
    description="What shall happen to the payment of an order, and what became of what it asked.",
    public=True,
    # What the provider answered stands nowhere else: a replay needs every command.
    retention_ms=FOR_EVER,
)

PAYMENT_EVENTS = TopicSpec(
    name="payments.events.v1",
    key="order_uid",
    values=get_args(PaymentEvent),
    group=None,
    writer="the agents of group orders",
    description="What happened to payments, refusals included, and what an account or the provider is asked for.",
    public=True,
    # The provider's effect goes on from where it was; a new reader, such as a sink, starts at the beginning.
    retention_ms=FOR_EVER,
    looked_into=True,
)

PURCHASE_COMMANDS = TopicSpec(
    name="purchases.commands.v1",
    key="order_uid",
    values=get_args(AnyPurchaseCommand),
    group="orders",
    writer="web, the deadlines of group orders, what other domains report (agents/checkout.py), any producer",
    description="What shall happen to an order that is bought here. An event answers each, or nothing when it repeats.",
    public=True,
    # Carts exist nowhere else.
    retention_ms=FOR_EVER,
)

PURCHASE_EVENTS = TopicSpec(
    name="purchases.events.v1",
    key="order_uid",
    values=get_args(PurchaseEvent),
    group=None,
    writer="the agents of group orders",
    description="The life of orders that are bought here, from the cart to the last return, refusals included.",
    public=True,
    retention_ms=FOR_EVER,
    looked_into=True,
)

SHIPPING_COMMANDS = TopicSpec(
    name="shipping.commands.v1",
    key="order_uid",
    values=get_args(AnyShippingCommand),
    group="orders",
    writer="checkout, the deadlines of group orders, any producer",
    description="What a carrier shall be asked. An event answers each command, or nothing when it repeats.",
    public=True,
    retention_ms=FOR_EVER,
)

SHIPPING_RESPONSES = TopicSpec(
    name="shipping.responses",
    key="anything or nothing; records are brought to the partition of their order_uid",
    values=(CarrierResponse,),
    group="orders",
    writer="carriers, the sandbox carrier among them",
    description="What carriers answer, whenever and as often as they like.",
    public=True,
    # It stands nowhere else: a replay needs every response.
    retention_ms=FOR_EVER,
)

SHIPPING_EVENTS = TopicSpec(
    name="shipping.events",
    key="order_uid",
    values=get_args(ShippingEvent),
    group=None,
    writer="the agents of group orders",
    description="What carriers are asked for, under ids that stay, and what happened to shipments. For carriers.",
    public=True,
    # A carrier goes on from where it was, however long it was away.
    retention_ms=FOR_EVER,
)

ACCOUNT_COMMANDS = TopicSpec(
    name="accounts.commands.v1",
    key="account_id",
    values=(OpenAccount, Deposit, Withdraw, HoldFunds, CaptureHold, ReleaseHold, RefundFunds),
    group="accounts",
    writer="web, checkout, the deadlines of group accounts, any producer",
    description="What shall happen to an account. An event answers each command, or nothing when it repeats.",
    public=True,
    # Money exists nowhere else: a replay needs every command.
    retention_ms=FOR_EVER,
)

ACCOUNT_EVENTS = TopicSpec(
    name="accounts.events.v1",
    key="account_id",
    values=(
        AccountOpened,
        FundsDeposited,
        FundsWithdrawn,
        FundsHeld,
        HoldCaptured,
        HoldReleased,
        FundsRefunded,
        AccountCommandRefused,
    ),
    group=None,
    writer="the agents of group accounts",
    description="The ledger's journal: every movement with both legs, every hold, refusals included.",
    public=True,
    # `faust -A app ledger verify` adds it up from the beginning.
    retention_ms=FOR_EVER,
    looked_into=True,
)

CUSTOMER_COMMANDS = TopicSpec(
    name="customers.commands.v1",
    key="user_id",
    values=(AdmitOrder,),
    group="accounts",
    writer="web, any producer",
    description="Carts on their way to the orders, where a customer may place only so many in a span of time.",
    public=True,
    # Carts that were refused exist nowhere else, and whether the next one is admitted follows from all before it.
    retention_ms=FOR_EVER,
)

CUSTOMER_EVENTS = TopicSpec(
    name="customers.events.v1",
    key="user_id",
    values=get_args(CustomerEvent),
    group=None,
    writer="the agents of group accounts",
    description="Which carts were let through, and which were refused until when.",
    public=True,
    retention_ms=FOR_EVER,
)

INVENTORY_COMMANDS = TopicSpec(
    name="inventory.commands.v1",
    key="item_id",
    values=(CreateItem, ChangeItem, AdjustStock, ReserveStock, CommitStock, ReleaseStock),
    group="inventory",
    writer="web, items load, the deadlines of group inventory, any producer",
    description="What shall happen to an item or its stock. An event answers each command, or nothing when it repeats.",
    public=True,
    # The catalogue and its stock exist nowhere else: a replay needs every command.
    retention_ms=FOR_EVER,
)

INVENTORY_EVENTS = TopicSpec(
    name="inventory.events.v1",
    key="item_id",
    values=(
        ItemCreated,
        ItemChanged,
        StockAdjusted,
        StockReserved,
        StockCommitted,
        StockReleased,
        StockLow,
        StockOut,
        InventoryCommandRefused,
    ),
    group=None,
    writer="the agents of group inventory",
    description="What happened to items and their stock, warnings and refusals included.",
    public=True,
    # What is on hand adds up from the beginning.
    retention_ms=FOR_EVER,
    looked_into=True,
)

WEBHOOK_COMMANDS = TopicSpec(
    name="webhooks.commands.v1",
    key="subscription_id",
    values=get_args(AnyWebhookCommand),
    group="accounts",
    writer="web, the webhooks' effects, the deadlines of group accounts, any producer",
    description="What shall happen to a subscription, what it is to be told of, and what came of telling it.",
    public=True,
    # Subscriptions, and what their targets answered, stand nowhere else: a replay needs every command.
    retention_ms=FOR_EVER,
)

WEBHOOK_EVENTS = TopicSpec(
    name="webhooks.events.v1",
    key="subscription_id",
    values=get_args(SubscriptionEvent),
    group=None,
    writer="the agents of group accounts",
    description="What happened to subscriptions, refusals included; no secrets.",
    public=True,
    # Every worker reads it from the beginning, to know who wants what.
    retention_ms=FOR_EVER,
)

DELIVERY_EVENTS = TopicSpec(
    name="deliveries.events.v1",
    key="subscription_id",
    values=get_args(DeliveryEvent),
    group=None,
    writer="the agents of group accounts",
    description="The life of each delivery to a webhook: queued, due, delivered, failed, given up; and breakers.",
    public=True,
    # An attempt that is due and has not been made stands only here.
    retention_ms=FOR_EVER,
)

OUTLET_COMMANDS = TopicSpec(
    name="outlets.commands.v1",
    key="outlet_id",
    values=get_args(AnyOutletCommand),
    group="inventory",
    writer="web, checkout, any producer",
    description="How outlets take orders, and the numbers of those that they took.",
    public=True,
    # Which number comes next follows from all that were given.
    retention_ms=FOR_EVER,
)

OUTLET_EVENTS = TopicSpec(
    name="outlets.events.v1",
    key="outlet_id",
    values=get_args(OutletEvent),
    group=None,
    writer="the agents of group inventory",
    description="What outlets said of themselves, and every order number that was given.",
    public=True,
    # `faust -A app numbers verify` counts them from the beginning.
    retention_ms=FOR_EVER,
)

OUTLET_NOTES = TopicSpec(
    name="outlet_notes.commands.v1",
    key="outlet_id",
    values=(NoteOutlet,),
    group="orders",
    writer="checkout",
    description="How outlets take orders, for the orders of every partition: each note is on all of them.",
    public=False,
    # By which word of its outlet an order was taken follows from where the note stands in the past of its partition.
    retention_ms=FOR_EVER,
)

REQUEST_COMMANDS = TopicSpec(
    name="requests.commands.v1",
    key="the Idempotency-Key",
    values=(ClaimRequest, CompleteRequest, ForgetRequest),
    group="requests",
    writer="web, the deadlines of group requests",
    description="Idempotency keys of HTTP requests: claimed, completed, forgotten after 24 hours.",
    public=False,
    # A key lives a day. A week lets a platform that was down over a weekend catch up before anything is dropped.
    retention_ms=7 * DAY_MS,
)

DEAD_LETTERS = TopicSpec(
    name="dead_letters.v1",
    key="as on the topic of origin",
    values=(),
    group=None,
    writer="the agents of every group, dead-letters redrive",
    description="Records that could not be applied: original bytes, key and headers, and headers that say why.",
    public=True,
    # Time for people to mend and redrive. The original stays on its own topic, so nothing is lost after it.
    retention_ms=90 * DAY_MS,
    dated_on_arrival=True,
)

#: How long a tombstone of a key can be seen by those who follow them.
KEEP_KEY_DELETIONS_MS = DAY_MS

CUSTOMER_KEYS = TopicSpec(
    name="customers.keys.v1",
    key="<customer_id>/<key_id>; on the partition of the customer_id",
    values=(CustomerKey,),
    group=None,
    writer="web, the intake that seals, erase",
    description="The keys that customers' personal data is sealed with, wrapped; a tombstone destroys one for ever.",
    public=False,
    cleanup="compact",
    compact_within_ms=HOUR_MS,
    looked_into=True,
)

ORDER_INBOX = TopicSpec(
    name="orders.inbox.v1",
    key="anything or nothing",
    values=(OrderDocument,),
    group=None,
    writer="any producer",
    description="The public intake in clear where personal data is sealed: from here orders come to `orders`, sealed.",
    public=True,
    # Long enough for a platform that was down over a weekend, and for people to look at what could not be sealed.
    retention_ms=7 * DAY_MS,
    segment_ms=DAY_MS,
    max_message_bytes=INTAKE_MAX_BYTES,
    dated_on_arrival=True,
)
#: Nothing that came in clear is in a file of the brokers after this.
CLEAR_FOR_MS = ORDER_INBOX.retention_ms + (ORDER_INBOX.segment_ms or 0)

#: A key that was destroyed is in no file of a broker after this, as long as a worker runs: a segment is closed by the
#: first record after an hour (workers send one twice an hour), and cleaned within another hour.
GONE_WITHIN_MS = 3 * HOUR_MS

#: With sealing on only: nothing of it is there otherwise, and nothing waits for it.
SEALING: tuple[TopicSpec, ...] = (CUSTOMER_KEYS, ORDER_INBOX)

LIVE = TopicSpec(
    name="orderstream.live.v1",
    key="always the same",
    values=(VersionSaid,),
    group=None,
    writer="replay --into, versions",
    description="Which version of the tables is live. The last record counts; none is the version without a name.",
    public=False,
    # Whoever forgets it takes another version for the live one. It grows by two records with each switch.
    retention_ms=FOR_EVER,
    single=True,
)

EFFECTS = TopicSpec(
    name="orderstream.effects.v1",
    key="the consumer group",
    values=(EffectBegan,),
    group=None,
    writer="effects (provider, webhooks, inbox), at their first record of a partition",
    description="Which effects have begun which partitions, so that lost offsets do not make them do everything again.",
    public=False,
    # It grows by one record for each effect and partition.
    retention_ms=FOR_EVER,
    single=True,
)

TOPICS: tuple[TopicSpec, ...] = (
    ORDERS,
    ORDER_COMMANDS,
    ORDER_EVENTS,
    PAYMENT_COMMANDS,
    PAYMENT_EVENTS,
    PURCHASE_COMMANDS,
    PURCHASE_EVENTS,
    SHIPPING_COMMANDS,
    SHIPPING_RESPONSES,
    SHIPPING_EVENTS,
    ACCOUNT_COMMANDS,
    ACCOUNT_EVENTS,
    CUSTOMER_COMMANDS,
    CUSTOMER_EVENTS,
    INVENTORY_COMMANDS,
    INVENTORY_EVENTS,
    WEBHOOK_COMMANDS,
    WEBHOOK_EVENTS,
    DELIVERY_EVENTS,
    OUTLET_COMMANDS,
    OUTLET_EVENTS,
    OUTLET_NOTES,
    REQUEST_COMMANDS,
    DEAD_LETTERS,
    LIVE,
    EFFECTS,
)


def topics(partitions: int, replication_factor: int, *, sealing: bool = False) -> tuple[TopicSpec, ...]:
    """The topics of one installation. One partition count for all: keys meet their tables, and counts cannot drift."""
    specs = TOPICS + SEALING if sealing else TOPICS
    counts = ((spec, 1 if spec.single else partitions) for spec in specs)
    return tuple(replace(spec, partitions=count, replication_factor=replication_factor) for spec, count in counts)


#: The topics whose events webhooks can be told of.
TOLD: tuple[TopicSpec, ...] = (
    ORDER_EVENTS,
    PURCHASE_EVENTS,
    PAYMENT_EVENTS,
    SHIPPING_EVENTS,
    ACCOUNT_EVENTS,
    INVENTORY_EVENTS,
)


def event_names() -> frozenset[str]:
    """`<domain>.<type>` of every event that webhooks can be told of."""
    return frozenset(
        f"{spec.name.partition('.')[0]}.{value.model_fields['type'].default}" for spec in TOLD for value in spec.values
    )
