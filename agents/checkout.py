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
from schemas.inventory import (
    InventoryCommandRefused,
    InventoryEvent,
    ItemChanged,
    ItemCreated,
    StockAdjusted,
    StockCommitted,
    StockLow,
    StockOut,
    StockReleased,
    StockReserved,
)
from schemas.payments import (
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
    RefundRequested,
    Source,
    Step,
    VoidRequested,
)
from streams import Topic

#: What an agent hands its events to. Within a batch: the commands join its transaction.
Tell = Callable[[Any], None]

#: Events that commands of other domains may follow from.
Telling = AccountEvent | PaymentEvent | InventoryEvent


def react(event: Telling) -> tuple[Command, ...]:
    """The commands that follow from an event. Pure; `()` for most events."""
    match event:
        # payments -> accounts: what is paid from an account. The provider's effect reads the same events.
        case PaymentRequested() | CaptureRequested() | VoidRequested() | RefundRequested():
            return (_asked_of_account(event),) if event.method is PaymentMethod.ACCOUNT else ()
        case PaymentAuthorised() | PaymentDeclined() | PaymentCaptured() | PaymentVoided() | PaymentRefunded():
            return ()
        case LateMoneyReceived() | PaymentStepFailed() | PaymentCommandRefused():
            return ()
        # accounts -> payments: what became of it.
        case FundsHeld() | HoldCaptured() | HoldReleased() | FundsRefunded() | AccountCommandRefused():
            return () if event.order_uid is None else (_told_to_payment(event, event.order_uid),)
        case AccountOpened() | FundsDeposited() | FundsWithdrawn():
            return ()
        # inventory: nothing follows elsewhere.
        case ItemCreated() | ItemChanged() | StockAdjusted() | StockLow() | StockOut():
            return ()
        case StockReserved() | StockCommitted() | StockReleased() | InventoryCommandRefused():
            return ()
    assert_never(event)


def _asked_of_account(event: PaymentRequested | CaptureRequested | VoidRequested | RefundRequested) -> Command:
    """The hold has the order's name: an account has one for each order."""
    hold: dict[str, Any] = {
        "command_id": command_id(event, 0),
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
        "command_id": command_id(event, 0),
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


def command_id(event: Telling, counter: int) -> str:
    """The id of the counter-th command that an event causes: the same when the event is told again."""
    return derived_id(f"{event.event_id} {counter}")


def teller(topics: Mapping[type[Command], tuple[Topic, str]]) -> Tell:
    """Tells events to the domains they concern. `topics`: for each command its topic and the field that is its key."""

    def tell(event: Telling) -> None:
        for command in react(event):
            topic, key = topics[type(command)]
            topic.put(key=getattr(command, key), value=command)

    return tell


def tell_nobody(event: Any) -> None:
    """For a domain that is wired alone."""
