"""an event of one domain -> the commands to others that follow from it: how a cart becomes a paid order.

The saga is choreographed: nobody holds the whole, and no step waits for another order. `react` sees an event, nothing
else. The agent that emits the event sends the commands in the same transaction, so that both happen or neither does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, assert_never

from schemas.accounts import (
    AccountCommandRefused,
    AccountEvent,
    AccountOpened,
    CaptureHold,
    FundsDeposited,
    FundsHeld,
    FundsRefunded,
    FundsWithdrawn,
    HoldCaptured,
    HoldFunds,
    HoldReleased,
    RefundFunds,
    ReleaseHold,
    account_id_of,
)
from schemas.base import Command, derived_id
from schemas.customers import CustomerEvent, OrderAdmitted, OrderNotAdmitted
from schemas.inventory import (
    AdjustStock,
    CommitStock,
    InventoryCommandRefused,
    InventoryEvent,
    ItemChanged,
    ItemCreated,
    ReleaseStock,
    ReserveStock,
    StockAdjusted,
    StockCommitted,
    StockLow,
    StockOut,
    StockReleased,
    StockReleaseReason,
    StockReserved,
)
from schemas.outlets import IssueNumber, NoteOutlet, NumberIssued, OutletConfigured, OutletEvent
from schemas.payments import (
    EXCESS,
    LATE,
    AuthorisePayment,
    CapturePayment,
    CaptureRequested,
    DeclineReason,
    LateMoneyReceived,
    PaymentAuthorised,
    PaymentCaptured,
    PaymentCommandRefused,
    PaymentDeclined,
    PaymentEvent,
    PaymentMethod,
    PaymentRefunded,
    PaymentRequested,
    PaymentStepFailed,
    PaymentVoided,
    RecordAuthorisation,
    RecordCapture,
    RecordDecline,
    RecordFailure,
    RecordRefund,
    RecordVoid,
    RefundPayment,
    RefundRequested,
    ReversalRecorded,
    ReversalResolved,
    Source,
    Step,
    VoidPayment,
    VoidRequested,
)
from schemas.purchases import (
    CarrierNoted,
    CartPlaced,
    DeliverShipment,
    EndReason,
    LineRefused,
    LineReserved,
    NoteCarrier,
    OrderApproved,
    OrderCompleted,
    OrderNumbered,
    OrderPacked,
    OrderPaid,
    OrderShipped,
    OrderValidated,
    PartsCancelled,
    PaymentLost,
    PaymentSettled,
    PurchaseCommandRefused,
    PurchaseEnded,
    PurchaseEvent,
    RecordNumber,
    RecordPayment,
    RecordPaymentFailure,
    RecordReservation,
    RecordShortage,
    RecordTracking,
    RefundSettled,
    ReplacementRefused,
    ReplacementReserved,
    ReturnApproved,
    ReturnReceived,
    ReturnRefused,
    ReturnRequested,
    ReturnShipment,
    SendOut,
    SettlePayment,
    SettleRefund,
    SettleShipment,
    ShipmentDelivered,
    ShipmentOutcome,
    ShipmentRequested,
    ShipmentReturned,
    ShipmentSentOut,
    ShipmentSettled,
    ShipmentWithdrawn,
    ShipOrder,
    TrackingRecorded,
)
from schemas.shipping import (
    Ask,
    BookingGivenUp,
    BookShipment,
    CancelBooking,
    CarrierAsked,
    CarrierReported,
    CarrierStatus,
    RecallEnded,
    RecallShipment,
    ResponseHeld,
    ResponseRefused,
    ShippingCommandRefused,
    ShippingEvent,
)
from streams import Topic

#: What an agent hands its events to. Within a batch: the commands join its transaction.
Tell = Callable[[Any], None]

#: Events that commands of other domains may follow from.
Telling = AccountEvent | CustomerEvent | InventoryEvent | OutletEvent | PaymentEvent | PurchaseEvent | ShippingEvent

#: Why stock is free again, in the words of the inventory.
_FREED = {
    EndReason.CANCELLED: StockReleaseReason.CANCELLED,
    EndReason.REJECTED_BY_SELLER: StockReleaseReason.REJECTED,
    EndReason.NOT_PAID_IN_TIME: StockReleaseReason.UNPAID,
    EndReason.PAYMENT_FAILED: StockReleaseReason.UNPAID,
    EndReason.AMOUNT_ABOVE_LIMIT: StockReleaseReason.REJECTED,
    EndReason.MIXED_CURRENCIES: StockReleaseReason.REJECTED,
    EndReason.OUT_OF_STOCK: StockReleaseReason.INCOMPLETE,
}


def react(event: Telling) -> tuple[Command, ...]:
    """The commands that follow from an event. Pure; `()` for most events."""
    if isinstance(event, PurchaseEvent):
        return _of_purchase(event)
    if isinstance(event, InventoryEvent):
        return _of_stock(event)
    if isinstance(event, PaymentEvent):
        return _of_payment(event)
    if isinstance(event, AccountEvent):
        return _of_account(event)
    if isinstance(event, CustomerEvent):
        return _of_customer(event)
    if isinstance(event, ShippingEvent):
        return _of_carrier(event)
    if isinstance(event, OutletEvent):
        return _of_outlet(event)
    assert_never(event)


def _of_purchase(event: PurchaseEvent) -> tuple[Command, ...]:
    """What an order asks of stock and money."""
    match event:
        case CartPlaced():
            return tuple(_reserve(event, number) for number in range(1, len(event.lines) + 1))
        case OrderValidated() if event.total_minor:
            return (_authorise(event),)
        case OrderApproved():
            return (*_take_money(event), *_number(event))
        case ShipmentDelivered():
            return _capture(event)
        case OrderShipped():
            return _commit(event)
        case PurchaseEnded():
            void = VoidPayment(command_id=_id(event, "void"), order_uid=event.order_uid, reason=event.reason)
            let_go = (_cancel(event, shipment_id) for shipment_id in event.withdrawn)
            return (*_free(event, _FREED[event.reason]), *((void,) if event.void else ()), *_refund(event), *let_go)
        case PartsCancelled():
            return (*_free(event, StockReleaseReason.CANCELLED), *_capture(event), *_refund(event))
        case ReturnReceived():
            # What came back is not what is sent instead: it is set aside before that stands on the shelf.
            return (*_replace(event), *_take_back(event, "return"), *_refund(event))
        case ReplacementRefused():
            return _refund(event)
        case ShipmentReturned():
            return (*_take_back(event, "return_to_origin"), *_capture(event), *_refund(event))
        case PaymentSettled():
            return _refund(event)
        case ShipmentRequested():
            return (_book(event),)
        case ShipmentWithdrawn():
            return (_cancel(event, event.shipment_id),)
        case ShipmentSettled():
            return _settle(event)
        case PurchaseCommandRefused(command="ship_order", shipment_id=str(shipment_id)):
            id, uid = _id(event), event.order_uid
            return (RecallShipment(command_id=id, order_uid=uid, shipment_id=shipment_id, reason=event.reason),)
        case OrderValidated() | LineReserved() | LineRefused() | OrderPaid() | OrderNumbered() | RefundSettled():
            return ()
        case ReplacementReserved() | OrderPacked() | ShipmentSentOut() | OrderCompleted() | ReturnRequested():
            return ()
        case ReturnApproved() | ReturnRefused() | PurchaseCommandRefused() | TrackingRecorded() | CarrierNoted():
            return ()
        case PaymentLost():
            return ()  # there is nobody to ask: the seller sees it
    assert_never(event)


def _of_stock(event: InventoryEvent) -> tuple[Command, ...]:
    """What the order has to know of its lines."""
    match event:
        case StockReserved():
            return (_reserved(event),)
        case InventoryCommandRefused(command="reserve_stock", order_uid=str(uid), line=int(line)):
            return (RecordShortage(command_id=_id(event), order_uid=uid, line=line, reason=event.reason),)
        case ItemCreated() | ItemChanged() | StockAdjusted() | StockCommitted() | StockReleased() | StockLow():
            return ()
        case StockOut() | InventoryCommandRefused():
            return ()
    assert_never(event)


def _of_payment(event: PaymentEvent) -> tuple[Command, ...]:
    """What the order has to know of its money, and what an account is asked. The provider's effect reads the same."""
    match event:
        case PaymentAuthorised():
            return (RecordPayment(command_id=_id(event), order_uid=event.order_uid, amount_minor=event.amount_minor),)
        case PaymentDeclined() | PaymentVoided():
            return (RecordPaymentFailure(command_id=_id(event), order_uid=event.order_uid, reason=event.reason),)
        case PaymentCaptured():
            amount = event.amount_minor - event.excess_minor
            return (SettlePayment(command_id=_id(event), order_uid=event.order_uid, amount_minor=amount),)
        case PaymentRefunded() if event.refund_id in (LATE, EXCESS):
            return ()  # what the order never asked for and never had
        case PaymentRefunded():
            return (
                SettleRefund(
                    command_id=_id(event),
                    order_uid=event.order_uid,
                    refund_id=event.refund_id,
                    amount_minor=event.amount_minor,
                ),
            )
        case PaymentRequested() | CaptureRequested() | VoidRequested() | RefundRequested():
            return (_asked_of_account(event),) if event.method is PaymentMethod.ACCOUNT else ()
        case LateMoneyReceived() | PaymentStepFailed() | PaymentCommandRefused():
            return ()
        case ReversalRecorded() | ReversalResolved():
            return ()  # a person settles it; neither the order nor an account of the ledger moved this money
    assert_never(event)


