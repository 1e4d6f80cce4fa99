"""The checkers, checked (I9): each planted loss, double, reorder and wrong value is caught, an honest history is clean.

The honest history is made by the platform's own task loop over a log in memory; what is planted into it is what a
broken platform would leave behind.
"""

from __future__ import annotations

import ast
import asyncio
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from pytest import mark, param

from streams.driver import Driver
from tests.agents.domain import PARTITIONS, make_app
from tests.oracle.broker import TABLES, judge_ends, read_topic
from tests.oracle.documents import document_faults, same_content
from tests.oracle.history import Fold, Order
from tests.oracle.judge import judge
from tests.oracle.log import COMMANDS, EVENTS, INTAKE, LETTERS, Log, Position, Record, derived, home_of
from tests.oracle.planting import (
    CHANGELOG,
    Plant,
    any_record,
    edited,
    in_headers,
    invented,
    moved,
    of_type,
    only_of_its_key,
    respelled,
    swapped,
    wrong_letter,
)
from tests.oracle.postgres import Database, expected_database, judge_postgres
from tests.oracle.tables import place_of
from tests.oracle.verdict import Kind, Verdict, first_difference
from tests.oracle.window import Answer, Sight, judge_list, judge_order, judge_sights, judge_timeline, shown, timelines
from tests.orders_load import (
    POISON,
    Totals,
    compact,
    document,
    plan,
    poison,
    reworded,
    totals,
)
from tests.processes import RunningStack

SEED, NUMBERS = 11, 400


# --- an honest history ------------------------------------------------------------------------------------------------


async def lived(directory: Path, seed: int, numbers: int) -> Log:
    """What the platform makes of a load: a few records at a time, so that its topics are worked on in turns."""
    app, _ = make_app(directory)
    chance, sent = Random(seed), set[Position]()
    async with Driver(app, batch_max_records=7) as driver:
        for record in [*plan(numbers, seed), *poison(60, seed)]:
            partition = chance.randrange(PARTITIONS)
            if record.key is not None:
                murmur2, crc32 = home_of(record.key.decode(), PARTITIONS), zlib.crc32(record.key) % PARTITIONS
                partition = (murmur2, crc32)[record.partitioner]
            at = driver.produce(
                record.topic, key=record.key, value=record.value, partition=partition, headers=record.headers
            )
            sent.add(Position(*at))
            driver.clock.advance(chance.randrange(3))
            if chance.random() < 0.1:
                await driver.run()
        await driver.run()
        topics = {topic: taken(driver, topic) for topic in (INTAKE, COMMANDS, EVENTS, LETTERS)}
        changelogs = {table: taken(driver, f"orderstream-{table}-changelog") for table in TABLES}
    return Log(PARTITIONS, topics, changelogs, frozenset(at for at in sent if at.topic == COMMANDS))


def taken(driver: Driver, topic: str) -> list[Record]:
    return [Record(*record[:6], tuple(record.headers)) for record in driver.read(topic)]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Log:
    return asyncio.run(lived(tmp_path_factory.mktemp("app"), SEED, NUMBERS))


@pytest.fixture(scope="module")
def fold(honest: Log) -> Fold:
    return judge(honest, Verdict())


def test_an_honest_history_is_clean_and_comes_to_the_planned_totals(honest: Log) -> None:
    verdict = Verdict()
    fold = judge(honest, verdict)
    verdict.require(inputs=NUMBERS, commands=NUMBERS)
    happened = [each.event["type"] for each in fold.happened]
    found = Totals(
        orders=len(fold.orders),
        amount_minor=sum(orjson.loads(order.document)["payment"]["amount"] for order in fold.orders.values()),
        repetitions=verdict.looked_at["repetitions"],
        order_refusals=happened.count("order_refused"),
        cancellations=happened.count("order_cancelled") + happened.count("cancellation_refused"),
        poison=len(honest.of(LETTERS)),
    )
    expected = totals(NUMBERS, SEED)
    assert found == expected._replace(poison=expected.poison + 60)
    assert min(found) > 0, "a load that lacks something proves nothing about it"
    assert verdict.looked_at["brought home"] > NUMBERS / 4
    reasons = {each.event.get("reason") for each in fold.happened}
    assert {"exists_with_different_content", "no_such_order"} <= reasons


