"""findings, one by one -> counts, first examples and one sentence -> a test that fails with all of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

EXAMPLES = 3
_LONGEST = 300


class Kind(StrEnum):
    """What can be amiss with a thing that was expected once and right."""

    LOST = "lost"
    DOUBLED = "doubled"
    REORDERED = "reordered"
    WRONG = "wrong"
    HANGING = "hanging"


class Finding(NamedTuple):
    """One thing that is not as it must be. `where` names it so that it can be looked up."""

    kind: Kind
    check: str
    where: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind} {self.check}: {self.where}: {self.detail}"


@dataclass
class Verdict:
    """What a judgement came to. `looked_at` counts what was compared: a judge of nothing finds nothing."""

    counts: Counter[Kind] = field(default_factory=Counter)
    looked_at: Counter[str] = field(default_factory=Counter)
    examples: dict[tuple[Kind, str], list[Finding]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: Kind, check: str, where: object, detail: str) -> None:
        self.counts[kind] += 1
        kept = self.examples[kind, check]
        if len(kept) < EXAMPLES:
            kept.append(Finding(kind, check, str(where), detail[:_LONGEST]))

    def looked(self, check: str, count: int = 1) -> None:
        self.looked_at[check] += count

    def equal(self, check: str, where: object, expected: Any, found: Any) -> bool:
        """One thing that was expected and found; differing, it names the first part that differs."""
        if expected == found:
            return True
        self.add(Kind.WRONG, check, where, first_difference(expected, found))
        return False

    def same_rows(self, check: str, expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> None:
        """Two sets of rows by key: a missing row is lost, a row nobody expected is wrong."""
        self.looked(check, len(expected))
        for key, row in expected.items():
            if key not in found:
                self.add(Kind.LOST, check, _shown(key), f"expected {row!r}")
            else:
                self.equal(check, _shown(key), row, found[key])
        for key in found.keys() - expected.keys():
            self.add(Kind.WRONG, check, _shown(key), f"nothing accounts for {found[key]!r}")

    @property
    def clean(self) -> bool:
        return not self.counts

    def findings(self) -> Iterable[Finding]:
        return (finding for kept in self.examples.values() for finding in kept)

    def require(self, **at_least: int) -> None:
        """Fails with everything found, and when less was looked at than the caller knows there must be (I8)."""
        if not self.clean:
            raise AssertionError(str(self))
        for check, count in at_least.items():
            done = self.looked_at[check]
            assert done >= count, f"only {done} {check} were looked at, expected {count} at least: {self.summary()}"

    def summary(self) -> str:
        kinds = ", ".join(f"{self.counts[kind]} {kind}" for kind in Kind)
        checked = ", ".join(f"{count} {check}" for check, count in sorted(self.looked_at.items()))
        return f"{kinds} in {checked or 'nothing'}"

    def __str__(self) -> str:
        return "\n  ".join([self.summary(), *map(str, self.findings())])


def first_difference(expected: Any, found: Any) -> str:
    """The first member of two like rows that differs; both whole when they are not alike."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for name in [*expected, *(name for name in found if name not in expected)]:
            if name not in found or name not in expected or expected[name] != found[name]:
                return f"{name}: expected {expected.get(name, 'nothing')!r}, found {found.get(name, 'nothing')!r}"
    if isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)) and len(expected) == len(found):
        for number, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                return f"[{number}]: {first_difference(one, other)}"
    return f"expected {expected!r}, found {found!r}"


def _shown(key: Hashable) -> str:
    return key.replace("\0", "␀") if isinstance(key, str) else str(key)
