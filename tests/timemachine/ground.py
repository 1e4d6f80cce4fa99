"""a directory -> Kafka, PostgreSQL, a provider, a target of webhooks, workers: now, and when it is taken up again."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import orjson
from confluent_kafka import IsolationLevel, TopicPartition

from local import Embedded
from local.ports import find_free
from local.sandbox_service import SandboxProvider
from tests.agents.effects.test_webhooks_on_kafka import Target, post
from tests.checkout_load import TERMS
from tests.faults.trial import metric
from tests.oracle.broker import _consumer, ends_of, partitions_of, unread
from tests.oracle.log import LETTERS
from tests.processes import RunningStack, Worker, Workers

#: Topics of the checkout's events, and what each domain is told by the others.
DOMAINS = ("purchases", "payments", "accounts", "inventory", "outlets", "customers")
EVENTS = (*(f"{domain}.events.v1" for domain in DOMAINS), "shipping.events")
INPUTS = (*(f"{domain}.commands.v1" for domain in DOMAINS), "shipping.commands.v1", "shipping.responses", "orders")
#: What the target hears of: some, so that every delivery is seen to be made once.
HEARD = ["purchases.purchase_ended", "purchases.return_received"]
#: When for so long nothing has come, and no deadline waits, nothing is under way. A step that the provider did not
#: answer is tried again after a minute, then after two, four and so on.
REST_S, PATIENCE_S = 15.0, 1_800.0
#: An effect group of the application, and the topic that it follows.
EFFECTS = (("orderstream-provider", ["payments.events.v1"]),)


class Ground:
    """All that a run stands on. What must be the same when it is taken up again is in `<directory>/ground.json`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._file = self.directory / "ground.json"
        self.kept: dict[str, Any] = orjson.loads(self._file.read_bytes()) if self._file.exists() else {}
        if "ports" not in self.kept:
            self.keep(ports=find_free(6))
        kafka, postgres, provider, target, *self.worker_ports = self.kept["ports"]
        self._embedded = Embedded(self.directory / "stack", kafka_port=kafka, postgres_port=postgres)
        callback = f"http://127.0.0.1:{self.worker_ports[0]}/api/v1/orders/payment-callback"
        log = self.directory / "provider.log"
        self.provider = SandboxProvider(self.directory / "provider", provider, callback_url=callback, log=log)
        self._target_port = target
        self._exit = ExitStack()

    def keep(self, **more: Any) -> None:
        """Remember it for whoever takes this up."""
        self.kept |= more
        self._file.write_bytes(orjson.dumps(self.kept, option=orjson.OPT_INDENT_2))

    def __enter__(self) -> Self:
        try:
            self._exit.callback(self._embedded.stop)
            stack = self._embedded.start()
            self._exit.callback(self.provider.stop)
            self.provider.start()
            where = self._embedded.data_dir
            self.stack = RunningStack(stack.kafka, stack.postgres, where, self._embedded.kafka, self._embedded.postgres)
            self.workers = Workers(self.stack)
            self._exit.callback(self.workers.stop_all)
            self.target = Target(self._target_port)
            self.target.lets_go.set()
            threading.Thread(target=self.target.serve_forever, daemon=True).start()
            self._exit.callback(self.target.server_close)
            self._exit.callback(self.target.shutdown)
            self.stack.faust("topics", "create")
        except BaseException:
            self._exit.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.heard()
        self._exit.close()

    # -- workers ----------------------------------------------------------------------------------------------------

    @property
    def env(self) -> Mapping[str, str]:
        return {
            **TERMS,
            "ORDERSTREAM_PROVIDER_URL": self.provider.url,
            "ORDERSTREAM_PROVIDER_SECRET": self.provider.secret,
            "ORDERSTREAM_WEBHOOK_KEYS": "k" * 32,
            "ORDERSTREAM_WEBHOOK_LOOPBACK": "true",
            "ORDERSTREAM_AS_OF_MAX_RECORDS": "1000000",
        }

    def begin(self, number: int, **more: str) -> Worker:
        """Worker 0 or 1, on its port and with its store; it is not waited for."""
        return self.workers.start(port=self.worker_ports[number], env={**self.env, **more}, wait=False)

    def up(self) -> list[Worker]:
        """Both, once they are ready."""
        return [worker.wait_ready(600) for worker in [self.begin(0), self.begin(1)]]

    def down(self, workers: Sequence[Worker]) -> None:
        for worker in workers:
            worker.stop()

    def subscribe(self, worker: Worker) -> None:
        """Let the target hear, once in the life of this ground."""
        if "subscription" not in self.kept:
            url = f"http://127.0.0.1:{self._target_port}/hook"
            made = post(worker, "/api/v1/webhooks", {"url": url, "events": HEARD})
            self.keep(subscription=made["subscription_id"])

    # -- what there is -------------------------------------------------------------------------------------------------

    def ends(self, topics: Sequence[str]) -> dict[str, int]:
        """The ends of topics, their partitions together; markers of transactions count."""
        every = [(topic, number) for topic in topics for number in partitions_of(self.stack.kafka, topic)]
        found = ends_of(self.stack.kafka, every, IsolationLevel.READ_UNCOMMITTED)
        return {topic: sum(end for (name, _), end in found.items() if name == topic) for topic in topics}

    def backlog(self) -> list[str]:
        """What is not worked on yet, if anything."""
        kafka = self.stack.kafka
        left = unread(kafka, topics=INPUTS)
        return left or [each for group, topics in EFFECTS for each in unread(kafka, group, topics)]

    def waiting(self) -> int:
        """How far the application is behind, in all its inputs. Raises KafkaException while it cannot be told."""
        kafka = self.stack.kafka
        every = [(topic, number) for topic in INPUTS for number in partitions_of(kafka, topic)]
        ends = ends_of(kafka, every, IsolationLevel.READ_UNCOMMITTED)
        with closing(_consumer(kafka, "orderstream")) as consumer:
            standing = consumer.committed([TopicPartition(*each) for each in every], timeout=10)
        return sum(ends[each.topic, each.partition] - max(each.offset, 0) for each in standing)

    def settle(self, workers: Sequence[Worker]) -> float:
        """Until nothing is under way and nothing has come for a while; gives the seconds that it took."""
        began = calm = time.monotonic()
        before = self.ends([*EVENTS, *INPUTS, LETTERS])
        while time.monotonic() - calm < REST_S or self.backlog() or self.due(workers):
            assert time.monotonic() - began < PATIENCE_S, f"still moving after {PATIENCE_S:.0f} s: {self.backlog()}"
            assert all(worker.child.running() for worker in workers), self.workers.log_tails()
            time.sleep(1)
            now = self.ends([*EVENTS, *INPUTS, LETTERS])
            if now != before:
                before, calm = now, time.monotonic()
        return calm - began

    @staticmethod
    def due(workers: Sequence[Worker]) -> int:
        """Tasks in which a deadline waits. Keys of HTTP requests do not count: they are forgotten after a day."""
        found = re.findall(
            r'^streams_deadlines_pending\{group="(?!requests")[^}]*\} 1',
            "\n".join(str(worker.get("/metrics")[1]) for worker in workers),
            re.MULTILINE,
        )
        return len(found)

    def replaying(self, workers: Sequence[Worker]) -> float:
        """Records that these workers know they have to take once more."""
        return sum(metric(worker, "streams_replay_remaining_records") for worker in workers)

    # -- what reached the outside --------------------------------------------------------------------------------------

    def heard(self) -> dict[str, int]:
        """Requests for webhooks by their id, of all times."""
        found = dict(self.kept.get("heard", {}))
        while self.target.ids:
            id = self.target.ids.pop()
            found[id] = found.get(id, 0) + 1
        self.keep(heard=found)
        return found

    def effects(self) -> dict[str, dict[str, int]]:
        """What was asked of the world so far, by key."""
        file = self.provider.directory / "state.json"
        asked = orjson.loads(file.read_bytes())["asked"] if file.exists() else {}
        return {"provider": asked, "webhooks": self.heard()}
