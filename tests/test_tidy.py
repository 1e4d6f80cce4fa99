"""Every source file -> the rules of the house that no linter knows; after tigerbeetle's src/tidy.zig.

Who may import whom, what pure rules may touch, how long files and functions may be. A rule is a function from a source
to its faults, so that each is tested on a planted fault as well as on the code.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from pytest import mark, param

ROOT = Path(__file__).parent.parent
ALL = {"schemas", "streams", "tables", "agents", "agents.effects", "web", "local", "cli", "app"}
#: Room -> rooms it may import, itself aside. `agents.effects` reaches the outside world, so it is a room of its own.
MAY_IMPORT: dict[str, set[str]] = {
    "schemas": set(),
    "streams": set(),
    "tables": {"schemas", "streams"},
    "agents": {"schemas", "streams", "tables"},
    "agents.effects": {"schemas", "streams", "tables"},
    "web": {"schemas", "streams", "tables"},
    "local": {"schemas"},
    "cli": {"schemas", "streams", "tables", "local", "agents.effects"},
    "app": ALL,
    "tests": ALL | {"bench"},
    "bench": ALL,
}
ROOMS = [room for room in MAY_IMPORT if room not in ("app", "tests", "bench")]

#: All that a rule needs besides our own words: no clock, no chance, no input or output.
PURE_LIBRARIES = {
    "__future__",
    "bisect",
    "collections",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "orjson",
    "typing",
    "unicodedata",
}
#: What makes a re-run differ from the run, wherever it is called.
NOT_REPEATABLE = {"now", "utcnow", "today", "time_ns", "monotonic", "uuid1", "uuid4", "urandom", "token_hex", "getenv"}
NOT_REPEATABLE_LIBRARIES = {"asyncio", "os", "random", "secrets", "socket", "subprocess", "time", "threading"}
#: The two schemas that are about the outside: the environment, and made-up orders (seeded by their caller).
NOT_ONLY_WORDS = {"schemas/settings.py": {"os", "print"}, "schemas/orders/samples.py": {"random"}}

MOST_LINES, MOST_FUNCTION_LINES = 600, 60
EMPTY_NAMES = re.compile(r"(^|_)(utils?|helpers?|managers?|misc|common)($|_)|(Utils?|Helpers?|Manager)$")


@dataclass(frozen=True)
class Source:
    """A file of ours: its path below the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @property
    def room(self) -> str:
        return room_of(self.path.removesuffix(".py").replace("/", "."))

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, module); `from a import b` counts as a.b, since b may be a module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, name.name) for name in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                yield from ((node.lineno, f"{node.module}.{name.name}") for name in node.names)


def room_of(module: str) -> str:
    """The room of a dotted name; the first part for what is not ours."""
    if module == "agents.effects" or module.startswith("agents.effects."):
        return "agents.effects"
    return module.split(".")[0]


def faults_of_imports(source: Source) -> Iterator[str]:
    allowed = MAY_IMPORT[source.room] | {source.room}
    for line, module in source.imports():
        room = room_of(module)
        if room in MAY_IMPORT and room not in allowed:
            yield f"{source.path}:{line} imports {module}: {source.room} may import {sorted(allowed)}"


def faults_of_purity(source: Source) -> Iterator[str]:
    """Rules (agents/) and memory (tables/) import only what is listed; words (schemas/) nothing that differs by run."""
    listed = NOT_ONLY_WORDS.get(source.path, set())
    for line, module in source.imports():
        library = module.split(".")[0]
        if source.room in ("agents", "tables"):
            bad = library not in PURE_LIBRARIES and library not in MAY_IMPORT
        else:
            bad = source.room == "schemas" and library in NOT_REPEATABLE_LIBRARIES - listed
        if bad:
            yield f"{source.path}:{line} imports {module}: time, chance and input come in with the record"
    if source.room in ("agents", "tables", "schemas"):
        yield from _unrepeatable_calls(source)


def _unrepeatable_calls(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in NOT_REPEATABLE | {"open", "print", "input"} - NOT_ONLY_WORDS.get(source.path, set()):
                yield f"{source.path}:{node.lineno} calls {name}: a re-run must say the same in the same bytes"


def faults_of_rules(source: Source) -> Iterator[str]:
    """decide, evolve and react cover every case, and the type checker proves it."""
    for function in _functions(source):
        if source.room == "agents" and function.name in ("decide", "evolve", "react"):
            last = function.body[-1]
            call = last.value if isinstance(last, ast.Expr) else None
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "assert_never"):
                yield f"{source.path}:{last.lineno} {function.name} must end in assert_never"


def faults_of_size(source: Source) -> Iterator[str]:
    lines = source.text.count("\n")
    if lines >= MOST_LINES:
        yield f"{source.path} has {lines} lines; below {MOST_LINES}, please: what is its second subject?"
    for function in _functions(source):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length >= MOST_FUNCTION_LINES:
            yield f"{source.path}:{function.lineno} {function.name} has {length} lines; it must fit on a screen"


def faults_of_names(source: Source) -> Iterator[str]:
    """A name that says nothing collects everything."""
    for part in Path(source.path).with_suffix("").parts:
        if EMPTY_NAMES.search(part):
            yield f"{source.path}: call the file after what it is about, not {part}"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef) and EMPTY_NAMES.search(node.name):
            yield f"{source.path}:{node.lineno} class {node.name}: say what it does"


def faults_of_docstrings(source: Source) -> Iterator[str]:
    if source.room in ROOMS and source.text.strip() and not ast.get_docstring(source.tree):
        yield f"{source.path} has no docstring; one line: in -> what -> out"


