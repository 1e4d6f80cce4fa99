"""Escapes foreign text so that it can be shown on a terminal and stored anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TextIO

#: Control characters (C0 but tab and line feed, DEL, C1), direction overrides, and lone surrogates, which no encoding
#: can hold. A terminal obeys the first two: they move its cursor, set its title, and let text look like other text.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, lines: bool = True) -> str:
    """The text with unsafe characters as `\\u001b`, which within JSON means the same character.

    `lines` False: tabs and line feeds are escaped too.
    """
    if not lines:
        text = text.replace("\t", "\\t").replace("\n", "\\n")
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


class PrintableStream:
    """A text stream that escapes what it is given to write: the one place for a program that shows foreign text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
