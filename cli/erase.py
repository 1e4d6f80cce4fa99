"""a customer's id -> tombstones for the keys of their personal data -> what remains, and until when."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from typing import NamedTuple

import click

from agents.effects.seals import clock
from cli.console import Found, Operator, Unreachable, confirm, json_option, note, put_json
from schemas.base import rfc3339
from schemas.topics import CLEAR_FOR_MS, CUSTOMER_KEYS, GONE_WITHIN_MS, ORDER_INBOX
from streams.errors import NotReadable
from streams.following import KafkaTail
from streams.producer import PlainProducer
from tables.keys import FRESH_S, Keyring, Said

#: More than the workers' clocks can differ in their pace over FRESH_S.
MARGIN_S = 0.2


class Erased(NamedTuple):
    """What was done. `at_ms`: when the last worker had to have looked."""

    key_ids: list[str]
    at_ms: int


@click.command()
@click.argument("customer_id")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_obj
def erase(operator: Operator, customer_id: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Destroy the keys that a customer's personal data is sealed with: nobody can read it any more, nor undo this.

    When it returns, no worker shows any of it: orders stay, with `null` for what was personal. Workers may run.

    Exit codes: 0 destroyed (--dry-run: would be), 1 there is no key of this customer, nothing is sealed here, or it was
    not confirmed, 2 usage, 3 no broker answers.
    """
    if not operator.settings.seal:
        raise Found("Nothing is sealed here: ORDERSTREAM_SEAL is not true, and what was sent in clear stays so.")
    if not dry_run:
        confirm(f"Destroy all keys of the customer {customer_id}? Nothing can bring their personal data back.", yes)
    try:
        erased = operator.run(operator.after_check(_erase(operator, customer_id, dry_run)))
    except NotReadable as error:
        raise Unreachable(error.reason) from error
    gone_by = rfc3339(erased.at_ms + GONE_WITHIN_MS)
    if as_json:
        put_json(
            {
                "customer_id": customer_id,
                "keys": erased.key_ids,
                "dry_run": dry_run,
                "at": rfc3339(erased.at_ms),
                "key_records_gone_by": gone_by,
                "inbox_gone_by": rfc3339(erased.at_ms + CLEAR_FOR_MS),
            }
        )
    if not erased.key_ids:
        raise Found(
            f"There is no key of a customer {customer_id}: nothing of theirs is sealed, or it was erased before."
        )
    if as_json:
        return
    count = "1 key" if len(erased.key_ids) == 1 else f"{len(erased.key_ids)} keys"
    click.echo(f"{customer_id}: {count} {'would be ' if dry_run else ''}destroyed")
    if not dry_run:
        note(f"The wrapped key is in {CUSTOMER_KEYS.name} until it is compacted: by {gone_by}, while a worker runs.")
        clear_until = rfc3339(erased.at_ms + CLEAR_FOR_MS)
        note(f"Orders that came over {ORDER_INBOX.name} stay there in clear until they are deleted: by {clear_until}.")
        note("Not sealed, and so not erased: the customer's id, and whatever was sent before ORDERSTREAM_SEAL was set.")


async def _erase(operator: Operator, customer_id: str, dry_run: bool) -> Erased:
    producer = PlainProducer(operator.app.engine_settings())
    keyring = keyring_of(operator, producer)
    try:
        if dry_run:
            await keyring.look()
            return Erased(keyring.keys_of(customer_id), time.time_ns() // 1_000_000)
        await producer.start()
        key_ids = await keyring.destroy(customer_id)
        # What workers know may be so old, and no older: after that each has seen the tombstones, or opens nothing.
        await asyncio.sleep(FRESH_S + MARGIN_S if key_ids else 0)
        return Erased(key_ids, time.time_ns() // 1_000_000)
    finally:
        await producer.stop()
        await keyring.close()


def keyring_of(operator: Operator, producer: PlainProducer) -> Keyring:
    """A command's own keyring."""
    settings = operator.settings
    tail = KafkaTail(lambda: operator.brokers)

    async def write(records: Sequence[Said]) -> None:
        for said in records:
            await producer.send(CUSTOMER_KEYS.name, said.partition, said.key.encode(), said.value, ())

    return Keyring(write, tail, settings.partitions, settings.masters_of_seals(), os.urandom, clock)


async def opened(operator: Operator, raw: bytes) -> bytes:
    """JSON with everything opened whose key there is. Raises NotReadable."""
    keyring = keyring_of(operator, PlainProducer(operator.app.engine_settings()))
    try:
        told, _ = await keyring.opened(raw)
        return told
    finally:
        await keyring.close()
