"""what the addresses of outlets take and answer -> models, operations and examples of /openapi.json."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from schemas.base import rfc3339
from schemas.inventory import OutletId
from schemas.outlets import ApprovalMode, NumberPrefix
from schemas.purchases import OrderNumber
from web import problems
from web.openapi.models import Cursor, Erased, PositionText, Rfc3339, Shape
from web.openapi.operations import EVERYWHERE, WRITES, Operation, Success
from web.openapi.purchase_models import PurchaseView


class ApprovalBody(Shape):
    """Who takes paid orders: the outlet by hand, or time."""

    mode: ApprovalMode = Field(examples=["by_hand"])
    after_ms: int = Field(
        0, ge=0, le=366 * 24 * 3_600_000, description="Automatic: after this, in ms, unless somebody was faster."
    )


class OutletBody(Shape):
    """All of how the outlet works. What is not named, or null, is the platform's again."""

    approval: ApprovalBody | None = Field(None, description="null: as ORDERSTREAM_APPROVE_AFTER_MS says.")
    number_prefix: NumberPrefix | None = Field(None, description="null: the outlet_id.")


class SeriesView(Shape):
    """One series of order numbers: it begins with 1 and has no gap."""

    prefix: NumberPrefix
    year: int = Field(ge=1970, examples=[2026])
    last: int = Field(ge=1, description="The last that was given.", examples=[123])
    last_number: OrderNumber


class OutletView(Shape):
    """What an outlet has said of itself, and its series of order numbers."""

    outlet_id: OutletId
    approval: ApprovalBody | None
    number_prefix: NumberPrefix | None
    version: int = Field(ge=0, description="Grows by one with each change; 0: it has said nothing yet.", examples=[1])
    updated_at: Rfc3339 | None
    series: list[SeriesView]


class OutletOutcome(OutletView):
    """What a write came to, and where the record that did it stands."""

    position: PositionText


class AcceptedOutlet(Shape):
    """The command is written down and will be applied; its outcome was not known in time."""

    outlet_id: OutletId
    position: PositionText
    command_id: str = Field(description="`caused_by` of the event that will follow.")
    outcome: str = Field(description="Address that answers once the command is applied.")


class Approvals(Shape):
    """Paid orders that wait for an outlet's word. A page may be shorter than `limit` and still have a `next_cursor`."""

    outlet_id: OutletId
    orders: list[PurchaseView]
    next_cursor: Cursor
    erased: Erased


MODELS = (ApprovalBody, OutletBody, SeriesView, OutletView, OutletOutcome, AcceptedOutlet, Approvals)

OPERATIONS = (
    Operation(
        "getOutlet",
        "outlets",
        "How an outlet takes orders",
        "An outlet that has said nothing goes by the platform's settings (`version` 0).",
        {200: Success("The outlet.", OutletView)},
        (problems.BAD_PARAMETER, *EVERYWHERE),
        ("outlet", "min_offset"),
    ),
    Operation(
        "configureOutlet",
        "outlets",
        "Say how an outlet takes orders",
        "Replaces all that the outlet has said before. It holds for what is paid from then on: an order that waits"
        " already waits as it began. Another prefix begins another series, and a former one goes on where it was.",
        {
            200: Success(
                "The outlet as it stands.", OutletOutcome, headers=("Orderstream-Position", "Idempotency-Replayed")
            ),
            202: Success(
                "Written down, and not known to be applied when the wait ran out.",
                AcceptedOutlet,
                headers=("Location", "Orderstream-Position", "Retry-After"),
            ),
        },
        (problems.UNSUPPORTED_MEDIA_TYPE, problems.INVALID_DOCUMENT, *WRITES),
        ("outlet", "Idempotency-Key"),
        OutletBody,
    ),
    Operation(
        "listApprovals",
        "outlets",
        "Orders that wait for an outlet's approval",
        "Who waits longest comes first, or with `order=newest` last. Empty where approval is automatic and at once."
        " Complete across all partitions, or 503.",
        {200: Success("A page of orders.", Approvals)},
        (problems.BAD_PARAMETER, *EVERYWHERE),
        ("outlet", "waiting_order", "limit", "cursor"),
    ),
)

_AT = rfc3339(1_795_262_400_000)
_POSITION = "outlets.commands.v1-1-42"
_SAID = {"approval": {"mode": "by_hand", "after_ms": 0}, "number_prefix": "INV"}
_OUTLET: dict[str, Any] = {
    "outlet_id": "outlet-1",
    **_SAID,
    "version": 1,
    "updated_at": _AT,
    "series": [{"prefix": "INV", "year": 2026, "last": 123, "last_number": "INV/2026/000123"}],
}
EXAMPLES: dict[str, Any] = {
    "OutletBody": _SAID,
    "OutletView": _OUTLET,
    "OutletOutcome": {**_OUTLET, "position": _POSITION},
    "AcceptedOutlet": {
        "outlet_id": "outlet-1",
        "position": _POSITION,
        "command_id": "0f3f2c1e-8a44-5c9d-8e57-55b3a1d2c3e4",
        "outcome": f"/api/v1/outlets/outlet-1?min_offset={_POSITION}",
    },
    "Approvals": {"outlet_id": "outlet-1", "orders": [], "next_cursor": None},
}
