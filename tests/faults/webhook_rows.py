"""Row 26: what happens to a webhook's target, and to the worker that has just been there."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import orjson

from local.ports import find_free
from tests.faults.row import row
from tests.faults.trial import Trial
from tests.faults.worker_rows import KILLED
from tests.oracle.broker import read_topic
from tests.oracle.log import EVENTS, home_of
from tests.oracle.verdict import Kind, Verdict
from tests.processes import Worker

CHECK = "webhook deliveries"
TIMEOUT_S = 0.5
ENV: dict[str, Any] = {
    "ORDERSTREAM_WEBHOOK_KEYS": "k" * 32,
    "ORDERSTREAM_WEBHOOK_LOOPBACK": "true",
    "ORDERSTREAM_WEBHOOK_TIMEOUT_MS": str(int(TIMEOUT_S * 1000)),
    "ORDERSTREAM_WEBHOOK_ATTEMPTS": "50",
    "ORDERSTREAM_WEBHOOK_FIRST_PAUSE_MS": "100",
}
#: So few that the log of each webhook, which keeps the newest 2,000, has every delivery at the end.
PER_SECOND = 8
#: One webhook for each partition of their owners: whichever worker dies has one to deliver.
PARTITIONS = 4
#: The breaker is open for 30 s; then one attempt decides. All that has waited is delivered after it.
CLOSED_S, SETTLED_S = 60.0, 240.0


class Got(NamedTuple):
    """A request as its target had it."""

    hook: str
    id: str
    event: str
    mood: str


class Target:
    """A receiver with moods: ok, slow, error, redirect, down. It keeps what it got, and how it answered."""

    def __init__(self) -> None:
        self.mood = "ok"
        self.got: list[Got] = []
        self.lured = 0  # requests that somebody made because it was told to go elsewhere
        self.port, self.inner_port = find_free(2)
        self._inner = self._serve(self.inner_port)
        self._server: ThreadingHTTPServer | None = self._serve(self.port)

    def be(self, mood: str) -> None:
        self.mood = mood
        if mood == "down":
            self._end(self._server)
            self._server = None
        elif self._server is None:
            self._server = self._serve(self.port)

    def taken(self) -> int:
        """How many it answered with 204."""
        return sum(each.mood == "ok" for each in list(self.got))

    def close(self) -> None:
        self._end(self._server)
        self._end(self._inner)

    def _serve(self, port: int) -> ThreadingHTTPServer:
        target = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if port == target.inner_port:
                    target.lured += 1
                    return
                mood = target.mood
                target.got.append(Got(self.path, self.headers["webhook-id"], told["data"]["event_id"], mood))
                time.sleep(3 * TIMEOUT_S if mood == "slow" else 0)
                # Nothing is taken in any other mood, nor by a request that was let in before the door was closed.
                self.send_response({"ok": 204, "redirect": 307}.get(mood, 500))
                if mood == "redirect":
                    self.send_header("Location", f"http://127.0.0.1:{target.inner_port}/inside")
                self.end_headers()

            do_GET = do_POST

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:
                    """Whoever was killed, or waited too long, hung up."""

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    @staticmethod
    def _end(server: ThreadingHTTPServer | None) -> None:
        if server is not None:
            server.shutdown()
            server.server_close()


@row(26, "a webhook's target down, slow, failing, redirecting")
async def target_goes(trial: Trial) -> None:
    """Orders go on; each event is delivered under one id; the breaker leaves a dead target alone and comes back."""
    workers = await trial.up(2, **ENV)
    with closing(Target()) as target:
        hooks = await asyncio.to_thread(_create, workers[0], target)
        async with trial.under_load(per_second=PER_SECOND):
            await _until(lambda: target.taken() > 3, 30, "nothing was delivered")
            for mood in ("error",) if trial.brief else ("down", "slow", "error", "redirect"):
                await _strike(trial, workers[0], target, hooks, mood)
            await _kill(trial, target)
        await _until(lambda: not any(_each(workers[0], hooks, "unsettled")), SETTLED_S, "not all is delivered")
        logs = {hook: list(_deliveries(workers[0], path)) for hook, path in hooks.items()}
        assert not target.lured, "a redirect was followed"
    records = [orjson.loads(record.value or b"") for record in read_topic(trial.stack.kafka, EVENTS)]
    events = [str(event["event_id"]) for event in records]
    for hook, log in logs.items():
        judge_deliveries(events, log, [each for each in target.got if each.hook == hook], trial.verdict)
    trial.figures |= {"deliveries": sum(map(len, logs.values())), "requests": len(target.got)}
    await trial.converge(minimum=200)
    trial.verdict.require(**{CHECK: 100})


def _create(worker: Worker, target: Target) -> dict[str, str]:
    """A webhook in each partition, by the path at the target that is its own. Where one comes to be is chance."""
    hooks: dict[int, tuple[str, str]] = {}
    for number in range(200):
        hook = f"/hook/{number}"
        asked = {"url": f"http://127.0.0.1:{target.port}{hook}", "events": ["orders.*"]}
        id = _post(worker, "/api/v1/webhooks", asked)["subscription_id"]
        path, home = f"/api/v1/webhooks/{id}", home_of(id, PARTITIONS)
        if home in hooks:
            _post(worker, path, None, "DELETE")
        hooks.setdefault(home, (hook, path))
        if len(hooks) == PARTITIONS:
            return dict(hooks.values())
    raise AssertionError("200 webhooks, and a partition without one")


async def _strike(trial: Trial, worker: Worker, target: Target, hooks: Mapping[str, str], mood: str) -> None:
    """Until all breakers are open; then the target is well again, and they close: by themselves, or by a hand."""
    trial.struck()
    target.be(mood)
    await _until(lambda: set(_each(worker, hooks, "breaker")) == {"open"}, 30, f"{mood}: a breaker does not open")
    await asyncio.sleep(1)  # what was under way comes to its end
    before = len(target.got)
    await asyncio.sleep(3)
    assert len(target.got) == before, f"{mood}: it was not left alone"
    target.be("ok")
    since, before = time.monotonic(), target.taken()
    if mood in ("slow", "redirect"):
        for path in hooks.values():
            for paused in (True, False):
                await asyncio.to_thread(_post, worker, path, {"paused": paused}, "PATCH")
    await _until(lambda: target.taken() > before, CLOSED_S, f"{mood}: nothing is delivered after it")
    await _until(lambda: set(_each(worker, hooks, "breaker")) == {"closed"}, CLOSED_S, f"{mood}: one stays open")
    trial.figures[f"closed after {mood}, s"] = time.monotonic() - since


async def _kill(trial: Trial, target: Target) -> None:
    """A worker dies with the target's answer in its hands: the same again, by another one, under the same id."""
    victim = await trial.begin(STREAMS_FAULT=f"webhook_answered:{trial.chance.randrange(2, 6)}", **ENV)
    code = await trial.ended(victim, 90)
    assert code == KILLED, f"the victim ended with {code} before it had an answer"
    trial.kills += 1
    await trial.recovered(trial.struck())
    before = target.taken()
    await _until(lambda: target.taken() > before, 30, "nothing is delivered after the kill")


