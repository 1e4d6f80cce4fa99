"""Requests: the words of HTTP idempotency keys (Stripe's semantics). Partition key: request_key.

A POST with an Idempotency-Key claims the key, does its work, and completes the request with its answer. Whoever comes
with the same key again gets that answer. The claimant reads the row after its claim is committed: `claimed_by` is its
own command_id, so it goes on; or the answer is there; or the claim is another's (409); or the fingerprint differs
(422).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import MAX_TIME_MS, Command, Model

#: As long as Stripe keeps a key: longer than any client retries, short enough that the table stays small.
REMEMBERED_MS = 24 * 60 * 60 * 1000
#: What HTTP answers of ours never reach; a record must stay below its topic's limit.
MAX_BODY = 1 << 20

#: Printable ASCII, as in Stripe's and the IETF draft's (draft-ietf-httpapi-idempotency-key-header) structured string.
REQUEST_KEY_PATTERN = r"^[!-~]([ -~]{0,253}[!-~])?$"
RequestKey = Annotated[
    str,
    Field(pattern=REQUEST_KEY_PATTERN, description="The Idempotency-Key: 1 to 255 printable ASCII characters."),
]
Fingerprint = Annotated[
    str, Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256, hex, of method, path and body of the request.")
]
# A deadline REMEMBERED_MS later must still be a time that keys can hold.
UnixMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS - REMEMBERED_MS)]


class ClaimRequest(Command):
    """Claim a key before doing what it stands for. `command_id` is the claim's id."""

    type: Literal["claim_request"] = "claim_request"
    request_key: RequestKey
    fingerprint: Fingerprint
    claimed_at_ms: UnixMs = Field(description="When, by the claimant's clock: Unix time in milliseconds.")
    lease_ms: Annotated[int, Field(ge=1, le=REMEMBERED_MS)] = Field(
        description="After it another claimant may take over: the first one has probably died."
    )


class CompleteRequest(Command):
    """Keep the answer for everybody who comes with this key."""

    type: Literal["complete_request"] = "complete_request"
    request_key: RequestKey
    status: Annotated[int, Field(ge=100, le=599)]
    headers: dict[str, str]
    body: Annotated[str, Field(max_length=MAX_BODY)]


class ForgetRequest(Command):
    """Forget a key. Sent by a deadline, REMEMBERED_MS after the claim, and when the request was not to be worked on."""

    type: Literal["forget_request"] = "forget_request"
    request_key: RequestKey


RequestCommand = Annotated[ClaimRequest | CompleteRequest | ForgetRequest, Field(discriminator="type")]


class RequestClaimed(Model):
    """The key belongs to this claim from here on."""

    request_key: str
    fingerprint: str
    claimed_by: str
    claimed_at_ms: int
    lease_ms: int


class RequestCompleted(Model):
    """The answer that this key stands for is known."""

    request_key: str
    status: int
    headers: dict[str, str]
    body: str


class RequestForgotten(Model):
    """The key is free again."""

    request_key: str


RequestEvent = RequestClaimed | RequestCompleted | RequestForgotten


class Request(Model):
    """A key as it stands: the value of the table `requests`. In flight while `status` is null."""

    request_key: str
    fingerprint: str
    claimed_by: str = Field(description="command_id of the claim that holds the key.")
    claimed_at_ms: int = Field(description="Unix time in milliseconds.")
    lease_ms: int
    status: int | None = None
    headers: dict[str, str] = Field(default_factory=dict)
    body: str = ""
