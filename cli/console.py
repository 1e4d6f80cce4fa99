"""what a command found -> data on standard output, progress and errors on standard error, an exit code."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click
import orjson
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
)
from faust.cli.base import State

import local
from schemas.hints import pasteable
from schemas.settings import Settings
from streams import App, admin
from streams.admin import BrokerUnreachable, NoLeader, TopicsDiffer, TopicsRefused
from streams.brokers import Brokers, NotLetIn
from streams.printable import printable

if TYPE_CHECKING:
    from cli.past import Folds

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

#: How long a command waits for something that should be there; a person is waiting too.
PATIENCE_S = 5.0


class _Said(click.ClickException):
    """An error whose commands can be pasted."""

    def format_message(self) -> str:
        return printable(pasteable(super().format_message()))


class Found(_Said):
    """Exit code 1: it was looked at and is not as it should be (a difference, a red line, no such order)."""

    exit_code = 1


class Unreachable(_Said):
    """Exit code 3: what has to be asked does not answer. The message names the command or setting that mends it."""

    exit_code = 3


@dataclass(frozen=True)
class Operator:
    """What every command works with; click hands it to each as its object."""

    app: App
    settings: Settings
    #: The rules' folds, for commands that read the log; app.py hands them over.
    folds: Folds | None = None

    @property
    def app_id(self) -> str:
        return str(self.app.conf.id)

    @property
    def brokers(self) -> Brokers:
        """The brokers that app.py has found: the setting's, or those of the embedded stack."""
        return self.app.brokers

    def postgres(self) -> str:
        """The DSN: the setting's, or the embedded stack's. Raises Unreachable when there is neither."""
        try:
            return local.postgres_dsn(self.settings)
        except LookupError as error:
            raise Unreachable(f"No PostgreSQL is up.\n{error}") from error

    def postgres_place(self) -> str:
        """Where the DSN points, without its credentials."""
        parts = urlsplit(self.postgres())
        return f"{parts.hostname or 'a local socket'}:{parts.port or 5432}{parts.path}"

    @property
    def web_url(self) -> str:
        """The worker of these settings; one that listens on every address is asked on loopback."""
        return self.settings.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//:::", "//[::1]:")

    async def after_check(self, work: Coroutine[Any, Any, T]) -> T:
        """Do the work once a broker has answered and the topics are as declared: errors are then told as everywhere."""
        try:
            await admin.check(self.brokers, self.app.required_topics())
        except BaseException:
            work.close()
            raise
        return await work

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a command's work; what the broker answers or does not answer becomes a plain error, never a traceback."""
        with _quiet_libraries():
            try:
                return asyncio.run(work)
            except NotLetIn as error:
                raise Found(f"{_sentence(error)}\n{local.no_access(self.settings)}") from error
            except BrokerUnreachable as error:
                raise Unreachable(f"{_sentence(error)}\n{local.no_broker(self.settings)}") from error
            except (KafkaConnectionError, KafkaTimeoutError, RequestTimedOutError, NodeNotReadyError) as error:
                detail = f"No Kafka broker answers at {self.brokers} ({type(error).__name__})"
                raise Unreachable(f"{detail}\n{local.no_broker(self.settings)}") from error
            except KafkaError as error:
                raise Found(f"The broker at {self.brokers} refused: {error or type(error).__name__}") from error
            except (TopicsDiffer, TopicsRefused, NoLeader) as error:
                raise Found(_sentence(error)) from error


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """aiokafka logs each refused connection as an error of its own, before the command says it better, and asyncio each
    future that a fenced producer leaves behind. `faust --debug` lets them speak."""
    loggers = [] if _faust_state().debug else [logging.getLogger(name) for name in ("aiokafka", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:]


def json_option(command: Command) -> Command:
    """`--json` on the command itself; Faust's own, before the command's name, does the same."""
    help_text = "Print data as JSON, and nothing but JSON, on standard output."
    decorated: Command = click.option("--json", "as_json", is_flag=True, help=help_text, callback=_either_json)(command)
    return decorated


def wants_json() -> bool:
    """Whether Faust's own `--json` was given."""
    return bool(_faust_state().json)


def _either_json(_context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    return value or wants_json()


def _faust_state() -> State:
    state = click.get_current_context().find_root().obj
    return state if isinstance(state, State) else State()


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost. Without a terminal there is nobody to ask: `--yes` is then required."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} There is no terminal to ask on: add --yes if that is meant.")
    click.confirm(question, abort=True, err=True)


def put_json(value: Any) -> None:
    """The one place where data leaves as JSON."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    click.echo(orjson.dumps(value, default=str, option=option).decode())


def readable(raw: bytes | None) -> Any:
    """JSON as data, other bytes as the text that they look like."""
    if raw is None:
        return None
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode(errors="replace")


def put_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    for line in table_lines(headers, rows):
        click.echo(line)


def table_lines(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Columns as wide as their widest cell; the last one runs free."""
    cells = [[str(cell) for cell in row] for row in (headers, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headers))]
    for row in cells:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        yield "  ".join([*padded, row[-1]]).rstrip()


def note(text: str) -> None:
    """A line for the person, on standard error; Faust's `--quiet` silences it."""
    if not _faust_state().quiet:
        click.echo(pasteable(text), err=True)


def progress(label: str, length: int) -> Any:
    """A bar on standard error when that is a terminal, nothing elsewhere. A context manager with `update(count)`; a
    text given with the count stands behind the bar."""
    hidden = _faust_state().quiet or not sys.stderr.isatty() or length == 0
    return click.progressbar(
        length=length,
        label=label,
        file=sys.stderr,
        hidden=hidden,
        show_pos=True,
        update_min_steps=50,
        item_show_func=lambda behind: behind,
    )
