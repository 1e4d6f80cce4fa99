"""Requests: the rules of idempotency keys as tables of outcomes, and what is true of every history."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from pytest import mark, param

from agents.requests import decide, evolve
from schemas.requests import (
    ClaimRequest,
    CompleteRequest,
    ForgetRequest,
    Request,
    RequestClaimed,
    RequestCommand,
    RequestCompleted,
    RequestEvent,
    RequestForgotten,
)

LEASE_MS = 30_000
ONE, OTHER = "1" * 64, "2" * 64


def claim(command_id: str, at_ms: int = 0, fingerprint: str = ONE) -> ClaimRequest:
    return ClaimRequest(
        command_id=command_id, request_key="k", fingerprint=fingerprint, claimed_at_ms=at_ms, lease_ms=LEASE_MS
    )


def claimed(command_id: str, at_ms: int = 0) -> RequestClaimed:
    return RequestClaimed(
        request_key="k", fingerprint=ONE, claimed_by=command_id, claimed_at_ms=at_ms, lease_ms=LEASE_MS
    )


def complete(command_id: str, body: str = "{}") -> CompleteRequest:
    return CompleteRequest(command_id=command_id, request_key="k", status=201, headers={"ETag": '"1"'}, body=body)


def completed(body: str = "{}") -> RequestCompleted:
    return RequestCompleted(request_key="k", status=201, headers={"ETag": '"1"'}, body=body)


def after(events: Sequence[RequestEvent]) -> Request | None:
    return reduce(evolve, events, None)


FORGET = ForgetRequest(command_id="f", request_key="k")
FORGOTTEN = RequestForgotten(request_key="k")


@mark.parametrize(
    ("past", "command", "expected"),
    [
        param([], claim("a"), [claimed("a")], id="a free key"),
        param([claimed("a")], claim("a", LEASE_MS), [], id="the same claim again, however late"),
        param([claimed("a")], claim("b", LEASE_MS - 1), [], id="in flight"),
        param([claimed("a")], claim("b", LEASE_MS), [claimed("b", LEASE_MS)], id="the lease is over"),
        param([claimed("a")], claim("b", LEASE_MS, OTHER), [], id="another request, the lease is over"),
        param([claimed("a"), completed()], claim("b"), [], id="answered"),
        param([claimed("a"), completed()], claim("b", LEASE_MS), [], id="answered, the lease is over"),
        param([claimed("a"), FORGOTTEN], claim("b", 0, ONE), [claimed("b")], id="free again"),
        param([], complete("a"), [], id="an answer after the key was forgotten"),
        param([claimed("a")], complete("a"), [completed()], id="an answer"),
        param([claimed("a"), completed()], complete("a", "other"), [], id="the first answer stays"),
        param([claimed("a"), claimed("b")], complete("a"), [completed()], id="the late answer of the first claimant"),
        param([claimed("a")], FORGET, [FORGOTTEN], id="forgets a key in flight"),
        param([claimed("a"), completed()], FORGET, [FORGOTTEN], id="forgets an answer"),
        param([], FORGET, [], id="nothing to forget"),
    ],
)
def test_requests(past: list[RequestEvent], command: RequestCommand, expected: list[RequestEvent]) -> None:
    assert list(decide(after(past), command)) == expected


def test_the_answer_is_kept_with_the_claim() -> None:
    assert after([claimed("a", 7), completed("body")]) == Request(
        request_key="k",
        fingerprint=ONE,
        claimed_by="a",
        claimed_at_ms=7,
        lease_ms=LEASE_MS,
        status=201,
        headers={"ETag": '"1"'},
        body="body",
    )


def test_a_new_claim_starts_without_an_answer() -> None:
    request = after([claimed("a"), FORGOTTEN, claimed("b", 9)])
    assert request is not None
    assert (request.claimed_by, request.claimed_at_ms, request.status) == ("b", 9, None)


COMMANDS = st.one_of(
    st.builds(claim, st.sampled_from("abc"), st.integers(0, 3 * LEASE_MS), st.sampled_from([ONE, OTHER])),
    st.builds(complete, st.sampled_from("abc"), st.sampled_from(["x", "y"])),
    st.just(FORGET),
)


def live(commands: list[RequestCommand]) -> list[Request | None]:
    states: list[Request | None] = [None]
    for command in commands:
        states.append(reduce(evolve, decide(states[-1], command), states[-1]))
    return states


@given(st.lists(COMMANDS, max_size=30))
def test_a_redelivery_changes_nothing(commands: list[RequestCommand]) -> None:
    states = live(commands)
    if commands:
        assert decide(states[-1], commands[-1]) == ()


@given(st.lists(COMMANDS, max_size=30))
def test_an_answer_is_never_replaced_nor_a_fingerprint(commands: list[RequestCommand]) -> None:
    states = live(commands)
    for before, after in pairwise(states):
        if before and after:
            assert before.fingerprint == after.fingerprint
            if before.status is not None:
                assert after == before
