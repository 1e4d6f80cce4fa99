"""The lock -> jars that match it, fetched once -> a class path that needs no network."""

import functools
import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from local import jars
from local.errors import LocalError
from local.jars import Jar

CONTENT = b"a jar, as far as anybody here looks"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """A Maven repository on loopback: its directory, and what it was asked for."""
    root = tmp_path / "registry"
    root.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(root)))
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("jgo.maven._core.DEFAULT_REMOTE_REPOS", {"central": f"http://127.0.0.1:{server.server_port}"})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield root, server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Jar]:
    """A lock of two jars in place of Kafka's."""
    found = [Jar(f"org.example:{name}:1.0", len(CONTENT), hashlib.sha256(CONTENT).hexdigest()) for name in ("a", "b")]
    path = tmp_path / "kafka.lock"
    path.write_text("# a comment\n" + "".join(f"{jar.coordinate} {jar.size} sha256:{jar.sha256}\n" for jar in found))
    monkeypatch.setattr(jars, "LOCK", path)
    assert jars.read_lock(path) == found
    monkeypatch.setattr(jars, "read_lock", functools.partial(jars.read_lock, path))
    return found


def publish(root: Path, jar: Jar, content: bytes = CONTENT) -> None:
    path = jar.path(root)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_the_lock_is_of_the_version_that_is_set() -> None:
    coordinates = [jar.coordinate for jar in jars.read_lock()]
    assert {*jars.roots(jars.KAFKA_VERSION), *jars.alone(jars.KAFKA_VERSION)} <= set(coordinates)
    kafka = [coordinate for coordinate in coordinates if coordinate.startswith("org.apache.kafka:")]
    assert len(kafka) > 10 and all(coordinate.endswith(f":{jars.KAFKA_VERSION}") for coordinate in kafka)


def test_the_version_stands_in_one_place() -> None:
    """In the code; the lock is generated from it, and deployment files name an image of the same version."""
    root = Path(jars.__file__).parent.parent
    named = [
        path.relative_to(root).as_posix()
        for room in ("local", "schemas", "streams", "tables", "agents", "web", "cli", "tests")
        for path in sorted((root / room).rglob("*.py"))
        if re.search(rf"\b{re.escape(jars.KAFKA_VERSION)}\b", path.read_text())
    ]
    assert named == ["local/jars.py"]


def test_jars_are_fetched_once_and_then_need_no_network(
    tmp_path: Path, registry: tuple[Path, list[str]], lock: list[Jar], capfd: pytest.CaptureFixture[str]
) -> None:
    root, asked = registry
    for jar in lock:
        publish(root, jar)
    paths = jars.class_path(tmp_path / "cache")
    assert [path.read_bytes() for path in paths] == [CONTENT, CONTENT]
    assert "2 jars" in capfd.readouterr().err
    asked.clear()
    assert jars.class_path(tmp_path / "cache") == paths
    assert asked == [] and capfd.readouterr().err == ""


def test_a_jar_that_was_changed_on_the_way_is_refused_and_not_kept(
    tmp_path: Path, registry: tuple[Path, list[str]], lock: list[Jar]
) -> None:
    publish(registry[0], lock[0])
    publish(registry[0], lock[1], CONTENT[::-1])
    with pytest.raises(LocalError, match=rf"org\.example:b:1\.0 does not match kafka\.lock.*{lock[1].sha256}"):
        jars.class_path(tmp_path / "cache")
    assert not lock[1].path(tmp_path / "cache" / "maven").exists()
    assert not list((tmp_path / "cache").glob("tmp*")), "the staging directory is removed"


def test_a_jar_that_is_cut_short_in_the_cache_is_fetched_again(
    tmp_path: Path, registry: tuple[Path, list[str]], lock: list[Jar]
) -> None:
    for jar in lock:
        publish(registry[0], jar)
    paths = jars.class_path(tmp_path / "cache")
    paths[0].write_bytes(CONTENT[:5])
    assert jars.class_path(tmp_path / "cache")[0].read_bytes() == CONTENT


def test_a_registry_that_does_not_answer_is_explained(
    tmp_path: Path, lock: list[Jar], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jgo.maven._core.DEFAULT_REMOTE_REPOS", {"central": "http://127.0.0.1:1"})
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(LocalError, match=r"Could not fetch org\.example:a:1\.0.*(?s:.)*ORDERSTREAM_KAFKA"):
        jars.class_path(tmp_path / "cache")


def test_a_cache_that_cannot_be_written_names_the_setting(tmp_path: Path, lock: list[Jar]) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(LocalError, match="ORDERSTREAM_CACHE_DIR"):
        jars.class_path(tmp_path / "file" / "cache")


def test_another_version_has_a_lock_of_its_own_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KAFKA_VERSION is for one run of tests: the project's lock stays as it is."""
    written = []

    def write(cache: Path, version: str, lock: Path) -> int:
        written.append((cache, version, lock))
        lock.write_text("")
        return 0

    monkeypatch.setattr(jars, "write_lock", write)
    monkeypatch.setenv(jars.OTHER_VERSION, "3.9.1")
    assert [jars.class_path(tmp_path), jars.class_path(tmp_path)] == [[], []]
    assert written == [(tmp_path, "3.9.1", tmp_path / "kafka-3.9.1.lock")], "resolved once"
    monkeypatch.setenv(jars.OTHER_VERSION, jars.KAFKA_VERSION)
    assert jars._lock_of_version(tmp_path) == jars.LOCK
