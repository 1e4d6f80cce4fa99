"""a purchase, a command -> events: one function per chapter of an order's life, each after the table of legal moves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, assert_never

from agents.purchases.state import (
    UNDER_WAY,
    add,
    arrived,
    changed_by,
    excess_minor,
    owed_minor,
    parts_of,
    shipment_in,
    stamped,
    status_of,
)
from schemas.accounts import MAX_AMOUNT_MINOR
from schemas.base import derived_id, event_id_for, unix_ms
from schemas.orders import OrderStatus
from schemas.payments import PaymentMethod
from schemas.purchases import (
    ApproveOrder,
    ApproveReturn,
    CancelPurchase,
    CartPlaced,
    CompleteOrder,
    DeliverShipment,
    EndReason,
    ExpireOrder,
    Freed,
    LineRefused,
    LineReserved,
    OrderApproved,
    OrderCompleted,
    OrderPacked,
    OrderPaid,
    OrderShipped,
    OrderValidated,
    PackOrder,
    Part,
    PartsCancelled,
    PaymentSettled,
    PlaceCart,
    Purchase,
    PurchaseChanged,
    PurchaseCommand,
    PurchaseCommandRefused,
    PurchaseEnded,
    PurchaseEvent,
    PurchaseRefusal,
    ReceiveReturn,
    RecordPayment,
    RecordPaymentFailure,
    RecordReservation,
    RecordShortage,
    RefundSettled,
    RefuseReturn,
    RejectOrder,
    RequestReturn,
    ReturnApproved,
    ReturnReceived,
    ReturnRefused,
    ReturnRequested,
    ReturnShipment,
    ReturnState,
    SendOut,
    SettlePayment,
    SettleRefund,
    ShipmentDelivered,
    ShipmentReturned,
    ShipmentSentOut,
    ShipmentState,
    ShipOrder,
    Shipped,
)
from schemas.purchases.lifecycle import ANY_STATUS, DEADLINES, LEGAL, REPORTS

ShipmentCommand = ShipOrder | SendOut | DeliverShipment | ReturnShipment
ReturnCommand = RequestReturn | ApproveReturn | RefuseReturn | ReceiveReturn
MoneyCommand = RecordPayment | RecordPaymentFailure | SettlePayment | SettleRefund


def decide(
    purchase: Purchase | None, command: PurchaseCommand, occurred_at: str, *, answered: bool = False
) -> tuple[PurchaseEvent, ...]:
    """What a command comes to. `()`: nothing new to say.

    `answered`: an event or a refusal of this command_id is in the order's timeline already.
    """
    if answered:
        return ()
    if isinstance(command, PlaceCart):
        return _place(purchase, command, occurred_at)
    reason = objection(purchase, command)
    if reason is not None:
        silent = reason is PurchaseRefusal.NOT_IN_THIS_STATUS and command.type in REPORTS | DEADLINES
        return () if silent else (_refused(purchase, command, occurred_at, reason),)
    assert purchase is not None, "a command without an order was refused"
    story = _Story(purchase, command.command_id, occurred_at)
    match command:
        case RecordReservation() | RecordShortage():
            return _take_line(story, command)
        case RecordPayment() | RecordPaymentFailure() | SettlePayment() | SettleRefund():
            return _take_money(story, command)
        case ExpireOrder():
            return story.end(EndReason.NOT_PAID_IN_TIME, "")
        case ApproveOrder():
            return _approve(story)
        case RejectOrder():
            return story.end(EndReason.REJECTED_BY_SELLER, command.reason)
        case PackOrder():
            return story.tell(OrderPacked)
        case CompleteOrder():
            return story.tell(OrderCompleted)
        case CancelPurchase():
            return _cancel(story, command)
        case ShipOrder() | SendOut() | DeliverShipment() | ReturnShipment():
            return _travel(story, command)
        case RequestReturn() | ApproveReturn() | RefuseReturn() | ReceiveReturn():
            return _give_back(story, command)
    assert_never(command)


class _Story:
    """The events of one command, each told of the order as the one before it left it. Each telling gives all so far."""

    def __init__(self, purchase: Purchase, cause: str, occurred_at: str) -> None:
        self.purchase: Purchase = purchase
        self.events: tuple[PurchaseEvent, ...] = ()
        self._cause, self._at = cause, occurred_at

    @property
    def now_ms(self) -> int:
        return unix_ms(self._at)

    def refund_id(self) -> str:
        """The id of a refund that the next event asks for."""
        return derived_id(f"refund {event_id_for(self._cause, len(self.events))}")

    def tell(self, kind: type[PurchaseChanged], **facts: Any) -> tuple[PurchaseEvent, ...]:
        head = {
            "event_id": event_id_for(self._cause, len(self.events)),
            "caused_by": self._cause,
            "occurred_at": self._at,
            "order_uid": self.purchase.order_uid,
            "version": self.purchase.version + 1,
        }
        told = kind(**head, status=OrderStatus.PLACED, **facts)
        changed = changed_by(self.purchase, told)
        event = told.model_copy(update={"status": status_of(changed)})
        self.purchase = stamped(changed, event)
        self.events = (*self.events, event)
        return self.events

    def end(self, reason: EndReason, detail: str) -> tuple[PurchaseEvent, ...]:
        """Nothing will leave: free the stock, let go of the money, give back what was taken."""
        purchase = self.purchase
        return self.tell(
            PurchaseEnded,
            reason=reason,
            detail=detail,
            freed=[
                Freed(line=line.line, item_id=line.item_id, quantity=None)
                for line in purchase.lines
                if line.refused is None
            ],
            # What was asked to be captured comes in (and goes back), or fails by itself.
            void=_is_asked(purchase) and reason is not EndReason.PAYMENT_FAILED,
            refund_minor=excess_minor(purchase, owed_minor(purchase)),
            refund_id=self.refund_id(),
        )


# --- whether a command may be carried out -----------------------------------------------------------------------------


def objection(purchase: Purchase | None, command: PurchaseCommand) -> PurchaseRefusal | None:
    """Why not, in the order of the enum."""
    if purchase is None:
        return PurchaseRefusal.NO_SUCH_ORDER
    if command.type not in ANY_STATUS and purchase.status not in LEGAL[command.type]:
        return PurchaseRefusal.NOT_IN_THIS_STATUS
    match command:
        case CancelPurchase(parts=None) if purchase.shipments:
            return PurchaseRefusal.NOT_IN_THIS_STATUS
        case CancelPurchase(parts=list()) if not purchase.paid:
            return PurchaseRefusal.NOT_IN_THIS_STATUS
        case CancelPurchase(parts=list(parts)):
            return _objection_to_parts(purchase, parts, _not_shipped(purchase))
        case ShipOrder() | SendOut() | DeliverShipment() | ReturnShipment():
            return _objection_to_travel(purchase, command)
        case RequestReturn() | ApproveReturn() | RefuseReturn() | ReceiveReturn():
            return _objection_to_return(purchase, command)
        case RecordReservation() | RecordShortage():
            return None if purchase.line(command.line) else PurchaseRefusal.NO_SUCH_LINE
        case _:
            return None


def _objection_to_travel(purchase: Purchase, command: ShipmentCommand) -> PurchaseRefusal | None:
    shipment = purchase.shipment(command.shipment_id)
    if not isinstance(command, ShipOrder):
        if shipment is None:
            return PurchaseRefusal.NO_SUCH_SHIPMENT
        under_way = (ShipmentState.SHIPPED,) if isinstance(command, SendOut) else UNDER_WAY
        return None if shipment.state in under_way else PurchaseRefusal.SHIPMENT_NOT_UNDER_WAY
    if shipment is not None:
        return PurchaseRefusal.SHIPMENT_EXISTS
    there_is = _not_shipped(purchase)
    if command.parts is not None and (reason := _objection_to_parts(purchase, command.parts, there_is)) is not None:
        return reason
    return None if any(there_is.values()) and command.parts != [] else PurchaseRefusal.NOTHING_TO_SHIP


def _objection_to_return(purchase: Purchase, command: ReturnCommand) -> PurchaseRefusal | None:
    found = purchase.return_(command.return_id)
    if isinstance(command, RequestReturn):
        if found is not None:
            return PurchaseRefusal.RETURN_EXISTS
        return _objection_to_parts(purchase, command.parts, _with_buyer(purchase))
    if found is None:
        return PurchaseRefusal.NO_SUCH_RETURN
    wanted = ReturnState.APPROVED if isinstance(command, ReceiveReturn) else ReturnState.REQUESTED
    return None if found.state is wanted else PurchaseRefusal.RETURN_NOT_OPEN


def _objection_to_parts(purchase: Purchase, parts: Sequence[Part], there_is: dict[int, int]) -> PurchaseRefusal | None:
    if any(part.line not in there_is for part in parts):
        return PurchaseRefusal.NO_SUCH_LINE
    too_many = any(quantity > there_is[line] for line, quantity in _sums(parts).items())
    return PurchaseRefusal.MORE_THAN_THERE_IS if too_many else None


def _not_shipped(purchase: Purchase) -> dict[int, int]:
    return {line.line: line.wanted - line.shipped for line in purchase.lines}


def _with_buyer(purchase: Purchase) -> dict[int, int]:
    """What was delivered and is neither back nor promised to come back."""
    there_is = {line.line: line.delivered for line in purchase.lines}
    for each in purchase.returns:
        for part in each.parts if each.state is not ReturnState.REFUSED else ():
            there_is[part.line] -= part.quantity
    return there_is


# --- the chapters -----------------------------------------------------------------------------------------------------


def _place(purchase: Purchase | None, command: PlaceCart, occurred_at: str) -> tuple[PurchaseEvent, ...]:
    placed = CartPlaced(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=1,
        status=OrderStatus.PLACED,
        user_id=command.user_id,
        lines=command.lines,
        payment=command.payment,
        address=command.address,
        split=command.split,
        terms=command.terms,
    )
    if purchase is None:
        return (placed,)
    before = (
        purchase.user_id,
        [(line.item_id, line.asked) for line in purchase.lines],
        purchase.payment,
        purchase.address,
        purchase.split,
    )
    asked = [(line.item_id, line.quantity) for line in command.lines]
    if before == (command.user_id, asked, command.payment, command.address, command.split):
        return ()
    return (_refused(purchase, command, occurred_at, PurchaseRefusal.EXISTS_WITH_DIFFERENT_CONTENT),)


def _take_line(story: _Story, command: RecordReservation | RecordShortage) -> tuple[PurchaseEvent, ...]:
    line = story.purchase.line(command.line)
    if line is None or line.answered:
        return ()
    if isinstance(command, RecordShortage):
        if not story.purchase.split:
            return story.end(EndReason.OUT_OF_STOCK, f"line {command.line}, {line.item_id}: {command.reason}")
        story.tell(LineRefused, line=command.line, reason=command.reason)
    else:
        currency = story.purchase.currency
        story.tell(
            LineReserved,
            line=command.line,
            quantity=command.quantity,
            price_minor=command.price_minor,
            currency=command.currency,
            outlet_id=command.outlet_id,
            name=command.name,
        )
        if currency not in (None, command.currency):
            detail = f"{currency} and {command.currency}: an order has one currency"
            return story.end(EndReason.MIXED_CURRENCIES, detail)
    return _validate(story) if all(each.answered for each in story.purchase.lines) else story.events


def _validate(story: _Story) -> tuple[PurchaseEvent, ...]:
    """Every line has its answer: the price is known."""
    purchase = story.purchase
    total = owed_minor(purchase)
    if not any(line.reserved for line in purchase.lines):
        return story.end(EndReason.OUT_OF_STOCK, "nothing of the order is to be had")
    if total > MAX_AMOUNT_MINOR:
        return story.end(EndReason.AMOUNT_ABOVE_LIMIT, f"{total} is more than one payment may be")
    story.tell(
        OrderValidated,
        user_id=purchase.user_id,
        payment=purchase.payment,
        total_minor=total,
        currency=purchase.currency,
        pay_by_ms=unix_ms(purchase.placed_at) + purchase.terms.pay_within_ms,
    )
    return story.events if total else _pay(story, 0)


def _take_money(story: _Story, command: MoneyCommand) -> tuple[PurchaseEvent, ...]:
    match command:
        case RecordPayment():
            return _pay(story, command.amount_minor)
        case RecordPaymentFailure() if story.purchase.approved and not owed_minor(story.purchase):
            return ()  # it was let go because nothing is owed any more
        case RecordPaymentFailure():
            return story.end(EndReason.PAYMENT_FAILED, command.reason)
        case SettlePayment():
            amount = command.amount_minor
            excess = excess_minor(story.purchase, amount)
            return story.tell(PaymentSettled, amount_minor=amount, refund_minor=excess, refund_id=story.refund_id())
        case SettleRefund():
            return story.tell(RefundSettled, refund_id=command.refund_id, amount_minor=command.amount_minor)
    assert_never(command)


def _pay(story: _Story, amount_minor: int) -> tuple[PurchaseEvent, ...]:
    after = story.purchase.terms.approve_after_ms
    story.tell(OrderPaid, amount_minor=amount_minor, approve_at_ms=story.now_ms + after if after else None)
    return _approve(story) if after == 0 else story.events


def _approve(story: _Story) -> tuple[PurchaseEvent, ...]:
    purchase = story.purchase
    elsewhere = purchase.payment.method in (PaymentMethod.CASH_ON_DELIVERY, PaymentMethod.PREPAID)
    capture = None if elsewhere else owed_minor(purchase) or None
    return story.tell(OrderApproved, capture_minor=capture, void=not elsewhere and not capture and _is_asked(purchase))


def _is_asked(purchase: Purchase) -> bool:
    """Whether money is set aside, or may be, that nobody has asked to capture. What is owed may be nothing by now."""
    return bool(purchase.authorised_minor or purchase.total_minor) and purchase.capture_minor == 0


def _cancel(story: _Story, command: CancelPurchase) -> tuple[PurchaseEvent, ...]:
    purchase = story.purchase
    left = {line: quantity for line, quantity in _not_shipped(purchase).items() if quantity}
    asked = _sums(command.parts or ())
    if command.parts is None or (not purchase.shipments and asked == left):
        return story.end(EndReason.CANCELLED, command.reason)
    parts = [Part(line=line, quantity=quantity) for line, quantity in asked.items()]
    after = add(purchase, parts, "cancelled")
    return story.tell(
        PartsCancelled,
        reason=command.reason,
        freed=[Freed(**each.model_dump()) for each in _goods(purchase, parts)],
        amount_minor=purchase.price_of(parts),
        refund_minor=excess_minor(after, 0),
        refund_id=story.refund_id(),
        **_if_last(story, after),
    )


def _travel(story: _Story, command: ShipmentCommand) -> tuple[PurchaseEvent, ...]:
    purchase, id = story.purchase, command.shipment_id
    match command:
        case ShipOrder():
            all_left = (Part(line=line, quantity=left) for line, left in _not_shipped(purchase).items() if left)
            parts = list(all_left) if command.parts is None else command.parts
            return story.tell(OrderShipped, shipment_id=id, parts=_goods(purchase, parts))
        case SendOut():
            return story.tell(ShipmentSentOut, shipment_id=id)
        case DeliverShipment():
            after = add(shipment_in(purchase, id, ShipmentState.DELIVERED), parts_of(purchase, id), "delivered")
            return story.tell(ShipmentDelivered, shipment_id=id, **_if_last(story, after))
        case ReturnShipment():
            back = parts_of(purchase, id)
            after = add(shipment_in(purchase, id, ShipmentState.RETURNED_TO_ORIGIN), back, "returned")
            return story.tell(
                ShipmentReturned,
                shipment_id=id,
                parts=_goods(purchase, back),
                refund_minor=excess_minor(after, 0),
                refund_id=story.refund_id(),
                **_if_last(story, after),
            )
    assert_never(command)


def _if_last(story: _Story, after: Purchase) -> dict[str, int | None]:
    """What follows when nothing is under way or outstanding any more: cash is paid, the time for returns begins."""
    if not after.shipments or not arrived(after):
        return {"capture_minor": None, "complete_at_ms": None}
    cash = after.payment.method is PaymentMethod.CASH_ON_DELIVERY and not after.capture_minor
    return {
        "capture_minor": (owed_minor(after) or None) if cash else None,
        "complete_at_ms": story.now_ms + after.terms.return_within_ms,
    }


def _give_back(story: _Story, command: ReturnCommand) -> tuple[PurchaseEvent, ...]:
    purchase, id = story.purchase, command.return_id
    match command:
        case RequestReturn():
            return story.tell(ReturnRequested, return_id=id, parts=command.parts, reason=command.reason)
        case ApproveReturn():
            return story.tell(ReturnApproved, return_id=id)
        case RefuseReturn():
            return story.tell(ReturnRefused, return_id=id, reason=command.reason)
        case ReceiveReturn():
            found = purchase.return_(id)
            assert found is not None, "the objection came first"
            excess = excess_minor(purchase, purchase.price_of(found.parts))
            parts, refund = _goods(purchase, found.parts), story.refund_id()
            return story.tell(ReturnReceived, return_id=id, parts=parts, refund_minor=excess, refund_id=refund)
    assert_never(command)


def _sums(parts: Iterable[Part]) -> dict[int, int]:
    asked: dict[int, int] = {}
    for part in parts:
        asked[part.line] = asked.get(part.line, 0) + part.quantity
    return asked


def _goods(purchase: Purchase, parts: Iterable[Part]) -> list[Shipped]:
    return [
        Shipped(line=part.line, item_id=purchase.lines[part.line - 1].item_id, quantity=part.quantity) for part in parts
    ]


def _refused(
    purchase: Purchase | None, command: PurchaseCommand, occurred_at: str, reason: PurchaseRefusal
) -> PurchaseCommandRefused:
    return PurchaseCommandRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=purchase.version if purchase else 0,
        command=command.type,
        reason=reason,
    )


def deadlines_of(event: PurchaseEvent) -> tuple[tuple[str, int | None, PurchaseCommand | None], ...]:
    """The deadlines that an event sets (name, Unix time in ms, what is sent then) or takes away (name, None, None)."""
    match event:
        case CartPlaced():
            due = unix_ms(event.occurred_at) + event.terms.pay_within_ms
            return (("pay", due, ExpireOrder(**_sent(event, "expire"))),)
        case OrderPaid() if event.approve_at_ms is not None:
            return (("pay", None, None), ("approve", event.approve_at_ms, ApproveOrder(**_sent(event, "approve"))))
        case OrderPaid():
            return (("pay", None, None),)
        case OrderApproved() | PurchaseEnded():
            return (("pay", None, None), ("approve", None, None))
        case ShipmentDelivered() | ShipmentReturned() | PartsCancelled() if event.complete_at_ms is not None:
            return (("complete", event.complete_at_ms, CompleteOrder(**_sent(event, "complete"))),)
        case _:
            return ()


def _sent(event: PurchaseEvent, what: str) -> dict[str, Any]:
    return {"command_id": derived_id(f"{what} {event.event_id}"), "order_uid": event.order_uid}