@mark.parametrize("seed", [1, 2, 3])
def test_other_honest_histories_are_clean(seed: int, tmp_path: Path) -> None:
    verdict = Verdict()
    judge(asyncio.run(lived(tmp_path, seed, 120)), verdict)
    verdict.require(events=100)


def test_a_judge_who_looked_at_too_little_fails(honest: Log) -> None:
    verdict = Verdict()
    judge(honest, verdict)
    with pytest.raises(AssertionError, match="expected 1000000 at least"):
        verdict.require(inputs=1_000_000)


# --- planted in the log -----------------------------------------------------------------------------------------------


PLACED, CANCELLED = of_type("order_placed"), of_type("order_cancelled")
REFUSED, NOT_CANCELLED = of_type("order_refused"), of_type("cancellation_refused")


@mark.parametrize(
    ("plant", "kind", "check"),
    [
        param(lambda p: p.without(EVENTS, PLACED), Kind.LOST, "commands", id="an order is lost"),
        param(lambda p: p.without(EVENTS, REFUSED), Kind.LOST, "commands", id="a refusal is lost"),
        param(lambda p: p.without(EVENTS, CANCELLED), Kind.LOST, "commands", id="a cancellation is lost"),
        param(lambda p: p.without(EVENTS, NOT_CANCELLED), Kind.LOST, "commands", id="its refusal is lost"),
        param(lambda p: p.doubled(EVENTS, PLACED), Kind.DOUBLED, "events", id="an order is placed twice"),
        param(lambda p: p.doubled(EVENTS, REFUSED), Kind.DOUBLED, "events", id="a refusal is said twice"),
        param(swapped, Kind.REORDERED, "events", id="two orders change places"),
        param(invented, Kind.WRONG, "events", id="an event that nobody caused"),
        param(
            lambda p: p.changed(EVENTS, PLACED, respelled(b'"delivery_cost":1500', b'"delivery_cost":1600')),
            Kind.WRONG, "events", id="a wrong sum in an event",
        ),
        param(lambda p: p.changed(EVENTS, PLACED, edited(version=2)), Kind.WRONG, "events", id="a wrong version"),
        param(lambda p: p.changed(EVENTS, CANCELLED, edited(version=1)), Kind.WRONG, "events", id="a version stands"),
        param(lambda p: p.changed(EVENTS, CANCELLED, edited(reason="?")), Kind.WRONG, "events", id="another reason"),
        param(
            lambda p: p.changed(EVENTS, NOT_CANCELLED, edited(reason="already_cancelled")),
            Kind.WRONG, "events", id="a refusal that the state does not justify",
        ),
        param(lambda p: p.changed(EVENTS, REFUSED, edited(event_id="x")), Kind.WRONG, "events", id="another event_id"),
        param(lambda p: p.changed(EVENTS, PLACED, edited(occurred_at="2026")), Kind.WRONG, "events", id="wrong time"),
        param(lambda p: p.changed(EVENTS, PLACED, edited(customer_id="me")), Kind.WRONG, "events", id="wrong customer"),
        param(lambda p: p.changed(EVENTS, PLACED, moved), Kind.WRONG, "events", id="an event away from home"),
        param(
            lambda p: p.changed(EVENTS, PLACED, lambda r: r._replace(key=b"k")), Kind.WRONG, "events", id="wrong key"
        ),
        param(
            lambda p: p.changed(EVENTS, any_record, lambda r: r._replace(value=b"?")),
            Kind.WRONG, "events", id="no event at all",
        ),
        param(lambda p: p.without(COMMANDS, p.forwarded), Kind.LOST, "brought home", id="not brought home"),
        param(lambda p: p.doubled(COMMANDS, p.forwarded), Kind.DOUBLED, "brought home", id="brought home twice"),
        param(
            lambda p: p.changed(COMMANDS, p.forwarded, respelled(b'"payment_dt":1', b'"payment_dt":2')),
            Kind.WRONG, "brought home", id="another document was brought home",
        ),
        param(
            lambda p: p.changed(COMMANDS, p.forwarded, in_headers("load", b"?")),
            Kind.WRONG, "brought home", id="other headers were brought home",
        ),
        param(lambda p: p.without(LETTERS, any_record), Kind.LOST, "dead letters", id="a missing dead letter"),
        param(lambda p: p.doubled(LETTERS, any_record), Kind.DOUBLED, "dead letters", id="a doubled dead letter"),
        param(wrong_letter, Kind.WRONG, "dead letters", id="a dead letter for a good order"),
        param(
            lambda p: p.changed(LETTERS, any_record, lambda r: r._replace(value=b"other")),
            Kind.WRONG, "dead letters", id="other bytes in a dead letter",
        ),
        param(
            lambda p: p.changed(LETTERS, any_record, in_headers("dead-letter-reason", None)),
            Kind.WRONG, "dead letters", id="a dead letter without its reason",
        ),
        param(
            lambda p: p.changed(LETTERS, any_record, in_headers("dead-letter-faults", b"[]")),
            Kind.WRONG, "dead letters", id="a dead letter that names no fault",
        ),
        param(
            lambda p: p.changed(LETTERS, any_record, in_headers("dead-letter-offset", None)),
            Kind.WRONG, "dead letters", id="a dead letter without its origin",
        ),
    ],
)  # fmt: skip
def test_planted_in_the_log(plant: Callable[[Plant], Log], kind: Kind, check: str, honest: Log, fold: Fold) -> None:
    verdict = Verdict()
    judge(plant(Plant(honest, fold)), verdict)
    assert verdict.examples.get((kind, check)), f"it was not caught: {verdict}"
    with pytest.raises(AssertionError):
        verdict.require()


