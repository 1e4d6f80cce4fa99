"""a command about a return -> what speaks against it, or its events: for money, or for the same again."""

from __future__ import annotations

from typing import assert_never

from agents.purchases.state import excess_minor
from agents.purchases.story import Story, goods, objection_to_parts, sums
from schemas.purchases import (
    MAX_LINE,
    ApproveReturn,
    LineState,
    Purchase,
    PurchaseEvent,
    PurchaseRefusal,
    ReceiveReturn,
    RecordReservation,
    RecordShortage,
    RefuseReturn,
    Replacement,
    ReplacementRefused,
    ReplacementReserved,
    RequestReturn,
    Return,
    ReturnApproved,
    ReturnReceived,
    ReturnRefused,
    ReturnRequested,
    ReturnState,
)

ReturnCommand = RequestReturn | ApproveReturn | RefuseReturn | ReceiveReturn


def objection_to_return(purchase: Purchase, command: ReturnCommand) -> PurchaseRefusal | None:
    found = purchase.return_(command.return_id)
    if isinstance(command, RequestReturn):
        if found is not None:
            return PurchaseRefusal.RETURN_EXISTS
        reason = objection_to_parts(purchase, command.parts, _with_buyer(purchase))
        return reason or (PurchaseRefusal.TOO_MANY_LINES if _is_full(purchase, command) else None)
    if found is None:
        return PurchaseRefusal.NO_SUCH_RETURN
    wanted = ReturnState.APPROVED if isinstance(command, ReceiveReturn) else ReturnState.REQUESTED
    return None if found.state is wanted else PurchaseRefusal.RETURN_NOT_OPEN


def _with_buyer(purchase: Purchase) -> dict[int, int]:
    """What was delivered and is neither back nor promised to come back."""
    there_is = {line.line: line.delivered for line in purchase.lines}
    for each in purchase.returns:
        for part in each.parts if each.state is not ReturnState.REFUSED else ():
            there_is[part.line] -= part.quantity
    return there_is


def _is_full(purchase: Purchase, command: RequestReturn) -> bool:
    """Whether an exchange would need more lines than an order can have, with those that are promised already."""
    if not command.exchange:
        return False
    open_ones = (ReturnState.REQUESTED, ReturnState.APPROVED)
    promised = sum(len(sums(each.parts)) for each in purchase.returns if each.exchange and each.state in open_ones)
    return len(purchase.lines) + promised + len(sums(command.parts)) > MAX_LINE


def give_back(story: Story, command: ReturnCommand) -> tuple[PurchaseEvent, ...]:
    purchase, id = story.purchase, command.return_id
    match command:
        case RequestReturn():
            asked = {"parts": command.parts, "reason": command.reason, "exchange": command.exchange}
            return story.tell(ReturnRequested, return_id=id, **asked)
        case ApproveReturn():
            return story.tell(ReturnApproved, return_id=id)
        case RefuseReturn():
            return story.tell(ReturnRefused, return_id=id, reason=command.reason)
        case ReceiveReturn():
            found = purchase.return_(id)
            assert found is not None, "the objection came first"
            return _receive(story, found)
    assert_never(command)


def _receive(story: Story, found: Return) -> tuple[PurchaseEvent, ...]:
    """For money it is paid back now; for the same again the money waits for what the stock says."""
    purchase = story.purchase
    replacements = [
        Replacement(line=number, replaces=line, item_id=purchase.lines[line - 1].item_id, quantity=quantity)
        for number, (line, quantity) in enumerate(sums(found.parts).items(), len(purchase.lines) + 1)
        if found.exchange
    ]
    less = 0 if found.exchange else purchase.price_of(found.parts)
    return story.tell(
        ReturnReceived,
        return_id=found.return_id,
        parts=goods(purchase, found.parts),
        refund_minor=excess_minor(purchase, less),
        refund_id=story.refund_id(),
        replacements=replacements,
    )


def replace(story: Story, line: LineState, command: RecordReservation | RecordShortage) -> tuple[PurchaseEvent, ...]:
    """What the stock says of a line that is to take the place of another one. Its price is that one's."""
    about = {"line": line.line, "replaces": line.replaces, "quantity": line.asked}
    if isinstance(command, RecordReservation):
        return story.tell(ReplacementReserved, **about)
    price = line.asked * (line.price_minor or 0)
    return story.tell(
        ReplacementRefused,
        **about,
        reason=command.reason,
        refund_minor=excess_minor(story.purchase, price),
        refund_id=story.refund_id(),
    )
