"""a question about payments -> committed rows of one partition, read by its owner."""

from __future__ import annotations

from collections.abc import Mapping

from tables.payments import GROUP, PaymentTables
from web.asking import Answer, Desk, Question
from web.payments.shapes import present, present_attempt, present_refund


class PaymentQuestions:
    """What the owner of an order's payment can be asked."""

    def __init__(self, desk: Desk, tables: PaymentTables) -> None:
        self._tables = tables
        self.payment = desk.learn(Question("payment", GROUP, self._payment, costly=True))
        self.outcome = desk.learn(Question("payment_outcome", GROUP, self._outcome))

    def _payment(self, args: Mapping[str, str]) -> Answer:
        """The payment, its refunds and a page of its attempts; `until`: those up to this number."""
        uid, limit, until = args["order_uid"], int(args["limit"]), args.get("until")
        payment, last = self._tables.payment(uid), None if until is None else int(until)
        rows = list(self._tables.attempts(uid, until=last, after=args.get("after"), limit=limit + 1))
        return Answer(
            {
                "payment": present(payment) if payment else None,
                "count": payment.attempts if payment else 0,
                "refunds": [present_refund(refund) for _, refund in self._tables.refunds_of(uid)],
                "attempts": [present_attempt(attempt) for _, attempt in rows[:limit]],
                "next": rows[limit - 1][0] if len(rows) > limit else None,
            }
        )

    def _outcome(self, args: Mapping[str, str]) -> Answer:
        """What became of a command: its answer, if it had one, and the payment as it stands now."""
        payment = self._tables.payment(args["order_uid"])
        answer = self._tables.answer(args["order_uid"], args["command_id"])
        return Answer(
            {"payment": present(payment) if payment else None, "answer": answer._asdict() if answer else None}
        )
