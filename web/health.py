"""the checks of engine and sinks -> /health, /health/live, /health/ready, and /metrics for machines that watch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest

#: A worker answers for its orders when these hold. What is not named here is shown and does not make it unready.
NEEDED = ("broker", "assignment", "recovery", "store")
#: Whether the version of this worker is the live one; where there are no versions nobody reports it.
VERSION = "version"
#: Postgres is a sink: while it is down orders flow on, so a load balancer must not take the worker out.
SINK = "sink_lag"
#: What is asked of others, such as the payment provider, waits while they do not answer.
EFFECTS = "effects"


class Check(Protocol):
    """One named check."""

    @property
    def ok(self) -> bool: ...
    @property
    def detail(self) -> str: ...


class SinkState(Protocol):
    """What a sink tells of itself."""

    @property
    def connected(self) -> bool: ...
    @property
    def lag(self) -> int | None: ...
    @property
    def set_aside(self) -> int: ...
    @property
    def detail(self) -> str: ...


class Sink(Protocol):
    """The part of streams.sink.Sink that health needs."""

    @property
    def name(self) -> str: ...
    def health(self) -> SinkState: ...


class EffectState(Protocol):
    """What an effect tells of itself."""

    @property
    def connected(self) -> bool: ...
    @property
    def detail(self) -> str: ...


class Effect(Protocol):
    """The part of streams.effects.Effect that health needs."""

    @property
    def name(self) -> str: ...
    def health(self) -> EffectState: ...


class Health:
    """The worker's checks as HTTP answers."""

    def __init__(
        self,
        engine_checks: Callable[[], Mapping[str, Check]],
        sinks: Sequence[Sink],
        registries: Sequence[CollectorRegistry],
        effects: Sequence[Effect] = (),
    ) -> None:
        self._engine_checks, self._sinks, self._registries = engine_checks, sinks, registries
        self._effects = effects

    def checks(self) -> dict[str, dict[str, Any]]:
        """Every check by name. One that the engine does not report yet counts as failed: it is still starting."""
        told = self._engine_checks()
        checks: dict[str, dict[str, Any]] = {
            name: {"ok": False, "detail": "the engine is starting", "needed": True} for name in NEEDED
        }
        for name, check in told.items():
            checks[name] = {"ok": check.ok, "detail": check.detail, "needed": name in NEEDED or name == VERSION}
        if self._sinks:
            states = {sink.name: sink.health() for sink in self._sinks}
            checks[SINK] = {
                "ok": all(state.connected and not state.set_aside for state in states.values()),
                "detail": "; ".join(f"{name}: {state.detail}" for name, state in states.items()),
                "needed": False,
                "lag_records": {name: state.lag for name, state in states.items()},
            }
        if self._effects:
            told_by = {effect.name: effect.health() for effect in self._effects}
            checks[EFFECTS] = {
                "ok": all(state.connected for state in told_by.values()),
                "detail": "; ".join(f"{name}: {state.detail}" for name, state in told_by.items()),
                "needed": False,
            }
        return checks

    async def live(self, request: web.Request) -> web.Response:
        """The process answers: its event loop turns. Restart it only when this fails."""
        return _json(200, {"status": "live"})

    async def ready(self, request: web.Request) -> web.Response:
        """200 when this worker can answer for its partitions; 503 takes it out of a load balancer for a while."""
        checks = self.checks()
        ready = all(check["ok"] for check in checks.values() if check["needed"])
        return _json(200 if ready else 503, {"status": "ready" if ready else "not_ready", "checks": checks})

    async def whole(self, request: web.Request) -> web.Response:
        """Everything for a person: `degraded` means that orders flow and something beside them does not."""
        checks = self.checks()
        ready = all(check["ok"] for check in checks.values() if check["needed"])
        status = "not_ready" if not ready else "ok" if all(check["ok"] for check in checks.values()) else "degraded"
        return _json(200 if ready else 503, {"status": status, "checks": checks})

    async def metrics(self, request: web.Request) -> web.Response:
        """Prometheus' text format: the worker's own registry, then the process's (memory, files, garbage collector)."""
        body = b"".join(generate_latest(registry) for registry in dict.fromkeys((*self._registries, REGISTRY)))
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    headers = {"Retry-After": "1"} if status == 503 else {}
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json", headers=headers)
