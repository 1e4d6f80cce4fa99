"""a purchase, a command -> events: one function per chapter of an order's life, each after the table of legal moves."""

from __future__ import annotations

from typing import Any, assert_never

from agents.purchases.returns import give_back, objection_to_return, replace
from agents.purchases.state import (
    add,
    excess_minor,
    owed_minor,
)
from agents.purchases.story import Outlets, Story, free_to_ship, goods, is_asked, objection_to_parts, sums
from agents.purchases.travel import (
    ShipmentCommand,
    has_come_to_pass,
    if_last,
    note,
    objection_to_travel,
    pack,
    travel,
)
from schemas.accounts import MAX_AMOUNT_MINOR
from schemas.base import derived_id, event_id_for, unix_ms
from schemas.orders import OrderStatus
from schemas.outlets import ApprovalMode, NotedOutlet
from schemas.payments import PaymentMethod
from schemas.purchases import (
    ApproveOrder,
    ApproveReturn,
    CancelPurchase,
    CartPlaced,
    CompleteOrder,
    EndReason,
    ExpireOrder,
    Freed,
    LineRefused,
    LineReserved,
    NoteCarrier,
    OrderApproved,
    OrderCompleted,
    OrderNumbered,
    OrderPaid,
    OrderValidated,
    PackOrder,
    Part,
    PartsCancelled,
    PaymentLost,
    PaymentSettled,
    PlaceCart,
    Purchase,
    PurchaseCommand,
    PurchaseCommandRefused,
    PurchaseEnded,
    PurchaseEvent,
    PurchaseRefusal,
    ReceiveReturn,
    RecordNumber,
    RecordPayment,
    RecordPaymentFailure,
    RecordReservation,
    RecordShortage,
    RefundSettled,
    RefuseReturn,
    RejectOrder,
    RequestReturn,
    SettlePayment,
    SettleRefund,
    ShipmentDelivered,
    ShipmentReturned,
    ShipOrder,
)
from schemas.purchases.lifecycle import ANY_STATUS, DEADLINES, LEGAL, REPORTS

MoneyCommand = RecordPayment | RecordPaymentFailure | SettlePayment | SettleRefund


_SAID_NOTHING: dict[str, NotedOutlet] = {}


def decide(
    purchase: Purchase | None,
    command: PurchaseCommand,
    occurred_at: str,
    *,
    answered: bool = False,
    outlets: Outlets = _SAID_NOTHING,
    taken: int = 0,
) -> tuple[PurchaseEvent, ...]:
    """What a command comes to. `()`: nothing new to say.

    `answered`: an event or a refusal of this command_id is in the order's timeline already. `outlets`: how those that
    said so take orders; what they say comes before what the cart came with. `taken`: the version of an order of this
    order_uid that came as a document.
    """
    if answered or (purchase is not None and has_come_to_pass(purchase, command)):
        return ()
    if isinstance(command, PlaceCart):
        return _place(purchase, command, occurred_at, taken)
    reason = objection(purchase, command)
    if reason is not None:
        silent = reason is PurchaseRefusal.NOT_IN_THIS_STATUS and command.type in REPORTS | DEADLINES
        return () if silent else (_refused(purchase, command, occurred_at, reason),)
    assert purchase is not None, "a command without an order was refused"
    story = Story(purchase, command.command_id, occurred_at, outlets)
    if isinstance(command, ShipmentCommand):
        return travel(story, command)
    match command:
        case RecordReservation() | RecordShortage():
            return _take_line(story, command)
        case RecordPayment() | RecordPaymentFailure() | SettlePayment() | SettleRefund():
            return _take_money(story, command)
        case RecordNumber():
            numbered = story.purchase.order_number is not None
            return () if numbered else story.tell(OrderNumbered, order_number=command.order_number)
        case ExpireOrder():
            return story.end(EndReason.NOT_PAID_IN_TIME, "")
        case ApproveOrder():
            return _approve(story)
        case RejectOrder():
            return story.end(EndReason.REJECTED_BY_SELLER, command.reason)
        case PackOrder():
            return pack(story, command)
        case CompleteOrder():
            return story.tell(OrderCompleted)
        case CancelPurchase():
            return _cancel(story, command)
        case NoteCarrier():
            return note(story, command)
        case RequestReturn() | ApproveReturn() | RefuseReturn() | ReceiveReturn():
            return give_back(story, command)
    assert_never(command)


# --- whether a command may be carried out -----------------------------------------------------------------------------


