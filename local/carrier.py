"""A carrier to try things with: shipping.events -> parcels that nobody carries -> answers on shipping.responses.

`python -m local.carrier --kafka HOST:PORT --directory DIR`. What it does with a parcel says the member `carrier` of the
order's address: `sandbox:` and switches joined by `+`, such as `sandbox:fail=2+repeat`; for others the file `switches`
of its directory does.

    delay=S      S seconds between two steps (1)      return       brings it back instead of delivering it
    fail=N       N attempts fail before that          stubborn     fetches it though asked to cancel
    lose=STATUS  never says STATUS; `lose=all`        repeat       says everything three times
    deaf=N       does not hear the first N asks       disorder     says everything at the end, the last first

Asked again it says again what it has said, under the same ids. What it knows and how far it has read are one file, so
that a restart at any point does nothing twice: at worst it says something again.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

log = logging.getLogger(__name__)

EVENTS, RESPONSES = "shipping.events", "shipping.responses"
PREFIX = "sandbox:"
SWITCHES = {"delay", "fail", "lose", "deaf", "return", "stubborn", "repeat", "disorder"}
REPEATS = 3
#: Parcels at their end that it remembers: somebody may ask again.
REMEMBERED = 10_000
ENDS = ("delivered", "returned_to_origin", "cancelled")
#: How long it waits for news, and how long its broker may be away before it tries again.
LOOK_S, PAUSE_S = 0.2, 0.5


def switches_of(words: str) -> dict[str, str]:
    """`fail=2+repeat` -> {"fail": "2", "repeat": ""}. Unknown words are told in the log, and do nothing."""
    found = dict(word.partition("=")[::2] for word in filter(None, words.strip().split("+")))
    if wrong := sorted(set(found) - SWITCHES):
        log.warning("%s: no switch; there are %s", ", ".join(wrong), ", ".join(sorted(SWITCHES)))
    return found


def number(text: str | None, default: float) -> float:
    """A switch's value; what is no number is the default."""
    try:
        return default if text is None else float(text)
    except ValueError:
        return default


@dataclass
class Parcel:
    """What it knows of a shipment."""

    order_uid: str
    shipment_id: str
    booking_id: str
    switches: dict[str, str]
    wish: str = "book"
    asked: int = 0
    #: All that was done with it; `said`: how many of these were told.
    done: list[str] = field(default_factory=list)
    said: int = 0
    next_at: float = 0.0

    @property
    def at_its_end(self) -> bool:
        return bool(self.done) and self.done[-1] in ENDS

    def step(self) -> str | None:
        """What is done with it next."""
        if self.at_its_end:
            return None
        if "picked_up" not in self.done:
            if self.wish == "cancel" and "stubborn" not in self.switches:
                return "cancelled"
            return "picked_up" if self.done else "registered"
        if self.wish == "recall":
            return "returned_to_origin"
        if "out_for_delivery" not in self.done:
            return "out_for_delivery"
        if self.done.count("failed") < number(self.switches.get("fail"), 0):
            return "failed"
        return "returned_to_origin" if "return" in self.switches else "delivered"

    def tells(self, places: Iterable[int]) -> list[dict[str, Any]]:
        """What it says of these of its deeds: the same words under the same ids whenever it says them."""
        lost = self.switches.get("lose")
        told = []
        for place in places:
            status = self.done[place]
            if lost in ("all", status):
                continue
            said = {
                "response_id": str(uuid5(NAMESPACE_URL, f"{self.booking_id} {place} {status}")),
                "order_uid": self.order_uid,
                "shipment_id": self.shipment_id,
                "status": status,
            }
            said |= {"tracking_number": f"SBX-{self.booking_id[:8].upper()}"} if status == "registered" else {}
            said |= {"reason": "nobody home"} if status == "failed" else {}
            told += [said] * (REPEATS if "repeat" in self.switches else 1)
        return told


