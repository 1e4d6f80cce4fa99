"""log calls of structlog, Faust and every library -> masked -> one line each, as JSON or for a console."""

from __future__ import annotations

import asyncio
import logging
import logging.config
import re
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import faust
import orjson
import structlog
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import BaseModel
from structlog.typing import EventDict, Processor, WrappedLogger

from streams.printable import printable

LogFormat = Literal["auto", "json", "console"]

MASK = "***"

#: A person's data wherever it stands; a longer name that ends in one of them counts too (`customer_email`).
ALWAYS_PERSONAL = frozenset({"email", "phone", "password", "passwd", "secret", "token", "authorization"})
#: A person's data inside a document. At the top of a log call the same words name a table, or an address to listen on.
PERSONAL_IN_DOCUMENTS = frozenset({"name", "address", "zip", "city", "region", "street", "recipient", "bank"})

#: Deeper than any document that passes the edge; what is nested deeper is not shown at all.
MAX_DEPTH = 40
#: A log line longer than this helps nobody and costs the log's pipeline dear.
MAX_TEXT = 16_384

_KEYS = "|".join(sorted(ALWAYS_PERSONAL | PERSONAL_IN_DOCUMENTS))
# `"email": "a@b.c"` as JSON, as Python's repr, and as JSON that was quoted once more.
_FIELD = re.compile(rf"""(?is)(\\?["'])((?:\w{{1,40}}_)?(?:{_KEYS}))\1(\s*:\s*)(\\?["'])(.*?)\4""")
# pydantic quotes what it was given: `input_value='Test Testov', input_type=str`.
_INPUT = re.compile(r"input_value=.*?, input_type=", re.DOTALL)
# Each run is bounded, so a long line of letters cannot make the search quadratic.
_EMAIL = re.compile(r"[\w.%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+")
_PHONE = re.compile(r"(?<![\w+])\+\d[\d ().-]{5,18}\d")
_CREDENTIALS = re.compile(r"://([^\s:/@]{1,64}):[^\s@/]{1,128}@")


def mask_text(text: str) -> str:
    """The text without e-mail addresses, international phone numbers, credentials in URLs, quoted personal fields."""
    if len(text) > MAX_TEXT:
        text = f"{text[:MAX_TEXT]}… ({len(text) - MAX_TEXT} more characters)"
    if "input_value=" in text:
        text = _INPUT.sub(f"input_value={MASK}, input_type=", text)
    # Each search costs more than looking for the character without which it cannot find anything.
    if '"' in text or "'" in text:
        text = _FIELD.sub(rf"\1\2\1\3\4{MASK}\4", text)
    if "://" in text:
        text = _CREDENTIALS.sub(rf"://\1:{MASK}@", text)
    if "@" in text:
        text = _EMAIL.sub(MASK, text)
    if "+" in text:
        text = _PHONE.sub(MASK, text)
    # Last, so that nothing before it meets an escape: a log may be shown on a terminal, which obeys control characters.
    return printable(text)


def mask(value: Any, depth: int = 0) -> Any:
    """A copy of a log value that can be shown: personal fields replaced, everything else readable by JSON."""
    if depth > MAX_DEPTH:
        return MASK
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return mask_text(value)
        case bytes() | bytearray() | memoryview():
            return mask_text(bytes(value).decode("utf-8", "replace"))
        case BaseModel():
            return mask(value.model_dump(mode="python"), depth)
        case Mapping():
            fields = ((str(key), item) for key, item in value.items())
            return {key: MASK if _personal(key, depth) else mask(item, depth + 1) for key, item in fields}
        case list() | tuple() | set() | frozenset():
            return [mask(item, depth + 1) for item in value]
        case _:
            return mask_text(str(value))


def _personal(key: str, depth: int) -> bool:
    last = key.lower().replace("-", "_").rsplit("_", 1)[-1]
    return last in ALWAYS_PERSONAL or (depth > 0 and last in PERSONAL_IN_DOCUMENTS)