def _of_account(event: AccountEvent) -> tuple[Command, ...]:
    """What became of what a payment asked."""
    match event:
        case FundsHeld() | HoldCaptured() | HoldReleased() | FundsRefunded() | AccountCommandRefused():
            return () if event.order_uid is None else (_told_to_payment(event, event.order_uid),)
        case AccountOpened() | FundsDeposited() | FundsWithdrawn():
            return ()
    assert_never(event)


def _of_customer(event: CustomerEvent) -> tuple[Command, ...]:
    """An admitted cart goes on as it came, by the id that it has: whoever sent it knows it by that."""
    match event:
        case OrderAdmitted():
            return (event.cart,)
        case OrderNotAdmitted():
            return ()
    assert_never(event)


def _of_carrier(event: ShippingEvent) -> tuple[Command, ...]:
    """What the order has to know of its shipments; what moves nothing stands in its timeline all the same."""
    said: dict[str, Any] = {"command_id": _id(event), "order_uid": event.order_uid, "shipment_id": event.shipment_id}
    match event:
        case CarrierReported() if event.recalled:
            return (NoteCarrier(**said, reason=f"{event.status}, though recalled"),)
        case CarrierReported():
            return (_reported(event, said),)
        case CarrierAsked(what=Ask.RECALL, ask=1):
            return (NoteCarrier(**said, reason=f"recalled: {event.reason}"),)
        case RecallEnded():
            outcome = ShipmentOutcome.LOST if event.lost else ShipmentOutcome.CANCELLED
            return (SettleShipment(**said, outcome=outcome, reason="recalled"),)
        case ResponseHeld():
            return (NoteCarrier(**said, reason=f"{event.status}: held"),)
        case ResponseRefused():
            return (NoteCarrier(**said, reason=f"{event.status} refused: {event.reason}"),)
        case BookingGivenUp():
            return (NoteCarrier(**said, reason=f"given up: no answer to {event.asks} asks"),)
        case CarrierAsked() | ShippingCommandRefused():
            return ()
    assert_never(event)