def in_a_row(change: Callable[[Record], Record]) -> Callable[[Plant, str], Log]:
    return lambda plant, name: plant.changed(name, only_of_its_key(plant.records(name)), change)


@mark.parametrize("table", TABLES)
@mark.parametrize(
    ("plant", "kind"),
    [
        param(lambda p, name: p.without(name, only_of_its_key(p.records(name))), Kind.LOST, id="a row is missing"),
        param(in_a_row(lambda record: record._replace(value=b'"?"')), Kind.WRONG, id="a row is wrong"),
        param(in_a_row(lambda record: record._replace(value=None)), Kind.LOST, id="a row is deleted"),
        param(in_a_row(moved), Kind.WRONG, id="a row is not at home"),
        param(
            lambda p, name: p.topic(name, [*p.records(name), p.records(name)[-1]._replace(key=b"a\0b\0c\0d")]),
            Kind.WRONG, id="a row that nothing accounts for",
        ),
    ],
)  # fmt: skip
def test_planted_in_a_changelog(
    table: str, plant: Callable[[Plant, str], Log], kind: Kind, honest: Log, fold: Fold
) -> None:
    verdict = Verdict()
    judge(plant(Plant(honest, fold), table + CHANGELOG), verdict)
    assert verdict.examples.get((kind, f"rows of {table}")), f"it was not caught: {verdict}"
    assert sum(verdict.counts.values()) <= 3, f"one fault is told as many: {verdict}"


def test_a_document_that_is_not_as_received_in_its_row(honest: Log, fold: Fold) -> None:
    plant, verdict = Plant(honest, fold), Verdict()
    row = only_of_its_key(plant.records("orders-changelog"))
    judge(plant.changed("orders-changelog", row, respelled(b'"goods_total":', b'"goods_total": ')), verdict)
    assert verdict.examples[Kind.WRONG, "rows of orders"][0].detail == "its document is not the bytes received"


