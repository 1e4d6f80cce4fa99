"""Idempotency keys through the real task loop, with time moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from schemas.requests import REMEMBERED_MS, ClaimRequest, CompleteRequest, RequestCommand
from streams.driver import Driver
from tests.agents.domain import elsewhere, make_app

KEY = "key-1"


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[Driver]:
    app, _ = make_app(tmp_path)
    async with Driver(app) as running:
        yield running


async def send(driver: Driver, command: RequestCommand, partition: int | None = None) -> None:
    raw = command.model_dump_json().encode()
    driver.produce("requests.commands.v1", key=command.request_key, value=raw, partition=partition)
    await driver.run()


def claim(driver: Driver, command_id: str) -> ClaimRequest:
    return ClaimRequest(
        command_id=command_id,
        request_key=KEY,
        fingerprint="0" * 64,
        claimed_at_ms=driver.clock.now_ms(),
        lease_ms=30_000,
    )


ANSWER = CompleteRequest(command_id="a", request_key=KEY, status=201, headers={"ETag": '"1"'}, body="{}")


async def test_a_claim_an_answer_and_oblivion_after_a_day(driver: Driver) -> None:
    await send(driver, claim(driver, "a"))
    await send(driver, ANSWER)
    await driver.advance(REMEMBERED_MS - 1)
    row = driver.rows("requests")[KEY]
    assert (row.claimed_by, row.status, row.body) == ("a", 201, "{}")
    await driver.advance(1)
    assert driver.rows("requests") == {}
    assert driver.rows("requests_deadlines") == {}, "nothing of a forgotten key may stay"


async def test_a_claim_that_moves_moves_its_end(driver: Driver) -> None:
    await send(driver, claim(driver, "a"))
    await driver.advance(60_000)
    await send(driver, claim(driver, "b"))
    assert driver.rows("requests")[KEY].claimed_by == "b"
    await driver.advance(REMEMBERED_MS - 1)
    assert list(driver.rows("requests")) == [KEY]
    await driver.advance(1)
    assert driver.rows("requests") == {}
    assert len(driver.read("requests.commands.v1")) == 3, "one deadline for one key"


async def test_a_claim_on_the_wrong_partition_is_brought_home(driver: Driver) -> None:
    await send(driver, claim(driver, "a"), partition=elsewhere(KEY))
    assert driver.rows("requests")[KEY].claimed_by == "a"
    assert len(driver.read("requests.commands.v1")) == 2


async def test_a_bad_command_is_poison(driver: Driver) -> None:
    driver.produce("requests.commands.v1", key=KEY, value=b'{"type":"claim_request","command_id":"a"}')
    await driver.run()
    (letter,) = driver.read("dead_letters.v1")
    assert dict(letter.headers)["dead-letter-kind"] == b"poison"