def _reported(event: CarrierReported, said: dict[str, Any]) -> Command:
    match event.status:
        case CarrierStatus.REGISTERED:
            return RecordTracking(**said, tracking_number=event.tracking_number or "")
        case CarrierStatus.PICKED_UP:
            return ShipOrder(**said, carrier=True)
        case CarrierStatus.OUT_FOR_DELIVERY:
            return SendOut(**said)
        case CarrierStatus.DELIVERED:
            return DeliverShipment(**said)
        case CarrierStatus.RETURNED_TO_ORIGIN:
            return ReturnShipment(**said)
        case CarrierStatus.FAILED:
            return NoteCarrier(**said, reason=f"failed: {event.reason or 'no reason given'}")
        case CarrierStatus.CANCELLED:
            return SettleShipment(**said, outcome=ShipmentOutcome.CANCELLED, reason=event.reason or "cancelled")
    assert_never(event.status)


def _book(event: ShipmentRequested) -> BookShipment:
    return BookShipment(
        command_id=_id(event),
        order_uid=event.order_uid,
        shipment_id=event.shipment_id,
        user_id=event.user_id,
        address=event.address,
        parts=event.parts,
        terms=event.carrier,
    )


def _cancel(event: PurchaseEnded | ShipmentWithdrawn, shipment_id: str) -> CancelBooking:
    id = _id(event, f"cancel {shipment_id}")
    return CancelBooking(command_id=id, order_uid=event.order_uid, shipment_id=shipment_id, reason=event.reason)