def test_a_cancellation_that_is_answered_again_at_its_repetition(honest: Log, fold: Fold) -> None:
    """The second coming of a command must stay silent; an event with another id would be a second answer too."""
    verdict = Verdict()
    plant = Plant(honest, fold)
    log = plant.doubled(EVENTS, CANCELLED)
    judge(Plant(log, fold).changed(EVENTS, lambda r: r is log.of(EVENTS)[-1], edited(event_id=derived("x"))), verdict)
    assert verdict.examples[Kind.DOUBLED, "events"]


def test_without_the_clients_positions_a_command_may_come_twice_and_a_forwarded_order_may_not(
    honest: Log, fold: Fold
) -> None:
    unknown = replace(honest, sent=None)
    verdict = Verdict()
    judge(unknown, verdict)
    verdict.require()
    judge(replace(Plant(honest, fold).doubled(COMMANDS, Plant(honest, fold).forwarded), sent=None), verdict)
    assert verdict.counts[Kind.DOUBLED]


# --- planted in PostgreSQL --------------------------------------------------------------------------------------------


def without_first(rows: dict[Any, Any]) -> dict[Any, Any]:
    return dict(list(rows.items())[1:])


def with_other(rows: dict[Any, Any], **members: Any) -> dict[Any, Any]:
    key = next(iter(rows))
    return {**rows, key: {**rows[key], **members}}


@mark.parametrize(
    ("plant", "kind", "check"),
    [
        param(lambda d: d._replace(orders=without_first(d.orders)), Kind.LOST, "orders", id="an order"),
        param(lambda d: d._replace(order_items=without_first(d.order_items)), Kind.LOST, "order_items", id="an item"),
        param(
            lambda d: d._replace(order_events=without_first(d.order_events)), Kind.LOST, "order_events", id="an event"
        ),
        param(lambda d: d._replace(dead_letters=without_first(d.dead_letters)), Kind.LOST, "dead_letters", id="letter"),
        param(lambda d: d._replace(orders=with_other(d.orders, version=7)), Kind.WRONG, "orders", id="a version"),
        param(lambda d: d._replace(orders=with_other(d.orders, amount_minor=1)), Kind.WRONG, "orders", id="an amount"),
        param(lambda d: d._replace(orders=with_other(d.orders, document={})), Kind.WRONG, "orders", id="a document"),
        param(lambda d: d._replace(orders={**d.orders, "x": {}}), Kind.WRONG, "orders", id="an order too many"),
        param(
            lambda d: d._replace(order_events={**d.order_events, "x": {}}), Kind.WRONG, "order_events", id="event twice"
        ),
        param(
            lambda d: d._replace(dead_letters=with_other(d.dead_letters, reason="")), Kind.WRONG, "dead_letters",
            id="a reason",
        ),
    ],
)  # fmt: skip
def test_planted_in_postgres(
    plant: Callable[[Database], Database], kind: Kind, check: str, honest: Log, fold: Fold
) -> None:
    right, verdict = expected_database(fold, honest.of(LETTERS)), Verdict()
    found = right._replace(
        orders={uid: row | {"amount_minor": row["amount_minor"]} for uid, row in right.orders.items()}
    )
    judge_postgres(fold, honest.of(LETTERS), found, verdict)
    verdict.require()
    judge_postgres(fold, honest.of(LETTERS), plant(found), verdict)
    assert verdict.examples.get((kind, f"rows of postgres {check}")), f"it was not caught: {verdict}"


def test_a_row_that_postgres_refused_and_a_sum_that_is_wrong(honest: Log, fold: Fold) -> None:
    right, verdict = expected_database(fold, honest.of(LETTERS)), Verdict()
    judge_postgres(fold, honest.of(LETTERS), right._replace(refused=1), verdict)
    assert verdict.counts == {Kind.LOST: 1}
    more = with_other(right.orders, custom_fee_minor=right.orders[next(iter(right.orders))]["custom_fee_minor"] + 1)
    judge_postgres(fold, honest.of(LETTERS), right._replace(orders=more), verdict)
    assert verdict.examples[Kind.WRONG, "money"]


# --- planted in the answers -------------------------------------------------------------------------------------------