def judge_deliveries(
    events: Sequence[str], log: Sequence[Mapping[str, Any]], got: Sequence[Got], verdict: Verdict
) -> None:
    """Each event was taken by its target at least once, under one id, and stands in the log as delivered; no other."""
    rows: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    ids: dict[str, set[str]] = defaultdict(set)
    for each in log:
        rows[each["event_id"]].append(each)
    for one in got:
        ids[one.event].add(one.id)
    arrived = {one.event for one in got if one.mood == "ok"}
    for event in events:
        verdict.looked(CHECK)
        if event not in arrived:
            verdict.add(Kind.LOST, CHECK, event, "its target never took it")
        if len(ids[event]) > 1:
            verdict.add(Kind.DOUBLED, CHECK, event, f"it came under {len(ids[event])} ids")
        if not rows[event]:
            verdict.add(Kind.LOST, CHECK, event, "it is not in the delivery log")
        if len(rows[event]) > 1:
            verdict.add(Kind.DOUBLED, CHECK, event, f"it is in the delivery log {len(rows[event])} times")
        for each in rows[event][:1]:
            verdict.equal(CHECK, event, "delivered", each["state"])
            verdict.equal(CHECK, event, {each["delivery_id"]}, ids[event] or {each["delivery_id"]})
    for event in (rows.keys() | ids.keys()) - set(events):
        verdict.add(Kind.WRONG, CHECK, event, "there is no such event")


def _deliveries(worker: Worker, path: str) -> Iterator[dict[str, Any]]:
    """The whole delivery log, page by page."""
    cursor = ""
    while True:
        status, page = worker.get(f"{path}/deliveries?limit=200{cursor}")
        assert status == 200, page
        yield from page["deliveries"]
        if page["next_cursor"] is None:
            return
        cursor = f"&cursor={page['next_cursor']}"


def _each(worker: Worker, hooks: Mapping[str, str], what: str) -> list[Any]:
    """How each webhook's target stands; while nobody can say, that somebody should know."""
    answers = [worker.get(path) for path in hooks.values()]
    return [told["target"][what] if status == 200 else "not known" for status, told in answers]


async def _until(true: Callable[[], bool], within_s: float, why: str) -> None:
    deadline = time.monotonic() + within_s
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline, f"{why} in {within_s:.0f} s"
        await asyncio.sleep(0.1)


def _post(worker: Worker, path: str, body: object, method: str = "POST") -> Any:
    head = {"Content-Type": "application/json"}
    raw = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(worker.url + path, raw, head, method=method)
    with urllib.request.urlopen(asked, timeout=20) as response:
        return json.loads(response.read())
