"""log calls -> the lines that come out: JSON, with the request's id, without anybody's personal data."""

from __future__ import annotations

import asyncio
import io
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import faust
import orjson
import pytest
import structlog
from mode.utils.logging import setup_logging
from pydantic import BaseModel, ValidationError
from pytest import mark, param

from streams import logs

PERSON = {"name": "Test Testov", "phone": "+9720000000", "email": "test@gmail.com", "address": "Ploshad Mira 15"}


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """A captured log; the process's own logging is put back afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    logs.configure("json", "INFO", out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def read(out: io.StringIO) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_is_json_with_time_level_logger_and_event(lines: io.StringIO) -> None:
    logs.get_logger("streams.task").info("store.opened", keys=12, table="orders")
    (line,) = read(lines)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"level": "info", "logger": "streams.task", "event": "store.opened", "keys": 12, "table": "orders"}


def test_lines_of_other_libraries_take_the_same_shape(lines: io.StringIO) -> None:
    logging.getLogger("aiokafka.consumer").warning("mailed %s at offset %d", "test@gmail.com", 7)
    (line,) = read(lines)
    assert line["event"] == "mailed *** at offset 7"
    assert (line["logger"], line["level"]) == ("aiokafka.consumer", "warning")


def test_the_request_id_is_on_every_line_of_its_request_only(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logging.getLogger("aiokafka").info("inside")
        logs.get_logger("web").info("inside too")
    logs.get_logger("web").info("outside")
    inside, too, outside = read(lines)
    assert inside["request_id"] == too["request_id"] == "r-1"
    assert "request_id" not in outside


async def test_concurrent_requests_do_not_share_an_id(lines: io.StringIO) -> None:
    async def request(name: str) -> None:
        with structlog.contextvars.bound_contextvars(request_id=name):
            await asyncio.sleep(0)
            logs.get_logger("web").info(name)

    await asyncio.gather(*(request(f"r-{n}") for n in range(5)))
    assert all(line["event"] == line["request_id"] for line in read(lines))


def test_a_document_in_a_log_call_shows_nothing_personal(lines: io.StringIO) -> None:
    document = {"delivery": PERSON, "items": [{"price": 453}]}
    logs.get_logger("web").info("refused", document=document, customer_email="a@b.de")
    (line,) = read(lines)
    assert line["document"]["delivery"] == dict.fromkeys(PERSON, "***")
    assert line["document"]["items"] == [{"price": 453}]
    assert line["customer_email"] == "***"


def test_an_exception_is_masked_too(lines: io.StringIO) -> None:
    class Delivery(BaseModel):
        phone: int

    try:
        Delivery.model_validate({"phone": "Test Testov"})
    except ValidationError:
        logs.get_logger("web").exception("failed")
    text = lines.getvalue()
    assert "Testov" not in text
    assert "ValidationError" in text and "input_value=***" in text


@mark.parametrize(
    ("text", "expected"),
    [
        param("from test@gmail.com now", "from *** now", id="e-mail"),
        param("call +972 (000) 00-00.", "call ***.", id="phone"),
        param("tel=+9720000000", "tel=***", id="phone after a sign"),
        param("topic orders-2-1234567890", "topic orders-2-1234567890", id="a position is no phone"),
        param("2026-11-21T11:45:00+00:00", "2026-11-21T11:45:00+00:00", id="a time zone is no phone"),
        param('{"name": "Test \\u0041", "price": "1"}', '{"name": "***", "price": "1"}', id="JSON"),
        param("{'city': 'Kiryat', 'sm_id': 9}", "{'city': '***', 'sm_id': 9}", id="Python"),
        param('"{\\"zip\\": \\"26398\\"}"', '"{\\"zip\\": \\"***\\"}"', id="JSON quoted once more"),
        param("postgresql://us:pa55@db/x", "postgresql://us:***@db/x", id="credentials in a URL"),
        param("http://127.0.0.1:6066/health", "http://127.0.0.1:6066/health", id="a plain URL"),
    ],
)
def test_text(text: str, expected: str) -> None:
    assert logs.mask_text(text) == expected


@mark.parametrize(
    ("value", "expected"),
    [
        param({"name": "orders", "address": ":6066"}, {"name": "orders", "address": ":6066"}, id="top"),
        param({"d": {"name": "Ann"}}, {"d": {"name": "***"}}, id="in a document"),
        param({"phone": 5}, {"phone": "***"}, id="a number"),
        param({"raw": b'{"email":"a@b.de"}'}, {"raw": '{"email":"***"}'}, id="bytes"),
        param({"list": (1, "a@b.de")}, {"list": [1, "***"]}, id="a list"),
        param({"password": "x", "api-token": "y"}, {"password": "***", "api-token": "***"}, id="secrets"),
    ],
)
def test_values(value: Any, expected: Any) -> None:
    assert logs.mask(value) == expected


def test_a_value_nested_without_end_is_cut() -> None:
    value: list[Any] = []
    for _ in range(500):
        value = [value]
    assert "***" in str(logs.mask(value))


def test_a_huge_line_is_cut_and_says_so() -> None:
    assert logs.mask_text("x" * 20_000).endswith("(3616 more characters)")


def test_masking_a_long_run_of_letters_is_not_quadratic() -> None:
    # 16 KiB of letters and an @ took seconds before the runs were bounded.
    started = asyncio.new_event_loop().time
    before = started()
    logs.mask_text("a" * 16_000 + "@" + "b" * 300 + '": "' * 40)
    assert started() - before < 0.5


@mark.parametrize("level", ["WARNING", None], ids=["settings decide", "faust --loglevel decides"])
def test_faust_sets_its_worker_up_with_it(lines: io.StringIO, level: str | None) -> None:
    out = io.StringIO()
    setup_logging(loglevel="WARN", logging_config=logs.logging_config("json", level, out))
    logging.getLogger("faust").info("unseen")
    logging.getLogger("faust").error("seen by test@gmail.com")
    assert [line["event"] for line in read(out)] == ["seen by ***"]


async def test_a_worker_does_not_turn_the_levels_round(lines: io.StringIO) -> None:
    out = io.StringIO()
    app = faust.App("logged", broker="kafka://127.0.0.1:9", logging_config=logs.logging_config("json", "INFO", out))
    worker = logs.LoggedWorker(app, loglevel="WARN", loop=asyncio.get_running_loop(), redirect_stdouts=False)
    worker._setup_logging()
    assert logging.getLogger().level == logging.INFO
    logging.getLogger("aiokafka").debug("unseen")
    logs.get_logger("web.access").info("request", status=200)
    assert [line["event"] for line in read(out)] == ["request"]


def test_the_console_shows_the_same_without_the_person(lines: io.StringIO) -> None:
    out = io.StringIO()
    logs.configure("console", "INFO", out)
    logs.get_logger("web").info("refused", document={"delivery": PERSON})
    assert "refused" in out.getvalue() and "Testov" not in out.getvalue() and "gmail" not in out.getvalue()


def test_a_library_says_the_same_thing_once_and_then_how_often_it_was_not_let() -> None:
    now = 0.0
    repeats = logs.Repeats(lambda: now)

    def said(name: str, template: str, argument: object) -> str | None:
        record = logging.LogRecord(name, logging.ERROR, "", 0, template, (argument,), None)
        return record.getMessage() if repeats.filter(record) else None

    assert said("aiokafka.conn", "no node %s", 1) == "no node 1"
    assert [said("aiokafka.conn", "no node %s", number) for number in range(3)] == [None, None, None]
    assert said("aiokafka.conn", "no topic %s", 1) == "no topic 1"
    assert [said("streams.engine", "task %s", 1) for _ in range(2)] == ["task 1", "task 1"]
    now = 5.0
    assert said("aiokafka.conn", "no node %s", 9) == "no node 9 (and 3 times more since the last such line)"
    assert said("aiokafka.conn", "no node %s", 9) is None


FIELDS = {"method": "GET", "path": "/orders/a", "status": 200, "seconds": 0.25}


def test_a_brief_line_is_the_line_of_a_log_call(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logs.get_logger("web.access").info("request", **FIELDS)
        logs.Brief("web.access").info("request", **FIELDS)
    usual, brief = read(lines)
    assert len(usual.pop("timestamp")) == len(brief.pop("timestamp"))
    assert (
        brief == usual == {"level": "info", "logger": "web.access", "event": "request", "request_id": "r-1", **FIELDS}
    )


def test_a_brief_line_has_the_level_and_the_format_of_the_others() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        for log_format, least, wanted in (("json", "WARNING", 0), ("console", "INFO", 1)):
            out = io.StringIO()
            logs.configure(log_format, least, out)  # type: ignore[arg-type]
            logs.Brief("web.access").info("request", **FIELDS)
            assert len(out.getvalue().splitlines()) == wanted
            assert not out.getvalue().startswith("{")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()


def test_who_listens_beside_hears_brief_lines_too(lines: io.StringIO) -> None:
    heard: list[logging.LogRecord] = []

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record)

    logging.getLogger().addHandler(Ear())
    logs.Brief("web.access").info("request", **FIELDS)
    assert len(heard) == len(read(lines)) == 1


def test_a_stream_that_is_broken_fails_no_request(lines: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    lines.close()
    logs.Brief("web.access").info("request", **FIELDS)
    lines.__init__()  # type: ignore[misc]