def test_answers_about_one_order(fold: Fold) -> None:
    order, verdict = next(order for order in fold.orders.values() if order.status == "cancelled"), Verdict()
    right = Answer(200, shown(order), '"2"')
    judge_order(order, right, "a worker", verdict)
    verdict.require()
    for wrong in (
        right._replace(status=404),
        right._replace(etag='"1"'),
        right._replace(body={**right.body, "version": 1}),
        right._replace(body={**right.body, "document": {}}),
    ):
        judge_order(order, wrong, "a worker", verdict)
    assert verdict.counts == {Kind.LOST: 1, Kind.WRONG: 3}


def test_answers_about_a_timeline(fold: Fold) -> None:
    entries = max(timelines(fold).values(), key=len)
    told = [
        {
            **{name: each.event.get(name) for name in ("type", "order_uid", "version", "event_id", "caused_by")},
            "occurred_at": each.event["occurred_at"],
            "reason": each.event.get("reason"),
            "topic": each.cause.topic,
            "partition": each.cause.partition,
            "offset": each.cause.offset,
            "position": str(each.cause.position),
        }
        for each in sorted(entries, key=lambda each: (each.event["version"], not each.changed, each.cause.offset))
    ]
    verdict = Verdict()
    judge_timeline(entries, Answer(200, {"entries": told}), "a worker", verdict)
    verdict.require()
    judge_timeline(entries, Answer(200, {"entries": told[1:]}), "a worker", verdict)
    judge_timeline(entries, Answer(200, {"entries": [*told, told[-1]]}), "a worker", verdict)
    judge_timeline(entries, Answer(404, {}), "a worker", verdict)
    assert verdict.counts == {Kind.WRONG: 2, Kind.LOST: 1}


@mark.parametrize(
    ("plant", "kind"),
    [
        param(lambda rows: rows[1:], Kind.LOST, id="an order is missing"),
        param(lambda rows: [*rows, rows[-1]], Kind.DOUBLED, id="an order comes twice"),
        param(lambda rows: rows[::-1], Kind.REORDERED, id="oldest first"),
        param(lambda rows: [*rows, {**rows[0], "order_uid": "x"}], Kind.WRONG, id="somebody else's order"),
        param(lambda rows: [{**rows[0], "status": "?"}, *rows[1:]], Kind.WRONG, id="an order is not as it stands"),
    ],
)
def test_planted_in_a_list(plant: Callable[[list[Any]], list[Any]], kind: Kind, fold: Fold) -> None:
    orders: list[Order] = sorted(fold.orders.values(), key=place_of)[:5]
    right, verdict = [shown(order) for order in orders], Verdict()
    judge_list(orders, right, "a list", verdict)
    verdict.require()
    judge_list(orders, plant(right), "a list", verdict)
    assert verdict.counts == {kind: 1}


def look(at: float, status: int, version: int | None = None, worker: str = "a", took: float = 0.01) -> Sight:
    return Sight(worker, "uid", at, at + took, status, version, retry_after=status == 503)


