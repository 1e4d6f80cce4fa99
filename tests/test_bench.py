"""bench/ at a tiny scale, its judgements on planted figures, and the guard of CPU per order."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web
from pytest import mark, param, raises

import agents.orders
from bench import chart, guard, http_load, orders, profile, results
from bench.folds import Fold
from bench.lines import GROUPS, chosen
from bench.loading import load
from bench.results import Goal, Line
from bench.watching import Outputs, Stuck, read_outputs
from local.ports import find_free
from local.threads import run_async
from schemas.orders import InvalidDocument, read_document
from streams import admin
from tests.processes import ROOT, RunningStack

# -- the whole thing, small -------------------------------------------------------------------------------------------

LINES = {"sink": "sink", "offline": "offline"}


def test_lines_run_end_to_end(tmp_path: Path) -> None:
    """Own broker, our engine, the product, its sink and the pure rules; no peer that would have to be installed."""
    out = tmp_path / "results.json"
    command = [sys.executable, "-m", "bench", "--no-peers", "--rounds", "1", "--scale", "0.002", "--out", str(out)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ORDERSTREAM_")}
    env = plain | {"ORDERSTREAM_DATA_DIR": str(tmp_path), "LINES": "", "ROUNDS": "", "SCALE": ""}
    done = subprocess.run(
        [*command, "--lines", ",".join(LINES)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["lines"].keys() == {name for names in LINES.values() for name in names.split(",")}
    for name, line in found["lines"].items():
        assert line.keys() >= {"ours", "peers", "ratio", "goal", "met", "spread", "unit", "date", "rounds"}, name
        assert line["ours"] > 0 and line["spread"]["ours"] == [line["ours"], line["ours"]], name
    assert found["lines"]["sink"]["ratio"] == pytest.approx(
        found["lines"]["sink"]["ours"] / found["lines"]["sink"]["peers"]["COPY"], abs=0.01
    )
    assert found["machine"]["cores"] >= 1 and found["scale"] == 0.002
    assert "sink, rows of orders" in done.stdout
    assert not list((tmp_path / "bench").glob("ground*")), "the bench leaves its broker's data behind"


@mark.parametrize(("arguments", "code"), [param(["--lines", "speed"], 2, id="unknown"), param(["--rounds", "0"], 2)])
def test_what_cannot_be_run_is_said_at_once(arguments: list[str], code: int) -> None:
    done = subprocess.run([sys.executable, "-m", "bench", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert "throughput" in done.stderr or "positive" in done.stderr


# -- the guard --------------------------------------------------------------------------------------------------------


def test_an_order_costs_no_more_than_it_did() -> None:
    assert guard.cost() < guard.baseline() * guard.ROOM, "see docs/bench.md, The guard"


def test_the_guard_notices_what_an_order_did_not_cost_before(monkeypatch: pytest.MonkeyPatch) -> None:
    decide: Callable[..., Any] = agents.orders.decide

    def slow(order: Any, command: Any, *more: Any, **named: Any) -> Any:
        for _ in range(40):  # forty units: no noise of a loaded machine comes near half of it
            orjson.dumps(orjson.loads(command.document))
        return decide(order, command, *more, **named)

    monkeypatch.setattr(guard, "REPEATS", 2)
    before = guard.cost()
    monkeypatch.setattr(agents.orders, "decide", slow)
    assert guard.cost() > before + 15


# -- loads ------------------------------------------------------------------------------------------------------------


def test_orders_are_distinct_valid_and_about_a_kilobyte() -> None:
    made = list(orders.plain(5_000))
    assert len({key for key, _ in made}) == len(made)
    assert 950 < sum(len(value) for _, value in made) / len(made) < 1_100
    for key, value in made[:: len(made) // 50]:
        assert read_document(value).order_uid == key.decode()


def test_the_mixed_load_comes_to_what_it_says() -> None:
    known: dict[bytes, bytes] = {}
    seen: Counter[str] = Counter()
    for key, value in orders.mixed(3_000):
        try:
            read_document(value)
        except InvalidDocument:
            seen["dead letter"] += 1
            continue
        if known.get(key) == value:
            seen["repeated"] += 1  # nothing new to say
        else:
            seen["event"] += 1  # placed, or refused because of other content
        known.setdefault(key, value)
    wanted = orders.mixed_load(3_000)
    assert (wanted.records, wanted.events, wanted.dead_letters) == (3_000, seen["event"], seen["dead letter"])
    assert seen["dead letter"] == 3 and seen["repeated"] == 30 and len(known) == seen["event"] - 30


def test_nothing_is_seen_before_the_gate_opens(stack: RunningStack, monkeypatch: pytest.MonkeyPatch) -> None:
    topic = "bench-gate"
    run_async(lambda: admin.create(stack.kafka, [admin.TopicConfig(topic, 4)]))
    looked: list[str] = []

    def at_gate() -> None:
        with monkeypatch.context() as patch, raises(Stuck, match="could not be read") as stuck:
            patch.setattr("bench.watching.PATIENCE_S", 1.0)
            read_outputs(stack.kafka, topic)
        looked.append(str(stuck.value))

    loaded = load(stack.kafka, topic, orders.plain(500), at_gate)
    after, _ = read_outputs(stack.kafka, topic)
    assert len(looked) == 1
    assert (loaded, after.records, after.keys) == (500, 500, 500)


# -- judgements -------------------------------------------------------------------------------------------------------


class _Told(Fold):
    """A fold of which only the judgement is used."""

    title, source, output = "told", "in", "out"

    def __init__(self) -> None:
        self.ground: Any = type("Nowhere", (), {"bootstrap": ""})
        self._read_to = None

    def start(self) -> None: ...


@mark.parametrize(
    ("found", "good"),
    [
        param(Outputs(100, 100, 1), True, id="each once"),
        param(Outputs(99, 99, 1), False, id="one lost"),
        param(Outputs(101, 100, 1), False, id="one doubled"),
        param(Outputs(100, 99, 1), False, id="one lost and one doubled"),
    ],
)
def test_a_fold_that_loses_or_doubles_has_no_figure(
    monkeypatch: pytest.MonkeyPatch, found: Outputs, good: bool
) -> None:
    monkeypatch.setattr("bench.folds.read_outputs", lambda *_: (found, {}))
    if good:
        assert _Told()._judged(100) == found
        return
    with raises(Stuck, match="100 outputs were expected"):
        _Told()._judged(100)


def test_both_ways_of_our_fold_make_the_same_state_and_event(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, setting in {"ID": "b", "KAFKA": "127.0.0.1:9", "PORT": "6066", "DATA_DIR": "unused"}.items():
        monkeypatch.setenv(f"BENCH_{name}", setting)
    app = importlib.import_module("bench.fold_app")
    for _, value in orders.plain(20):
        kept, whole = app.fold_kept(value, None), app.fold_whole(value, None)
        assert (kept[0], kept[2]) == (whole[0], whole[2])
        assert orjson.loads(kept[1]) == orjson.loads(whole[1])
        again = [orjson.loads(way(value, kept[1])[1])["version"] for way in (app.fold_kept, app.fold_whole)]
        assert again == [2, 2]
    wrong = orjson.loads(value)
    wrong["payment"]["goods_total"] += 1
    for way in (app.fold_kept, app.fold_whole):
        with raises(ValueError, match="goods_total"):
            way(orjson.dumps(wrong), None)


RATE = Line("rate", "rate", "per_s", "/s", ("one", "two"), {"peer": ("peer",)}, (Goal(2, "peer"),))
TIME = Line("time", "time", "ms", "ms", ("ours",), goals=(Goal(10, at_least=False),), more_is_better=False)


@mark.parametrize(
    ("line", "samples", "met", "ours"),
    [
        param(
            RATE, {"one": [10, 12, 11], "two": [30, 10, 20], "peer": [10, 9, 30]}, True, 20, id="the best way's median"
        ),
        param(RATE, {"one": [19], "peer": [10]}, False, 19, id="missed"),
        param(RATE, {"one": [20]}, None, 20, id="no peer, no judgement"),
        param(TIME, {"ours": [9, 10, 30]}, True, 10, id="at most"),
        param(TIME, {"ours": [10.1]}, False, 10.1, id="a little too much"),
    ],
)
def test_lines_are_judged(line: Line, samples: dict[str, list[float]], met: bool | None, ours: float) -> None:
    judged = line.judged({(line.quantity, who): values for who, values in samples.items()})
    assert judged is not None
    assert (judged["met"], judged["ours"]) == (met, ours)


def test_a_line_without_samples_is_no_line() -> None:
    assert RATE.judged({("per_s", "peer"): [1.0]}) is None


def test_lines_that_were_not_run_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path, {"a": {"ours": 1}, "b": {"ours": 1}}, {"date": "then"})
    results.write(path, {"b": {"ours": 2}}, {"date": "now"})
    lines = json.loads(path.read_text())["lines"]
    assert lines == {"a": {"ours": 1, "date": "then"}, "b": {"ours": 2, "date": "now"}}


def test_every_line_has_a_name_of_its_own_and_every_choice_a_group() -> None:
    names = Counter(line.name for group in GROUPS.values() for line in group.lines)
    assert max(names.values()) == 1
    assert chosen("cpu,restore_alone,latency") == ["throughput", "restore", "latency"]
    assert chosen("") == list(GROUPS)
    with raises(ValueError, match="there is no line speed"):
        chosen("cpu,speed")


def test_table_and_chart_show_the_figures() -> None:
    judged = RATE.judged({("per_s", "one"): [60_000.0, 70_000.0, 80_000.0], ("per_s", "peer"): [20_000.0]})
    assert judged is not None
    for text in (results.as_text({"rate": judged}), results.as_markdown({"rate": judged})):
        assert all(part in text for part in ("70,000 /s (60,000–80,000)", "peer 20,000", "3.50 ×", "≥ 2 × peer", "met"))
    drawn = ET.fromstring(chart.draw({"throughput": judged}))
    bars = [float(bar.attrib["width"]) for bar in drawn.iter("{http://www.w3.org/2000/svg}rect")]
    assert bars[0] == pytest.approx(3.5 * bars[1], rel=0.01)


def test_a_profile_is_read_by_function_and_by_purpose() -> None:
    main, library = "thread (7): MainThread", "/x/site-packages/a/b.py"
    found = profile.read(
        [
            f"{main};step (streams/task.py:1);read_document (schemas/orders/reading.py:4);f ({library}:2) 30",
            f"{main};step (streams/task.py:9);read_document (schemas/orders/reading.py:41) 10",
            f"{main};main (app.py:1) 60",
            "thread (8): asyncio_0;_worker (thread.py:1) 50",
        ]
    )
    assert found.total == 100
    assert found.own == {"f (a/b.py)": 30, "read_document (schemas/orders/reading.py)": 10, "main (app.py)": 60}
    assert found.areas == {"check the document": 40, "the rest": 60}


# -- the HTTP load ----------------------------------------------------------------------------------------------------


async def test_the_http_load_counts_answers_and_times_them_from_when_they_were_due() -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.Response(status=404 if request.match_info["uid"] == orders.order_uid(0) else 200, body=b"x" * 3_000)

    app, port = web.Application(), find_free()[0]
    app.router.add_get("/o/{uid}", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        began = time.monotonic()
        found = await asyncio.to_thread(http_load.drive, port, http_load.lookups("/o/", 2), 200, seconds=1.0, per_s=100)
        assert time.monotonic() - began < 60
    finally:
        await runner.cleanup()
    assert 90 <= found.per_s <= 101
    assert found.p99_ms >= found.p50_ms >= 50
    assert 0 < found.bad < 100
