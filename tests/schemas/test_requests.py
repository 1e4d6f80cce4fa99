"""The words of idempotency keys: what a key and a claim may look like."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from pytest import mark

from schemas.requests import ClaimRequest, CompleteRequest, ForgetRequest, Request, RequestCommand

COMMANDS: TypeAdapter[RequestCommand] = TypeAdapter(RequestCommand)
CLAIM: dict[str, Any] = {
    "type": "claim_request",
    "command_id": "c-1",
    "request_key": "key 1",
    "fingerprint": "0" * 64,
    "claimed_at_ms": 1,
    "lease_ms": 30_000,
}


@mark.parametrize(
    "command",
    [
        ClaimRequest(**CLAIM),
        CompleteRequest(command_id="c-1", request_key="k", status=201, headers={"ETag": '"1"'}, body="{}"),
        ForgetRequest(command_id="c-1", request_key="k"),
    ],
    ids=lambda command: command.type,
)
def test_commands_there_and_back(command: RequestCommand) -> None:
    assert COMMANDS.validate_json(command.model_dump_json()) == command


@mark.parametrize(
    "change",
    [
        {"request_key": ""},
        {"request_key": "k" * 256},
        {"request_key": "a\0b"},
        {"request_key": "ä"},
        {"request_key": " a"},
        {"request_key": "a\n"},
        {"fingerprint": "0" * 63},
        {"fingerprint": "A" * 64},
        {"claimed_at_ms": -1},
        {"claimed_at_ms": 10**13 - 1},
        {"claimed_at_ms": "1"},
        {"lease_ms": 0},
        {"lease_ms": 24 * 60 * 60 * 1000 + 1},
        {"type": "claim"},
    ],
    ids=str,
)
def test_bad_claims(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        COMMANDS.validate_python({**CLAIM, **change})


def test_a_key_in_flight_has_no_answer() -> None:
    request = Request(request_key="k", fingerprint="0" * 64, claimed_by="c-1", claimed_at_ms=1, lease_ms=2)
    assert (request.status, request.headers, request.body) == (None, {}, "")