def mask_event(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """structlog processor: the last step before a line is written, so no other step can add what it did not see."""
    masked: EventDict = mask(event)
    return masked


class NoRequests(logging.Filter):
    """What is no HTTP request is answered 400 and is one line without its bytes.

    aiohttp logs a traceback that quotes what it could not read: a cookie with a wrong character, and as often as
    somebody likes to send one.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.name == "aiohttp.server" and record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg, record.args = "what came from a client is no HTTP request: %s", (type(error).__name__,)
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True


class Repeats(logging.Filter):
    """Lets a library say the same thing once in `EVERY_S`, and then how often it was not let.

    While a broker is down aiokafka writes some 85 lines a second and worker; the first of them says it all. The same
    thing: same logger, level and template. Our own lines and requests pass: none of them is written in a loop.
    """

    EVERY_S = 5.0
    LOUD = ("aiokafka", "mode", "faust", "asyncio", "aiohttp")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._said: dict[tuple[str, int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] not in self.LOUD:
            return True
        thing, now = (record.name, record.levelno, str(record.msg)), self._clock()
        said_at, held_back = self._said.get(thing, (-self.EVERY_S, 0))
        if now - said_at < self.EVERY_S:
            self._said[thing] = (said_at, held_back + 1)
            return False
        if len(self._said) > 1_000:  # templates are few; a library that formats before it logs must not fill memory
            self._said.clear()
        self._said[thing] = (now, 0)
        if held_back:
            record.msg = f"{record.msg} (and {held_back} times more since the last such line)"
        return True


def logging_config(
    log_format: LogFormat = "json", level: str | None = "INFO", stream: TextIO | None = None
) -> dict[str, Any]:
    """Set structlog up and give the dictConfig for `faust.App(logging_config=...)` (also fit for `logging.config`).

    With `level` none, Faust's own `--loglevel` decides. Lines go to standard error: standard output belongs to data.
    The format `auto` is for a person where standard error is a terminal, and JSON elsewhere.
    """
    if log_format == "auto":
        log_format = "console" if (stream or sys.stderr).isatty() else "json"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, mask_event, _renderer(log_format)],
        # Lines of Faust, aiokafka and the rest come from the standard library: they take the same steps first.
        "foreign_pre_chain": shared,
    }
    config: dict[str, Any] = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {
            "default": {
                "()": JsonLines if log_format == "json" else logging.StreamHandler,
                "formatter": "line",
                "filters": ["no requests", "repeats"],
                "stream": stream or "ext://sys.stderr",
            }
        },
        "filters": {"repeats": {"()": Repeats}, "no requests": {"()": NoRequests}},
        "loggers": _levels(log_format, verbose=level is not None and level.upper() == "DEBUG"),
    }
    if level is None:
        return {**config, "merge": True}
    return {**config, "root": {"level": level.upper(), "handlers": ["default"]}}


def _levels(log_format: LogFormat, verbose: bool) -> dict[str, dict[str, str]]:
    """Libraries that would say too much."""
    levels = {
        # aiohttp's access log would repeat, unmasked and without a request id, what the package web logs itself.
        "aiohttp.access": "WARNING",
        # At DEBUG it quotes every record that it sends and every byte of a log-in, a password among them. At INFO it
        # lists all partitions three times for each rebalance, which a person has no use for.
        "aiokafka": "INFO" if log_format == "json" or verbose else "WARNING",
    }
    if not verbose:
        # What starts and stops in which order: 40 lines that would bury the one with the cause.
        levels |= {"faust": "WARNING", "mode": "WARNING"}
    return {name: {"level": level} for name, level in levels.items()}


def _renderer(log_format: LogFormat) -> Processor:
    if log_format == "console":
        # Exceptions are text by now (format_exc_info ran before the mask): nothing unmasked is rendered here.
        return structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    return _json_line


def _json_line(logger: WrappedLogger, name: str, event: EventDict) -> str:
    """One JSON object with the four fields every line has in front."""
    ordered = {key: event.pop(key) for key in ("timestamp", "level", "logger", "event") if key in event}
    return orjson.dumps({**ordered, **event}, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The structured logger of a module: `log.info("store.opened", keys=12)`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


class JsonLines(logging.StreamHandler[TextIO]):
    """The handler of JSON lines, to whose stream `Brief` may write by itself."""


class Brief:
    """A logger for lines that come by the thousand, each with fields that its caller has masked: INFO and JSON only.

    The line is the one that a log call would write, at a tenth of its price: for a lookup over HTTP, the call was half
    of all that it cost. Where anything but our own handler listens, or lines are not JSON, it is a log call.
    """

    def __init__(self, name: str) -> None:
        self._name, self._logger, self._root = name, logging.getLogger(name), logging.getLogger()

    def info(self, event: str, **fields: Any) -> None:
        """Write the line, with what is bound to this context (`request_id`)."""
        if not self._logger.isEnabledFor(logging.INFO):
            return
        handlers = self._root.handlers
        if len(handlers) != 1 or not isinstance(handlers[0], JsonLines) or self._logger.handlers:
            get_logger(self._name).info(event, **fields)
            return
        now = datetime.now(UTC).isoformat(timespec="microseconds").removesuffix("+00:00")
        head = {"timestamp": f"{now}Z", "level": "info", "logger": self._name, "event": event}
        line = orjson.dumps({**head, **fields, **structlog.contextvars.get_contextvars()}, default=str)
        stream = handlers[0].stream
        try:
            stream.write(line.decode() + "\n")
            stream.flush()
        except (OSError, ValueError):
            get_logger(self._name).info(event, **fields)  # which knows what to do about a stream that is broken


class LoggedWorker(faust.Worker):
    """`faust.App(Worker=LoggedWorker)`: a worker that logs as `logging_config` says.

    Faust's own turns a spinner at start: unless `-l info` is given, it sets our handler to warnings only and the root
    logger to DEBUG for as long as the worker lives, which formats every debug line of every library for nobody.
    """

    def on_setup_root_logger(self, logger: logging.Logger, level: int) -> None:
        """Leave the root logger alone."""
        self.spinner = None

    def _gather_all(self) -> None:
        """What the services have left behind is cancelled at once; mode gives it a second to end by itself."""
        left = asyncio.all_tasks(self.loop)
        for task in left:
            task.cancel()
        if left:
            self.loop.run_until_complete(asyncio.wait(left, timeout=1))

    async def _sentinel_task(self) -> None:
        """Let closed connections go; mode gives them a second."""
        await asyncio.sleep(0.05)


def configure(log_format: LogFormat = "console", level: str = "INFO", stream: TextIO | None = None) -> None:
    """Logging for a process that is not a worker: commands, tests, the bench."""
    logging.config.dictConfig(logging_config(log_format, level, stream))