class Depot:
    """The carrier without its wires: what it hears, does in time, and says."""

    def __init__(self) -> None:
        self.parcels: dict[str, Parcel] = {}

    def hear(self, event: dict[str, Any], now: float, switches: str = "") -> list[dict[str, Any]]:
        """An event; gives what is said at once: of what is asked again, all that was said before."""
        if event.get("type") != "carrier_asked":
            return []
        id = event["booking_id"]
        address = event.get("address") or {}
        named = str(address.get("carrier") or "")
        words = named[len(PREFIX) :] if named.startswith(PREFIX) else switches
        parcel = self.parcels.get(id) or Parcel(event["order_uid"], event["shipment_id"], id, switches_of(words))
        self.parcels[id] = parcel
        parcel.asked += 1
        if parcel.asked <= number(parcel.switches.get("deaf"), 0):
            return []
        known, parcel.wish = parcel.wish, event["what"]
        if parcel.wish != known or not parcel.done:
            parcel.next_at = now + number(parcel.switches.get("delay"), 1.0)
        return parcel.tells(range(parcel.said))

    def work(self, now: float) -> list[dict[str, Any]]:
        """Do what is due, and say so."""
        told: list[dict[str, Any]] = []
        for parcel in self.parcels.values():
            heard = parcel.asked > number(parcel.switches.get("deaf"), 0)
            while heard and parcel.next_at <= now and (doing := parcel.step()) is not None:
                parcel.done.append(doing)
                parcel.next_at += number(parcel.switches.get("delay"), 1.0)
                told += self._say(parcel)
        return told

    def _say(self, parcel: Parcel) -> list[dict[str, Any]]:
        if "disorder" in parcel.switches and not parcel.at_its_end:
            return []
        new = range(parcel.said, len(parcel.done))
        parcel.said = len(parcel.done)
        return parcel.tells(reversed(new))

    def forget(self) -> None:
        """The oldest of those at their end, above what it remembers."""
        ended = [id for id, parcel in self.parcels.items() if parcel.at_its_end]
        for id in ended[: max(0, len(ended) - REMEMBERED)]:
            del self.parcels[id]


class Carrier:
    """The process: a depot, its file, and the wires to Kafka."""

    def __init__(self, kafka: str, directory: Path) -> None:
        self._kafka, self._directory, self._state = kafka, directory, directory / "state.json"
        self.depot, self.offsets = Depot(), dict[int, int]()
        if self._state.exists():
            told = orjson.loads(self._state.read_bytes())
            self.depot.parcels = {id: Parcel(**row) for id, row in told["parcels"].items()}
            self.offsets = {int(partition): offset for partition, offset in told["offsets"].items()}

    async def run(self) -> None:
        """Until it is cancelled. A broker that is not there yet, or any more, is waited for."""
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    await self._serve(stack)
            except (KafkaError, OSError) as error:
                log.warning("%s: %s; trying again", type(error).__name__, error)
            self._beat()
            await asyncio.sleep(PAUSE_S)

    async def _serve(self, stack: contextlib.AsyncExitStack) -> None:
        partitions = await self._partitions()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        stack.push_async_callback(consumer.stop)
        await consumer.start()
        consumer.assign([TopicPartition(EVENTS, each) for each in partitions])
        for each in partitions:
            consumer.seek(TopicPartition(EVENTS, each), self.offsets.get(each, 0))
        producer = AIOKafkaProducer(bootstrap_servers=self._kafka, enable_idempotence=True)
        stack.push_async_callback(producer.stop)
        await producer.start()
        while True:
            batch = await consumer.getmany(timeout_ms=int(LOOK_S * 1000))
            await self._turn(producer, batch)

    async def _partitions(self) -> list[int]:
        """Those of the events, once somebody has created the topic."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka)
        try:
            await admin.start()
            while True:
                self._beat()
                (found,) = await admin.describe_topics([EVENTS])
                if found["partitions"]:
                    return sorted(each["partition"] for each in found["partitions"])
                await asyncio.sleep(PAUSE_S)
        finally:
            await admin.close()

    async def _turn(self, producer: AIOKafkaProducer, batch: dict[TopicPartition, list[Any]]) -> None:
        """Say, then write down what was heard, done and said: a crash between says it again, under the same ids."""
        switches = self._switches() if batch else ""
        told: list[dict[str, Any]] = []
        for partition, records in batch.items():
            for record in records:
                told += self.depot.hear(orjson.loads(record.value), time.time(), switches)
                self.offsets[partition.partition] = record.offset + 1
        told += self.depot.work(time.time())
        for response in told:
            await producer.send(RESPONSES, orjson.dumps(response), key=response["order_uid"].encode())
        await producer.flush()
        if batch or told:
            self.depot.forget()
            self._save()
        self._beat()

    def _switches(self) -> str:
        file = self._directory / "switches"
        return file.read_text() if file.exists() else ""

    def _save(self) -> None:
        """The whole state, at once or not at all: it is small, and this is a sandbox."""
        new = self._state.with_suffix(".new")
        parcels = {id: asdict(parcel) for id, parcel in self.depot.parcels.items()}
        offsets = {str(partition): offset for partition, offset in self.offsets.items()}
        new.write_bytes(orjson.dumps({"parcels": parcels, "offsets": offsets}))
        new.replace(self._state)

    def _beat(self) -> None:
        """Whoever looks after this process sees by this that it works."""
        (self._directory / "beat").touch()


async def serve(kafka: str, directory: Path) -> None:
    task = asyncio.current_task()
    assert task is not None, "this is one"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await Carrier(kafka, directory).run()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.carrier", description="A carrier to try.")
    parser.add_argument("--kafka", required=True, help="bootstrap servers")
    parser.add_argument("--directory", type=Path, required=True, help="where it keeps what it knows")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(options.kafka, options.directory))


if __name__ == "__main__":
    main()
