"""CONTRIBUTING.md -> the files, targets, tests and fixtures that it names -> all there."""

import re

import pytest

from tests.processes import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
RUNS = re.findall(r'`make test ARGS="([^"]+)"`', TEXT)


def test_every_path_it_names_exists() -> None:
    paths = [
        word for word in re.findall(r"`([\w./-]+)`", TEXT) if "/" in word or re.search(r"\.(py|md|toml|lock)$", word)
    ]
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_make_target_it_names_exists_and_each_is_explained_by_help() -> None:
    assert set(re.findall(r"`make ([a-z-]+)", TEXT)) <= TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None and set(phony[1].split()) == TARGETS


@pytest.mark.parametrize("arguments", RUNS)
def test_every_test_run_it_shows_selects_something(arguments: str) -> None:
    paths, _, word = arguments.removesuffix(" -x").partition(" -k ")
    for path in paths.split():
        files = sorted((ROOT / path).rglob("test_*.py")) if (ROOT / path).is_dir() else [ROOT / path]
        names = [name for file in files for name in re.findall(r"def (test_\w+)", file.read_text())]
        assert any(word in name for name in names), f"{path} has no test with {word!r} in its name"


def test_ci_runs_exactly_make_test() -> None:
    script = ROOT / ".ci" / "run"
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert script.stat().st_mode & 0o111
    assert lines == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "make test"]