def objection(purchase: Purchase | None, command: PurchaseCommand) -> PurchaseRefusal | None:
    """Why not, in the order of the enum."""
    if purchase is None:
        return PurchaseRefusal.NO_SUCH_ORDER
    if command.is_outdated(purchase.version):
        return PurchaseRefusal.WRONG_VERSION
    if command.type not in ANY_STATUS and purchase.status not in LEGAL[command.type]:
        return PurchaseRefusal.NOT_IN_THIS_STATUS
    if isinstance(command, ShipmentCommand):
        return objection_to_travel(purchase, command)
    match command:
        case CancelPurchase(parts=None) if purchase.has_left:
            return PurchaseRefusal.NOT_IN_THIS_STATUS
        case CancelPurchase(parts=list()) if not purchase.paid:
            return PurchaseRefusal.NOT_IN_THIS_STATUS
        case CancelPurchase(parts=list(parts)):
            return objection_to_parts(purchase, parts, free_to_ship(purchase))
        case RequestReturn() | ApproveReturn() | RefuseReturn() | ReceiveReturn():
            return objection_to_return(purchase, command)
        case RecordNumber() if not purchase.approved:
            return PurchaseRefusal.NOT_IN_THIS_STATUS
        case RecordReservation() | RecordShortage():
            return None if purchase.line(command.line) else PurchaseRefusal.NO_SUCH_LINE
        case _:
            return None


# --- the chapters -----------------------------------------------------------------------------------------------------


def _place(purchase: Purchase | None, command: PlaceCart, occurred_at: str, taken: int) -> tuple[PurchaseEvent, ...]:
    if purchase is None and taken:
        return (_refused(purchase, command, occurred_at, PurchaseRefusal.ORDER_UID_TAKEN, taken),)
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
        [(line.item_id, line.asked) for line in purchase.lines if line.replaces is None],
        purchase.payment,
        purchase.address,
        purchase.split,
    )
    asked = [(line.item_id, line.quantity) for line in command.lines]
    if before == (command.user_id, asked, command.payment, command.address, command.split):
        return ()
    return (_refused(purchase, command, occurred_at, PurchaseRefusal.EXISTS_WITH_DIFFERENT_CONTENT),)


def _take_line(story: Story, command: RecordReservation | RecordShortage) -> tuple[PurchaseEvent, ...]:
    line = story.purchase.line(command.line)
    if line is None or line.answered:
        return ()
    if line.replaces is not None:
        return replace(story, line, command)
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


def _validate(story: Story) -> tuple[PurchaseEvent, ...]:
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


def _take_money(story: Story, command: MoneyCommand) -> tuple[PurchaseEvent, ...]:
    match command:
        case RecordPayment():
            return _pay(story, command.amount_minor)
        case RecordPaymentFailure() if story.purchase.has_left:
            return _lose(story, command.reason)
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


def _pay(story: Story, amount_minor: int) -> tuple[PurchaseEvent, ...]:
    after = _approve_after_ms(story.purchase, story.outlets)
    story.tell(OrderPaid, amount_minor=amount_minor, approve_at_ms=story.now_ms + after if after else None)
    return _approve(story) if after == 0 else story.events


def _lose(story: Story, reason: str) -> tuple[PurchaseEvent, ...]:
    """Too late to keep the goods. Nothing new: all that was asked for came, or is known to be lost, or none was yet."""
    purchase = story.purchase
    lost = purchase.capture_minor - purchase.captured_minor - purchase.failed_minor
    return story.tell(PaymentLost, amount_minor=lost, reason=reason) if lost > 0 else ()


def _approve_after_ms(purchase: Purchase, outlets: Outlets) -> int | None:
    """As the outlet has said by now, or else as the cart came with it; None: by hand."""
    said = outlets.get(purchase.outlet_id) if purchase.outlet_id is not None else None
    if said is None or said.approval is None:
        return purchase.terms.approve_after_ms
    return None if said.approval.mode is ApprovalMode.BY_HAND else said.approval.after_ms


def _approve(story: Story) -> tuple[PurchaseEvent, ...]:
    purchase = story.purchase
    elsewhere = purchase.payment.method in (PaymentMethod.CASH_ON_DELIVERY, PaymentMethod.PREPAID)
    capture = None if elsewhere else owed_minor(purchase) or None
    void = not elsewhere and not capture and is_asked(purchase)
    return story.tell(OrderApproved, capture_minor=capture, void=void, outlet_id=purchase.outlet_id)


def _cancel(story: Story, command: CancelPurchase) -> tuple[PurchaseEvent, ...]:
    purchase = story.purchase
    left = {line.line: line.wanted for line in purchase.lines if line.wanted}
    asked = sums(command.parts or ())
    if command.parts is None or (not purchase.has_left and asked == left):
        return story.end(EndReason.CANCELLED, command.reason)
    parts = [Part(line=line, quantity=quantity) for line, quantity in asked.items()]
    after = add(purchase, parts, "cancelled")
    return story.tell(
        PartsCancelled,
        reason=command.reason,
        freed=[Freed(**each.model_dump()) for each in goods(purchase, parts)],
        amount_minor=purchase.price_of(parts),
        refund_minor=excess_minor(after, 0),
        refund_id=story.refund_id(),
        **if_last(story, after),
    )


def _refused(
    purchase: Purchase | None, command: PurchaseCommand, occurred_at: str, reason: PurchaseRefusal, version: int = 0
) -> PurchaseCommandRefused:
    return PurchaseCommandRefused(
        event_id=event_id_for(command.command_id, 0),
        caused_by=command.command_id,
        occurred_at=occurred_at,
        order_uid=command.order_uid,
        version=purchase.version if purchase else version,
        command=command.type,
        reason=reason,
        shipment_id=command.shipment_id if isinstance(command, ShipOrder) and command.carrier else None,
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