def _settle(event: ShipmentSettled) -> tuple[Command, ...]:
    """What is gone is gone from the stock. What never left is free again when its order has ended; else it waits on."""
    if event.outcome is ShipmentOutcome.LOST:
        return _commit(event) if event.reserved else _adjust(event, "lost", -1)
    if event.ended is None:
        return ()
    return tuple(
        ReleaseStock(
            command_id=_id(event, n),
            item_id=part.item_id,
            order_uid=event.order_uid,
            line=part.line,
            quantity=part.quantity,
            reason=_FREED[event.ended],
        )
        for n, part in enumerate(event.parts)
    )


def _commit(event: OrderShipped | ShipmentSettled) -> tuple[CommitStock, ...]:
    return tuple(
        CommitStock(
            command_id=_id(event, n),
            item_id=part.item_id,
            order_uid=event.order_uid,
            line=part.line,
            quantity=part.quantity,
        )
        for n, part in enumerate(event.parts)
    )


def _of_outlet(event: OutletEvent) -> tuple[Command, ...]:
    """What orders have to know of their outlet."""
    match event:
        case OutletConfigured():
            id, version = _id(event), event.version
            return (NoteOutlet(command_id=id, outlet_id=event.outlet_id, version=version, approval=event.approval),)
        case NumberIssued():
            return (RecordNumber(command_id=_id(event), order_uid=event.order_uid, order_number=event.order_number),)
    assert_never(event)


def _reserve(event: CartPlaced, line: int) -> ReserveStock:
    """Without a time of its own: the order, which has one, frees what it does not take."""
    asked = event.lines[line - 1]
    return ReserveStock(
        command_id=_id(event, line),
        item_id=asked.item_id,
        order_uid=event.order_uid,
        line=line,
        quantity=asked.quantity,
        partial=event.split,
    )


def _replace(event: ReturnReceived) -> tuple[ReserveStock, ...]:
    return tuple(
        ReserveStock(
            command_id=_id(event, f"replace {again.line}"),
            item_id=again.item_id,
            order_uid=event.order_uid,
            line=again.line,
            quantity=again.quantity,
        )
        for again in event.replacements
    )


def _reserved(event: StockReserved) -> RecordReservation:
    return RecordReservation(
        command_id=_id(event),
        order_uid=event.order_uid,
        line=event.line,
        quantity=event.quantity,
        price_minor=event.price_minor,
        currency=event.currency,
        outlet_id=event.outlet_id,
        name=event.name,
    )


def _authorise(event: OrderValidated) -> AuthorisePayment:
    return AuthorisePayment(
        command_id=_id(event),
        order_uid=event.order_uid,
        user_id=event.user_id,
        method=event.payment.method,
        instrument=event.payment.instrument,
        amount_minor=event.total_minor,
        currency=event.currency,
    )


def _take_money(event: OrderApproved) -> tuple[Command, ...]:
    """The money is taken, or let go."""
    if event.void:
        return (VoidPayment(command_id=_id(event), order_uid=event.order_uid, reason="nothing_owed"),)
    return _capture(event)


def _number(event: OrderApproved) -> tuple[IssueNumber, ...]:
    """A number for what was approved, and for nothing else: the series has no gap."""
    if event.outlet_id is None:
        return ()
    return (IssueNumber(command_id=_id(event, "number"), outlet_id=event.outlet_id, order_uid=event.order_uid),)


def _free(event: PurchaseEnded | PartsCancelled, reason: StockReleaseReason) -> tuple[ReleaseStock, ...]:
    """The commands stand behind those that reserve, on the same partition: even what is not answered yet is freed."""
    return tuple(
        ReleaseStock(
            command_id=_id(event, n),
            item_id=freed.item_id,
            order_uid=event.order_uid,
            line=freed.line,
            quantity=freed.quantity,
            reason=reason,
        )
        for n, freed in enumerate(event.freed)
    )