def faults_of_addresses(source: Source) -> Iterator[str]:
    """Paths of the machine that something was written on mean nothing on any other."""
    for number, line in enumerate(source.text.splitlines(), 1):
        if re.search(r"/work/(main|shared|steering)\b|/tmp/os\b", line) and source.path != "tests/test_tidy.py":
            yield f"{source.path}:{number} names a path of one machine"


def faults_of_shadows(source: Source) -> Iterator[str]:
    """What a room exports under a module's name is that module from the moment that somebody imports it."""
    if not source.path.endswith("/__init__.py"):
        return
    room, package = (ROOT / source.path).parent, source.path.removesuffix("/__init__.py").replace("/", ".")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module != package:
            for name in (each.asname or each.name for each in node.names):
                if (room / f"{name}.py").exists() and node.module.rpartition(".")[2] != name:
                    yield f"{source.path}:{node.lineno} exports {name}, and {name}.py stands beside it"


def _functions(source: Source) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


Rule = Callable[[Source], Iterator[str]]
RULES: list[Rule] = [
    faults_of_imports,
    faults_of_purity,
    faults_of_rules,
    faults_of_size,
    faults_of_names,
    faults_of_docstrings,
    faults_of_addresses,
    faults_of_shadows,
]


@cache  # five hundred files are read and parsed once, for all rules
def sources() -> list[Source]:
    """Every Python file of ours: app.py and the rooms; not what a virtual environment or a data directory holds."""
    folders = {name.split(".")[0] for name in MAY_IMPORT} - {"app"}
    paths = [ROOT / "app.py", *(path for folder in sorted(folders) for path in (ROOT / folder).rglob("*.py"))]
    return [Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths if path.exists()]


@mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__.removeprefix("faults_of_"))
def test_tidy(rule: Rule) -> None:
    faults = [fault for source in sources() for fault in rule(source)]
    assert not faults, "\n" + "\n".join(faults)


def test_the_rules_see_the_whole_house() -> None:
    seen = {source.room for source in sources()}
    assert seen >= {"schemas", "streams", "tables", "agents", "tests"}
    folders = {path.parent.name for path in ROOT.glob("*/*.py") if not path.parent.name.startswith(".")}
    assert folders <= {room.split(".")[0] for room in MAY_IMPORT}, "a new room: say here whom it may import"


@mark.parametrize(
    ("rule", "path", "text"),
    [
        param(faults_of_imports, "schemas/a.py", "import streams", id="words know nothing of ours"),
        param(faults_of_imports, "streams/a.py", "from schemas.orders import Order", id="streams is domain-free"),
        param(faults_of_imports, "web/a.py", "from agents import orders", id="web does not import agents"),
        param(faults_of_imports, "agents/a.py", "import web.orders", id="agents do not import web"),
        param(
            faults_of_imports, "agents/a.py", "from agents.effects import postgres", id="rules do not import effects"
        ),
        param(faults_of_imports, "agents/effects/a.py", "from agents.orders import decide", id="effects have no rules"),
        param(
            faults_of_imports, "cli/a.py", "def f():\n    from agents import orders", id="not inside a function either"
        ),
        param(faults_of_imports, "cli/a.py", "from app import app", id="nobody imports app"),
        param(faults_of_purity, "agents/a.py", "import time", id="no clock"),
        param(faults_of_purity, "agents/a.py", "from datetime import datetime", id="no dates in rules"),
        param(faults_of_purity, "agents/a.py", "import aiohttp", id="no network"),
        param(faults_of_purity, "tables/a.py", "import random", id="no chance"),
        param(faults_of_purity, "schemas/a.py", "from os import environ", id="no environment in words"),
        param(faults_of_purity, "schemas/a.py", "x = datetime.now()", id="no call of a clock"),
        param(faults_of_purity, "schemas/a.py", "import uuid\nx = uuid.uuid4()", id="no chance in ids"),
        param(faults_of_purity, "agents/a.py", "print(1)", id="no output"),
        param(faults_of_rules, "agents/a.py", "def evolve(a):\n    return a", id="no assert_never"),
        param(faults_of_size, "web/a.py", "\n" * 600, id="a long file"),
        param(
            faults_of_size, "web/a.py", "class A:\n    def f(self):\n" + "        x = 1\n" * 60, id="a long function"
        ),
        param(faults_of_names, "web/utils.py", "", id="utils"),
        param(faults_of_names, "web/order_helpers.py", "", id="helpers"),
        param(faults_of_names, "web/a.py", "class TableManager: ...", id="a manager"),
        param(faults_of_docstrings, "cli/a.py", "import sys", id="no docstring"),
        param(faults_of_shadows, "local/__init__.py", "from local.addresses import carrier", id="a module's name"),
        param(faults_of_addresses, "cli/a.py", "x = '/work/" + "shared/DESIGN.md'", id="a path of one machine"),
    ],
)
def test_a_planted_fault_is_found(rule: Rule, path: str, text: str) -> None:
    assert list(rule(Source(path, text)))


@mark.parametrize(
    ("rule", "path", "text"),
    [
        param(
            faults_of_imports, "web/a.py", "import agentsmith\nfrom web import body", id="names that only begin alike"
        ),
        param(faults_of_imports, "cli/a.py", "from agents.effects import postgres", id="operators rebuild the sink"),
        param(faults_of_imports, "tests/a.py", "from app import app", id="tests may import app"),
        param(faults_of_purity, "web/a.py", "import time", id="the window has a clock"),
        param(faults_of_purity, "agents/effects/a.py", "import asyncio", id="effects reach the outside"),
        param(faults_of_names, "web/a.py", "class Management: ...", id="a word that only begins alike"),
    ],
)
def test_what_is_no_fault(rule: Rule, path: str, text: str) -> None:
    assert not list(rule(Source(path, text)))