@mark.parametrize(
    ("sights", "expected"),
    [
        param([look(1, 404), look(2, 200, 1), look(3, 200, 2)], {}, id="placed, then cancelled"),
        param([look(1, 200, 1), look(2, 404)], {Kind.LOST: 1}, id="a false 404"),
        param([look(1, 200, 1, "a"), look(2, 404, None, "b")], {Kind.LOST: 1}, id="a false 404 of another worker"),
        param([look(1, 200, 1, took=5), look(2, 404)], {}, id="a 404 while the first answer was under way"),
        param([look(1, 200, 2), look(2, 200, 1, "b")], {Kind.REORDERED: 1}, id="a version that goes back"),
        param([look(1, 200, 2, took=5), look(2, 200, 1, "b")], {}, id="an older version at the same time"),
        param([look(1, 201, 1), look(2, 503), look(3, 0), look(4, 200, 1)], {}, id="a short outage"),
        param([look(1, 200, 1), look(2, 503), look(29, 0), look(30, 200, 1)], {Kind.WRONG: 1}, id="a long outage"),
        param([look(1, 200, 1), look(2, 503), look(29, 503)], {Kind.WRONG: 1}, id="an outage without an end"),
        param([look(1, 200, 1), look(2, 503), look(11, 0, took=9), look(30, 200, 1)], {}, id="a worker that sleeps"),
        param([look(1, 200, 1), look(2, 503), look(30, 200, 1)], {}, id="one 503, and nobody asked again for long"),
        param([look(1, 503), look(9, 200, 1), look(18, 503)], {}, id="two short outages"),
        param([look(1, 503)._replace(retry_after=False)], {Kind.WRONG: 1}, id="a 503 without Retry-After"),
        param([look(1, 500)], {Kind.WRONG: 1}, id="a failure"),
    ],
)
def test_what_a_poller_saw(sights: list[Sight], expected: dict[Kind, int]) -> None:
    verdict = Verdict()
    judge_sights(reversed(sights), verdict, longest_gap_s=10)
    assert verdict.counts == expected, str(verdict)


# --- its own rules ----------------------------------------------------------------------------------------------------


@mark.parametrize("kind", POISON)
def test_each_kind_of_poison_is_found_where_it_was_planted(kind: str) -> None:
    paths, make = POISON[kind]
    assert document_faults(make(document(1, SEED))) == frozenset(paths)


def test_good_documents_have_no_faults_however_they_are_spelled() -> None:
    for number in range(30):
        tree = document(number, SEED)
        assert not document_faults(compact(tree)) and not document_faults(reworded(tree))
        assert same_content(compact(tree), reworded(tree))
        assert not same_content(compact(tree), compact({**tree, "sm_id": 99.0})), "1 is not 1.0"


def test_the_oracle_shares_no_code_with_the_platform() -> None:
    """Not the rules, not the words, not the engine: itself, the standard library and client libraries only."""
    allowed = {"tests", "aiohttp", "aiokafka", "asyncpg", "confluent_kafka", "orjson"} | set(sys.stdlib_module_names)
    loads = [Path(__file__).with_name(name) for name in ("orders_load.py", "checkout_load.py")]
    modules = [*Path(__file__).with_name("oracle").glob("*.py"), *loads]
    assert len(modules) > 10
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
                assert not name.startswith("tests") or name.startswith("tests.oracle"), f"{path.name} imports {name}"


def test_differences_are_named() -> None:
    assert first_difference({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b: expected 2, found 3"
    assert first_difference({"a": 1}, {}) == "a: expected 1, found 'nothing'"
    assert first_difference([1, {"a": 2}], [1, {"a": 3}]) == "[1]: a: expected 2, found 3"


# --- on a real broker -------------------------------------------------------------------------------------------------


def test_a_transaction_that_hangs_is_found(stack: RunningStack) -> None:
    topic, verdict = "oracle-hanging", Verdict()
    admin = AdminClient({"bootstrap.servers": stack.kafka})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result()
    producer = Producer({"bootstrap.servers": stack.kafka, "transactional.id": topic, "transaction.timeout.ms": 30_000})
    producer.init_transactions(10)
    for value in (b"committed", b"aborted", b"open"):
        producer.begin_transaction()
        producer.produce(topic, value)
        producer.flush(10)
        if value == b"committed":
            producer.commit_transaction(10)
        elif value == b"aborted":
            producer.abort_transaction(10)
    assert [record.value for record in read_topic(stack.kafka, topic)] == [b"committed"]
    judge_ends(stack.kafka, verdict, timeout_s=1)
    assert f"{topic}-0" in hanging(verdict)  # a worker that another test has killed may have left one too
    producer.commit_transaction(10)
    producer.close()
    verdict = Verdict()
    judge_ends(stack.kafka, verdict)
    assert f"{topic}-0" not in hanging(verdict)


def hanging(verdict: Verdict) -> list[str]:
    return [finding.where for finding in verdict.examples[Kind.HANGING, "ends of partitions"]]