def _capture(event: OrderApproved | ShipmentDelivered | ShipmentReturned | PartsCancelled) -> tuple[Command, ...]:
    if not event.capture_minor:
        return ()
    return (
        CapturePayment(command_id=_id(event, "capture"), order_uid=event.order_uid, amount_minor=event.capture_minor),
    )


def _take_back(event: ReturnReceived | ShipmentReturned, reason: str) -> tuple[AdjustStock, ...]:
    return _adjust(event, reason, 1)


def _adjust(
    event: ReturnReceived | ShipmentReturned | ShipmentSettled, reason: str, sign: int
) -> tuple[AdjustStock, ...]:
    return tuple(
        AdjustStock(command_id=_id(event, n), item_id=part.item_id, delta=sign * part.quantity, reason=reason)
        for n, part in enumerate(event.parts)
    )


def _refund(
    event: PurchaseEnded | PartsCancelled | ReturnReceived | ReplacementRefused | ShipmentReturned | PaymentSettled,
) -> tuple[RefundPayment, ...]:
    if not event.refund_minor:
        return ()
    return (
        RefundPayment(
            command_id=_id(event, "refund"),
            order_uid=event.order_uid,
            refund_id=event.refund_id,
            amount_minor=event.refund_minor,
            reason=event.type,
        ),
    )


def _asked_of_account(event: PaymentRequested | CaptureRequested | VoidRequested | RefundRequested) -> Command:
    """The hold has the order's name: an account has one for each order."""
    hold: dict[str, Any] = {
        "command_id": _id(event),
        "account_id": account_id_of(event.user_id, event.currency),
        "hold_id": event.order_uid,
        "order_uid": event.order_uid,
    }
    if isinstance(event, VoidRequested):
        return ReleaseHold(**hold)
    hold |= {"amount_minor": event.amount_minor, "currency": event.currency}
    match event:
        case PaymentRequested():
            return HoldFunds(**hold, expires_at_ms=event.expires_at_ms)
        case CaptureRequested():
            return CaptureHold(**hold)
        case RefundRequested():
            return RefundFunds(**hold, refund_id=event.refund_id)
    assert_never(event)


_DECLINES: dict[str, DeclineReason] = {str(reason): reason for reason in DeclineReason}


def _told_to_payment(
    event: FundsHeld | HoldCaptured | HoldReleased | FundsRefunded | AccountCommandRefused, order_uid: str
) -> Command:
    said: dict[str, Any] = {
        "command_id": _id(event),
        "order_uid": order_uid,
        "source": Source.ACCOUNT,
        "reference": event.account_id,
    }
    match event:
        case FundsHeld():
            return RecordAuthorisation(**said, amount_minor=event.amount_minor)
        case HoldCaptured():
            return RecordCapture(**said, amount_minor=event.movement.amount_minor)
        case HoldReleased():
            return RecordVoid(**said, reason=event.reason)
        case FundsRefunded():
            return RecordRefund(**said, refund_id=event.refund_id, amount_minor=event.movement.amount_minor)
        case AccountCommandRefused(command="capture_hold"):
            return RecordFailure(**said, step=Step.CAPTURE, reason=event.reason)
        case AccountCommandRefused(command="release_hold"):
            return RecordVoid(**said, reason=event.reason)  # whichever it is, nothing is held
        case AccountCommandRefused(command="refund_funds"):
            return RecordFailure(**said, step=Step.REFUND, refund_id=event.refund_id, reason=event.reason)
        case AccountCommandRefused():
            return RecordDecline(**said, reason=_DECLINES.get(event.reason, DeclineReason.REFUSED), detail=event.reason)
    assert_never(event)


def _id(event: Telling, which: int | str = 0) -> str:
    """The id of a command that an event causes: the same when the event is told again."""
    return derived_id(f"{event.event_id} {which}")


def teller(topics: Mapping[type[Any], tuple[Topic, str]]) -> Tell:
    """Tells events to the domains they concern. `topics`: for each command its topic and the field that is its key."""

    def tell(event: Telling) -> None:
        for command in react(event):
            topic, key = topics[type(command)]
            # What every order of an outlet goes by has to be where each of them is.
            homes = range(topic.partitions) if isinstance(command, NoteOutlet) else (None,)
            for home in homes:
                topic.put(key=getattr(command, key), value=command, partition=home)

    return tell
