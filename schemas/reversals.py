"""Reversals: captured money that the payment provider took back without a request of this platform."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field

ReversalId = Annotated[
    str,
    Field(
        min_length=1, max_length=128, description="The provider's id of the refund or dispute, unique in its payment."
    ),
]
#: A payment with more than this is a case for the provider's own list. It bounds the row in the table.
MAX_REVERSALS = 100


class ReversalKind(StrEnum):
    """How the provider took captured money back without a request of this platform."""

    REFUND = "refund"
    CHARGEBACK = "chargeback"


class ReversalOutcome(StrEnum):
    """What a person decided about a reversal: the money is gone, or the provider has paid it to us again."""

    ACCEPTED = "accepted"
    REINSTATED = "reinstated"


class Reversal(NamedTuple):
    """Money that the provider took back without a request of this platform; `outcome` None: a person must settle it."""

    reversal_id: str
    kind: ReversalKind
    amount_minor: int
    reference: str | None
    detail: str | None
    recorded_at: str
    outcome: ReversalOutcome | None = None
    reason: str | None = None
    resolved_at: str | None = None

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """A reversal from its members in JSON."""
        outcome = row["outcome"] and ReversalOutcome(row["outcome"])
        return cls(**{**row, "kind": ReversalKind(row["kind"]), "outcome": outcome})
