"""local/kafka.lock -> Apache Kafka's jars from the Maven repository, once per user -> a Java class path.

The lock names every jar with its SHA-256, as requirements.lock does for Python: a start neither walks a hundred POM
files (13 s of CPU) nor trusts what it did not expect. `python -m local lock` writes it anew after a change of version.
"""

import fcntl
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from local.console import bar, say
from local.errors import LocalError

# The one place that names the version of Kafka. After a change: `python -m local lock`.
KAFKA_VERSION = "4.2.0"

# Tests may run on another version without a change of the lock: KAFKA_VERSION=3.9.1 make faults FAULTS=2
OTHER_VERSION = "KAFKA_VERSION"

LOCK = Path(__file__).with_name("kafka.lock")
PARALLEL_DOWNLOADS = 4  # more does not help a registry that is near, and is impolite to one that is far


def roots(version: str) -> tuple[str, ...]:
    """Kafka logs through slf4j 1.7; slf4j-simple writes to stderr, which is the log file of the process."""
    return f"org.apache.kafka:kafka_2.13:{version}", "org.slf4j:slf4j-simple:1.7.36"


def alone(version: str) -> tuple[str, ...]:
    """Kafka's command-line tools without their dependencies, which would add Kafka Connect and Jetty, 47 jars more."""
    return (f"org.apache.kafka:kafka-tools:{version}",)


class Jar(NamedTuple):
    """One locked jar: Maven coordinate group:artifact:version, size in bytes, SHA-256 as hex."""

    coordinate: str
    size: int
    sha256: str

    def path(self, repository: Path) -> Path:
        group, artifact, version = self.coordinate.split(":")
        return repository.joinpath(*group.split("."), artifact, version, f"{artifact}-{version}.jar")


def cache_dir(configured: Path | None = None) -> Path:
    """Where jars are kept between data directories: the setting, or the user's own cache directory."""
    if configured is not None:
        return configured.absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "orderstream"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "orderstream"


def read_lock(lock: Path = LOCK) -> list[Jar]:
    rows = [line.split() for line in lock.read_text().splitlines() if line and not line.startswith("#")]
    return [Jar(coordinate, int(size), sha256.removeprefix("sha256:")) for coordinate, size, sha256 in rows]


def class_path(cache: Path) -> list[Path]:
    """Every jar of the lock, downloaded if it is not in the cache yet. Needs no network once all are there.

    With the environment variable KAFKA_VERSION the jars of that version, resolved through Maven at their first use.
    """
    repository = cache / "maven"
    lock = _lock_of_version(cache)
    jars = read_lock() if lock == LOCK else read_lock(lock)
    if _missing(jars, repository):
        with _locked(cache):
            missing = _missing(jars, repository)  # another process may have fetched them while we waited
            if missing:
                _download(missing, repository)
    return [jar.path(repository) for jar in jars]


def _lock_of_version(cache: Path) -> Path:
    """The lock of the project, or one in the cache for the version that the environment asks for."""
    version = os.environ.get(OTHER_VERSION) or KAFKA_VERSION
    if version == KAFKA_VERSION:
        return LOCK
    lock = cache / f"kafka-{version}.lock"
    if not lock.exists():
        say(f"Resolving Apache Kafka {version}, as {OTHER_VERSION} asks for ...")
        write_lock(cache, version, lock)
    return lock


def _missing(jars: list[Jar], repository: Path) -> list[Jar]:
    """By size only: the SHA-256 was checked before the file got its name, and a start should not read 45 MB."""
    return [jar for jar in jars if not (path := jar.path(repository)).is_file() or path.stat().st_size != jar.size]


def _download(jars: list[Jar], repository: Path) -> None:
    total = sum(jar.size for jar in jars)
    say(f"Fetching Apache Kafka {KAFKA_VERSION}: {len(jars)} jars into {repository} (once; later starts work offline).")
    with (
        tempfile.TemporaryDirectory(dir=repository.parent) as staging,
        bar("Apache Kafka", total, "MB", 1_000_000) as shown,
        ThreadPoolExecutor(PARALLEL_DOWNLOADS) as pool,
    ):
        for jar in pool.map(lambda jar: _fetch(jar, Path(staging), repository), jars):
            shown.add(jar.size)


def _fetch(jar: Jar, staging: Path, repository: Path) -> Jar:
    """Into a staging directory, checked, then renamed: a download that is cut off leaves nothing in the cache."""
    import requests
    from jgo.maven import MavenContext

    try:
        context = MavenContext(repo_cache=staging, timeout=60)
        fetched = Path(context.create_dependency(jar.coordinate).artifact.resolve())
    except (requests.RequestException, RuntimeError, OSError) as error:
        raise LocalError(
            f"Could not fetch {jar.coordinate} from the Maven repository: {error}\n"
            "The first start needs the network (HTTPS_PROXY is honoured). To use a Kafka of your own instead, set "
            "ORDERSTREAM_KAFKA to its bootstrap servers."
        ) from error
    found = hashlib.sha256(fetched.read_bytes()).hexdigest()
    if found != jar.sha256:
        raise LocalError(
            f"{jar.coordinate} does not match {LOCK.name}: expected SHA-256 {jar.sha256}, got {found}. It was not "
            "kept. Something between here and the Maven repository changes files; try another network."
        )
    target = jar.path(repository)
    target.parent.mkdir(parents=True, exist_ok=True)
    fetched.replace(target)
    return jar


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """One download at a time per user: two starts at once would otherwise fetch everything twice."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        handle = (cache / "lock").open("w")
    except OSError as error:
        raise LocalError(
            f"Cannot keep Kafka's jars in {cache}: {error}. Set ORDERSTREAM_CACHE_DIR to a directory you can write."
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def write_lock(cache: Path, version: str = KAFKA_VERSION, lock: Path = LOCK) -> int:
    """Resolve Kafka through its POM files and write the lock; returns the number of jars."""
    from jgo.maven import MavenContext

    with _locked(cache):
        context = MavenContext(repo_cache=cache / "maven", timeout=60)
        inputs, transitive = context.resolver.resolve([context.create_dependency(root) for root in roots(version)])
        artifacts = [dependency.artifact for dependency in (*inputs, *transitive)]
        artifacts += [context.create_dependency(name).artifact for name in alone(version)]
        rows = set()
        for artifact in artifacts:
            content = Path(artifact.resolve()).read_bytes()
            coordinate = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
            rows.add(f"{coordinate} {len(content)} sha256:{hashlib.sha256(content).hexdigest()}")
    head = "# Written by `python -m local lock`; the version is set in local/jars.py. Coordinate, bytes, SHA-256."
    lock.write_text("\n".join([head, *sorted(rows)]) + "\n")
    return len(rows)
