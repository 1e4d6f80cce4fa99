"""requests.commands.v1 -> decide -> the table requests; a deadline forgets each key after a day."""

from __future__ import annotations

from typing import assert_never

from schemas.base import derived_id
from schemas.requests import (
    REMEMBERED_MS,
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
from streams import App, Stream, Table, Topic
from tables.requests import GROUP


def decide(request: Request | None, command: RequestCommand) -> tuple[RequestEvent, ...]:
    """One case per row of the decision table. `()`: the row stays, and says to the caller why."""
    match command:
        case ClaimRequest():
            if request is None:
                return (_claimed(command),)
            if request.fingerprint != command.fingerprint or request.status is not None:
                # Another request with this key, or one that has its answer: the row says which.
                return ()
            if request.claimed_by == command.command_id:
                return ()
            if command.claimed_at_ms < request.claimed_at_ms + request.lease_ms:
                return ()
            return (_claimed(command),)
        case CompleteRequest():
            if request is None or request.status is not None:
                # Forgotten already, or answered before. The first answer stays: somebody may have seen it.
                return ()
            return (
                RequestCompleted(
                    request_key=command.request_key, status=command.status, headers=command.headers, body=command.body
                ),
            )
        case ForgetRequest():
            return () if request is None else (RequestForgotten(request_key=command.request_key),)
    assert_never(command)


def evolve(request: Request | None, event: RequestEvent) -> Request | None:
    """The key after the event; None when it is free."""
    match event:
        case RequestClaimed():
            return Request(
                request_key=event.request_key,
                fingerprint=event.fingerprint,
                claimed_by=event.claimed_by,
                claimed_at_ms=event.claimed_at_ms,
                lease_ms=event.lease_ms,
            )
        case RequestCompleted():
            assert request is not None, "decide completes only what is claimed"
            return request.model_copy(update={"status": event.status, "headers": event.headers, "body": event.body})
        case RequestForgotten():
            return None
    assert_never(event)


def _claimed(command: ClaimRequest) -> RequestClaimed:
    return RequestClaimed(
        request_key=command.request_key,
        fingerprint=command.fingerprint,
        claimed_by=command.command_id,
        claimed_at_ms=command.claimed_at_ms,
        lease_ms=command.lease_ms,
    )


def attach(app: App, *, commands: Topic, requests: Table[Request]) -> None:
    """Wire the rules to their topic. A key that is claimed is forgotten REMEMBERED_MS later, by a record."""
    deadlines = app.deadlines(GROUP)
    deadlines.target(commands)

    @app.agent(commands, name="requests.commands")
    async def obey(stream: Stream[RequestCommand]) -> None:
        """Claim, complete and forget idempotency keys."""
        async for command in stream:
            key = command.request_key
            if commands.take_home(stream.event, key=key, value=command):
                continue
            request = requests.get(key)
            for event in decide(request, command):
                request = evolve(request, event)
                if request is None:
                    del requests[key]
                    continue
                requests[key] = request
                if isinstance(event, RequestClaimed):
                    forget = ForgetRequest(command_id=derived_id(f"forget {event.claimed_by}"), request_key=key)
                    due_at_ms = event.claimed_at_ms + REMEMBERED_MS
                    deadlines.schedule(due_at_ms, commands, key=key, value=forget, id=key)
