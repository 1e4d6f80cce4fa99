"""What `erase` says and answers, over a topic of keys in memory; tests/test_erasure.py has it on a broker."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from pathlib import Path
from typing import Any

import click
import pytest

import cli.erase
from cli.acls import acls
from cli.erase import erase
from cli.order import _opened, order
from cli.produce import intake_of
from schemas.seals import Seal
from streams import NotReadable
from tables.keys import Keyring
from tests.cli.running import Desk, desk
from tests.tables.test_keys import World


class NoProducer:
    """The keyring of these tests writes by itself."""

    def __init__(self, _: Any) -> None: ...
    async def start(self) -> None: ...
    async def stop(self) -> None: ...


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def place(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Desk:
    async def checked(*_: Any) -> None: ...

    def keyring(*_: Any) -> Keyring:
        return world.worker()

    monkeypatch.setattr("cli.console.admin.check", checked)
    monkeypatch.setattr(cli.erase, "PlainProducer", NoProducer)
    monkeypatch.setattr(cli.erase, "keyring_of", keyring)
    monkeypatch.setattr(cli.erase, "FRESH_S", 0.0)
    monkeypatch.setattr(cli.erase, "MARGIN_S", 0.0)
    master = tmp_path / "master.key"
    master.write_bytes(b64encode(b"m" * 32))
    return desk("127.0.0.1:9", tmp_path, seal=True, seal_master_key_file=master)


async def made(world: World, customer_id: str) -> Seal:
    return await world.worker().seal_for(customer_id)


def test_it_destroys_says_what_remains_and_does_it_once(place: Desk, world: World) -> None:
    seal = asyncio.run(made(world, "anna"))
    shown = place.run(erase, "anna", "--dry-run")
    assert (shown.exit_code, shown.stdout) == (0, "anna: 1 key would be destroyed\n") and len(world.records()) == 1
    done = place.run(erase, "anna", "--yes")
    assert (done.exit_code, done.stdout) == (0, "anna: 1 key destroyed\n")
    assert "customers.keys.v1 until it is compacted: by 20" in done.stderr and "orders.inbox.v1 stay" in done.stderr
    assert [value for _, key, value in world.records() if key == f"anna/{seal.key_id}".encode()][1:] == [None]
    again = place.run(erase, "anna", "--yes")
    assert again.exit_code == 1 and "There is no key of a customer anna" in again.stderr


def test_as_data(place: Desk, world: World) -> None:
    seal = asyncio.run(made(world, "anna"))
    told = place.json(erase, "anna", "--yes")
    assert (told["customer_id"], told["keys"], told["dry_run"]) == ("anna", [seal.key_id], False)
    assert told["at"] < told["key_records_gone_by"] < told["inbox_gone_by"]
    assert place.json(erase, "anna", "--yes", exit_code=1)["keys"] == []


def test_it_asks_before(place: Desk, world: World) -> None:
    asyncio.run(made(world, "anna"))
    result = place.run(erase, "anna")
    assert result.exit_code == 2 and "Nothing can bring their personal data back" in result.stderr
    assert len(world.records()) == 1


def test_where_nothing_is_sealed_there_is_nothing_to_erase(tmp_path: Path) -> None:
    result = desk("127.0.0.1:9", tmp_path).run(erase, "anna", "--yes")
    assert result.exit_code == 1 and "ORDERSTREAM_SEAL is not true" in result.stderr


def test_keys_that_cannot_be_looked_up_are_nobodys(place: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> None:
        raise NotReadable("the customers' keys cannot be looked up: no broker answers")

    monkeypatch.setattr(Keyring, "look", fails)
    result = place.run(erase, "anna", "--yes")
    assert result.exit_code == 3 and "cannot be looked up" in result.stderr


def test_an_order_from_the_log_is_opened_where_it_is_sealed(place: Desk, world: World, tmp_path: Path) -> None:
    seal = asyncio.run(made(world, "anna"))
    raw = b'{"order_uid":"o","x":"%b"}' % seal.shut(b"1", "o", "$.x").encode()
    with click.Context(order).scope():
        assert _opened(place.operator, raw) == b'{"order_uid":"o","x":1}'
        assert _opened(desk("127.0.0.1:9", tmp_path).operator, raw) == raw


def test_producers_may_write_to_the_inbox_and_to_nothing_else(place: Desk, tmp_path: Path) -> None:
    clear = desk("127.0.0.1:9", tmp_path)
    for desk_, topic in ((place, "orders.inbox.v1"), (clear, "orders")):
        assert intake_of(desk_.settings).name == topic
        [row] = desk_.json(acls, "--principal", "User:shop", "--for", "producer")["acls"]
        assert (row["resource"], row["name"], row["operations"]) == ("topic", topic, ["Write"])
