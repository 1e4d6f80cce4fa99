"""Payments: events -> rows -> a payment, its refunds, every attempt, answered commands. Tables of group `orders`.

A payment has one writer, the task of its order_uid. The layout of the keys (NUL ends a part, none may hold it):

    payments           order_uid -> Payment
    payment_refunds    order_uid NUL refund_id -> Refund
    payment_attempts   order_uid NUL number -> Attempt          what was asked, answered or refused, in order
    payment_commands   order_uid NUL command_id -> CommandAnswer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile

from schemas.payments import (
    Attempt,
    CommandAnswer,
    Payment,
    PaymentCommand,
    PaymentCommandRefused,
    PaymentEvent,
    Refund,
)
from streams import App, Codec, Table

GROUP = "orders"

#: A payment and its refunds by their ids, before an event and after it.
Fold = Callable[[Payment | None, Mapping[str, Refund], PaymentEvent], tuple[Payment | None, Mapping[str, Refund]]]


@dataclass(frozen=True)
class PaymentTables:
    """The tables of payments. Reads work in the group's agents and within `app.reading("orders", partition)`."""

    payments: Table[Payment]
    refunds: Table[Refund]
    log: Table[Attempt]
    commands: Table[CommandAnswer]
    #: The rules' own fold (agents/payments.py): what a payment was follows from its events as what it is did.
    fold: Fold
    #: The same of one event, without refunds: what PostgreSQL's rows follow from.
    evolve: Callable[[Payment | None, PaymentEvent], Payment | None]

    def payment(self, order_uid: str) -> Payment | None:
        """The order's payment as it stands."""
        return self.payments.get(order_uid)

    def refund(self, order_uid: str, refund_id: str) -> Refund | None:
        """The refund as it stands."""
        return self.refunds.get(f"{order_uid}\0{refund_id}")

    def answer(self, order_uid: str, command_id: str) -> CommandAnswer | None:
        """What became of a command; None when it has not come, or had nothing new to say."""
        return self.commands.get(f"{order_uid}\0{command_id}")

    def attempts(
        self, order_uid: str, *, until: int | None = None, after: str | None = None, limit: int | None = None
    ) -> Iterator[tuple[str, Attempt]]:
        """What was asked, answered or refused, oldest first. `after`: a key given before. `until`: the last number."""
        rows = self.log.range(f"{order_uid}\0", after=after, limit=limit)
        return rows if until is None else takewhile(lambda row: row[1].number <= until, rows)

    def refunds_of(self, order_uid: str) -> Iterator[tuple[str, Refund]]:
        """The refunds of a payment by their ids."""
        return self.refunds.range(f"{order_uid}\0")

    def keep(self, payment: Payment | None, event: PaymentEvent, command: PaymentCommand) -> None:
        """Write down a payment after an event, the event as an attempt, and that the command is answered."""
        reason = event.reason if isinstance(event, PaymentCommandRefused) else None
        self.commands[f"{event.order_uid}\0{event.caused_by}"] = CommandAnswer(
            event.type, reason, event.version, event.occurred_at
        )
        if payment is None:  # a refusal of what there is not: it stands in the events and above
            return
        self.payments[event.order_uid] = payment
        self.log[f"{event.order_uid}\0{payment.attempts:010d}"] = Attempt(
            number=payment.attempts,
            type=event.type,
            status=payment.status,
            amount_minor=getattr(event, "amount_minor", None),
            refund_id=getattr(event, "refund_id", None),
            reason=getattr(event, "reason", None),
            detail=getattr(event, "detail", None),
            source=getattr(event, "source", None),
            reference=getattr(event, "reference", None),
            command=command.type,
            caused_by=event.caused_by,
            occurred_at=event.occurred_at,
        )

    def keep_refund(self, order_uid: str, refund: Refund) -> None:
        self.refunds[f"{order_uid}\0{refund.refund_id}"] = refund


def declare(app: App, fold: Fold, evolve: Callable[[Payment | None, PaymentEvent], Payment | None]) -> PaymentTables:
    """Declare the tables on the app. Their changelogs are named after them. `fold`, `evolve`: the rules' own."""
    return PaymentTables(
        evolve=evolve,
        payments=app.Table(
            "payments", group=GROUP, codec=Codec(Payment.to_json, Payment.from_json), help="Payments by order."
        ),
        refunds=app.Table(
            "payment_refunds", group=GROUP, codec=Codec(Refund.to_json, Refund.from_json), help="Refunds of payments."
        ),
        log=app.Table(
            "payment_attempts",
            group=GROUP,
            codec=Codec(Attempt.to_json, Attempt.from_json),
            help="What was asked, answered or refused of a payment.",
        ),
        commands=app.Table(
            "payment_commands",
            group=GROUP,
            codec=Codec(CommandAnswer.to_json, CommandAnswer.from_json),
            help="Answered commands, so that none counts twice.",
        ),
        fold=fold,
    )
