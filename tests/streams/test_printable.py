"""Foreign text on a terminal: control characters are escaped in the one place that all output passes."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any, TextIO, cast

import click
import pytest
import structlog
from pytest import mark

import cli
from cli.console import Found
from streams import logs
from streams.printable import PrintableStream, printable

EVIL = "a\x1b[2J\x1b]0;title\x07b\x9b31mc\x7fd\re\u202ef\u2066g\ud800h"
UNSAFE = set("\x1b\x07\x9b\x7f\r\u202e\u2066\ud800")


@mark.parametrize("text", [EVIL, *sorted(UNSAFE), "\x00", "\x08", "\x85", "\u200f"], ids=ascii)
def test_what_a_terminal_obeys_is_escaped_and_json_still_means_the_same(text: str) -> None:
    shown = printable(text)
    assert not UNSAFE & set(shown) and shown.encode()
    assert json.loads(f'"{shown}"') == text


def test_what_people_read_stays() -> None:
    for text in ("Crème brûlée", "日本 🍣", "a\tb\nc", "", "\\u001b"):
        assert printable(text) == text
    assert printable("a\nb\tc", lines=False) == "a\\nb\\tc"


def test_everything_that_is_written_to_the_stream_is_escaped() -> None:
    out = io.StringIO()
    stream = cast(TextIO, PrintableStream(out))
    stream.write(EVIL)
    stream.writelines([EVIL, "\n"])
    click.echo(EVIL, file=stream)
    print(EVIL, file=stream)
    assert not UNSAFE & set(out.getvalue()) and out.getvalue().count("\n") == 3


def test_commands_write_to_it_and_their_errors_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(cli, "command_of", lambda name: click.Command(name, callback=lambda: click.echo(EVIL)))
    later = cli.Later("show", cast(Any, None))
    with later.make_context("show", []) as context:
        context.command.invoke(context)
    assert "title" in out.getvalue() and not UNSAFE & set(out.getvalue())
    assert not UNSAFE & set(Found(EVIL).format_message())


@mark.parametrize("form", ["json", "console"])
def test_logs_are_escaped_in_either_form(form: logs.LogFormat) -> None:
    root = logging.getLogger()
    before, level, out = root.handlers[:], root.level, io.StringIO()
    try:
        logs.configure(form, "INFO", out)
        logs.get_logger("x").info("seen", path=EVIL)
        logs.Brief("x").info("seen", path=logs.mask_text(EVIL))
        logging.getLogger("y").warning("a library says %s", EVIL)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()
    assert out.getvalue().count("title") == 3 and not UNSAFE & set(out.getvalue())
