"""A payment service to try things with: requests over HTTP -> money that is not there -> answers and signed callbacks.

`python -m local.sandbox --port 6080 --secret-file FILE --callback URL --state FILE`. What an instrument does is in its
name: `sandbox:` and switches joined by `+`, such as `sandbox:pending+repeat`; others do what PUT /switches says.

    decline         declines                            pending         decides after the answer, by callback
    paid            takes the money at once             delay=S         answers after S seconds
    repeat          calls back three times              lose-callback   never calls back
    lose-answer=N   does it and hangs up, N times       error=N         answers 503, N times, and does nothing
    wrong-signature signs callbacks with another secret wrong-amount    authorises one unit more
    dashboard-refund=N refunds N without a request  chargeback      takes back all that is captured and not refunded
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from schemas.base import derived_id, rfc3339
from schemas.provider import (
    SIGNATURE,
    AuthorisationAsked,
    CaptureAsked,
    ProviderAnswer,
    ProviderStatus,
    RefundAsked,
    Signed,
    VoidAsked,
    sign,
    signature_fault,
)

M = TypeVar("M", bound=BaseModel)
S = ProviderStatus
PREFIX = "sandbox:"
SWITCHES = {
    *("decline", "pending", "paid", "delay", "repeat", "lose-callback", "lose-answer", "error"),
    *("wrong-signature", "wrong-amount", "dashboard-refund", "chargeback"),
}
WINDOW_S = 300.0
#: A callback that nobody takes is sent again after so long, twice as long each time.
CALLBACK_TRIES, FIRST_PAUSE_S = 8, 0.2
REPEATS = 3
#: Whose payment it is that was voided before it was asked for.
NOBODY = "-"


class Refused(Exception):
    """What cannot be done; the text says why."""


def switches_of(words: str) -> dict[str, float]:
    """`pending+delay=2` -> {"pending": 1, "delay": 2}. Raises Refused for what is no switch."""
    found: dict[str, float] = {}
    for word in filter(None, words.split("+")):
        name, _, value = word.partition("=")
        if name not in SWITCHES or not (value == "" or value.replace(".", "", 1).isdigit()):
            raise Refused(f"{word} is no switch; there are {', '.join(sorted(SWITCHES))}.")
        found[name] = float(value or 1)
    return found


@dataclass
class Payment:
    """What the service knows of an order."""

    order_id: str
    user_id: str
    amount: int
    status: ProviderStatus
    instrument: str | None = None
    captured: int = 0
    refunded: int = 0


@dataclass
class Money:
    """The service without its wires: what is asked, decided at once and remembered under its key."""

    payments: dict[str, Payment] = field(default_factory=dict)
    answers: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)

    def once(self, key: str, path: str, body: bytes, ask: Any) -> ProviderAnswer:
        """The answer that the key had; else a new one, kept unless it is a refusal: that may be asked again."""
        asked = derived_id(f"{path} {body.decode(errors='replace')}")
        if key in self.answers:
            first, answer = self.answers[key]
            if first != asked:
                raise Refused("The Idempotency-Key was first sent with another request.")
            return ProviderAnswer.model_validate(answer)
        answered: ProviderAnswer = ask()
        if answered.status is not S.DECLINED:
            self.answers[key] = (asked, answered.model_dump(mode="json"))
        return answered

    def authorise(self, asked: AuthorisationAsked, switches: Mapping[str, float]) -> ProviderAnswer:
        payment = self.payments.get(asked.order_id)
        if payment is None:
            status = next((status for word, status in _DECISIONS.items() if word in switches), S.AUTHORISED)
            amount = asked.amount + ("wrong-amount" in switches)
            payment = Payment(asked.order_id, asked.user_id, amount, status, asked.instrument)
            payment.captured = amount if status is S.CAPTURED else 0
            self.payments[asked.order_id] = payment
        elif payment.status is S.VOIDED:
            return _answer(payment, S.DECLINED, "it was voided before it was asked for")
        return _answer(payment, payment.status, "declined by a switch" if payment.status is S.DECLINED else None)

    def decide(self, order_id: str) -> bool:
        """What is pending is authorised; False: it is not pending any more."""
        payment = self.payments[order_id]
        if payment.status is not S.PENDING:
            return False
        payment.status = S.AUTHORISED
        return True

    def capture(self, order_id: str, asked: CaptureAsked) -> ProviderAnswer:
        payment = self._payment(order_id)
        if payment.status is S.AUTHORISED:
            if asked.amount > payment.amount:
                return _answer(payment, S.DECLINED, f"{payment.amount} are authorised")
            payment.status, payment.captured = S.CAPTURED, asked.amount
        if payment.status is not S.CAPTURED:
            return _answer(payment, S.DECLINED, f"it is {payment.status}")
        return _answer(payment, S.CAPTURED)

    def void(self, order_id: str) -> ProviderAnswer:
        """What is not known is remembered as voided: a request that comes after it is declined."""
        payment = self.payments.setdefault(order_id, Payment(order_id, NOBODY, 0, S.VOIDED))
        if payment.status is S.CAPTURED:
            return _answer(payment, S.CAPTURED)
        payment.status = S.VOIDED
        return _answer(payment, S.VOIDED)

    def refund(self, order_id: str, asked: RefundAsked) -> ProviderAnswer:
        """Each under a new key is a new one: it is the key that makes it one."""
        payment = self._payment(order_id)
        if payment.refunded + asked.amount > payment.captured:
            return _answer(payment, S.DECLINED, f"{payment.captured - payment.refunded} are left to refund")
        payment.refunded += asked.amount
        return ProviderAnswer(id=f"{order_id}-{asked.refund_id}", status=S.REFUNDED, amount=asked.amount)

    def reverse(self, order_id: str, switches: Mapping[str, float]) -> list[ProviderAnswer]:
        """What the provider takes back by itself once the money is captured: each of the two at most once."""
        payment, taken = self._payment(order_id), []
        asked = (("dashboard-refund", S.REFUNDED), ("chargeback", S.CHARGED_BACK))
        for switch, status in asked:
            left = payment.captured - payment.refunded
            most = int(switches.get(switch, 0)) if switch == "dashboard-refund" else left
            amount = min(most, left) if switch in switches else 0
            if amount > 0:
                payment.refunded += amount
                taken.append(ProviderAnswer(id=f"{order_id}-{switch}", status=status, amount=amount))
        return taken

    def _payment(self, order_id: str) -> Payment:
        if order_id not in self.payments:
            raise Refused(f"There is no payment of {order_id}.")
        return self.payments[order_id]


_DECISIONS = {"decline": S.DECLINED, "pending": S.PENDING, "paid": S.CAPTURED}


def _answer(payment: Payment, status: ProviderStatus, reason: str | None = None) -> ProviderAnswer:
    amount = payment.captured if status is S.CAPTURED else payment.amount
    id = derived_id(f"sandbox {payment.order_id}")
    return ProviderAnswer(id=id, status=status, amount=amount, reason=reason)


def callback_of(payment: Payment, answer: ProviderAnswer, key: str | None, now_ms: int) -> dict[str, Any]:
    """What is called back with after an answer."""
    return {
        "id": derived_id(f"callback {payment.order_id} {key} {answer.status}"),
        "user_id": payment.user_id,
        "order_id": payment.order_id,
        "amount": answer.amount,
        "status": answer.status,
        "idempotency_key": key,
        "created_at": rfc3339(now_ms),
        "reason": answer.reason,
    }


class Sandbox:
    """The service: money, switches, and the wires to whoever asks and is called back."""

    def __init__(
        self,
        secret: str,
        callback_url: str | None,
        state: Path | None = None,
        window_s: float = WINDOW_S,
        callback_secret: str | None = None,
    ) -> None:
        """`callback_secret`: what callbacks are signed with; None: the secret of requests.

        `window_s`: how far the time of a request's signature may be from now.
        """
        self.callback_secret = callback_secret or secret
        self.secret, self.callback_url, self._state, self._window_s = secret, callback_url, state, window_s
        self.money, self.switches, self.calls = Money(), "", Counter[str]()
        #: Every request by its key, those that came to nothing too: what judges whether any was made twice over.
        self.asked = Counter[str]()
        self._spent: Counter[tuple[str, str]] = Counter()
        self._sending: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession | None = None
        if state is not None and state.exists():
            told = orjson.loads(state.read_bytes())
            self.money.payments = {
                id: Payment(**{**row, "status": S(row["status"])}) for id, row in told["payments"].items()
            }
            self.money.answers = {key: (first, answer) for key, (first, answer) in told["answers"].items()}
            self.asked = Counter(told.get("asked", {}))

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 << 10)
        app.router.add_get("/health", self._health)
        app.router.add_get("/payments/{order_id}", self._show)
        app.router.add_put("/switches", self._switch)
        app.router.add_post("/payments", self._asked)
        app.router.add_post("/payments/{order_id}/{step:capture|void|refunds}", self._asked)
        app.cleanup_ctx.append(self._run)
        return app

    async def _run(self, app: web.Application) -> AsyncIterator[None]:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        yield
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._session.close()

    async def _health(self, request: web.Request) -> web.Response:
        return _json(200, {"status": "ok", "calls": self.calls})

    async def _show(self, request: web.Request) -> web.Response:
        payment = self.money.payments.get(request.match_info["order_id"])
        return _json(200, asdict(payment)) if payment else _json(404, {"detail": "There is no such payment."})

    async def _switch(self, request: web.Request) -> web.Response:
        try:
            words = orjson.loads(await request.read())["switches"]
            switches_of(words)
        except (Refused, orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            return _json(422, {"detail": f'{error} Send {{"switches": "pending+repeat"}}.'})
        self.switches = words
        return _json(200, {"switches": words})

    async def _asked(self, request: web.Request) -> web.StreamResponse:
        body, key = await request.read(), request.headers.get("Idempotency-Key", "")
        about = Signed(request.method, request.path, key)
        header = request.headers.get(SIGNATURE)
        fault = signature_fault(self.secret, body, header, time.time(), self._window_s, about)
        if fault or not key:
            return _json(401 if fault else 422, {"detail": fault or "Idempotency-Key is missing."})
        order_id, step = request.match_info.get("order_id", ""), request.match_info.get("step", "payments")
        self.calls[step] += 1
        self.asked[key] += 1
        try:
            switches = self._switches(order_id, body)
            await asyncio.sleep(switches.get("delay", 0))
            if self._spend(key, "error", switches):
                return _json(503, {"detail": "An error by a switch."})
            answer = self._answer(order_id, step, key, request.path, body, switches)
        except Refused as error:
            return _json(422, {"detail": str(error)})
        except ValidationError as error:
            return _json(422, {"detail": f"{error.error_count()} faults: {error.errors(include_url=False)[0]['msg']}"})
        self._call_back(order_id or _order_of(body), answer, key, switches)
        self._save()
        if self._spend(key, "lose-answer", switches):
            assert request.transport is not None, "who asks is connected"
            request.transport.abort()
        return _json(200, answer.model_dump(mode="json"))

    def _answer(
        self, order_id: str, step: str, key: str, path: str, body: bytes, switches: Mapping[str, float]
    ) -> ProviderAnswer:
        def ask() -> ProviderAnswer:
            match step:
                case "capture":
                    return self.money.capture(order_id, CaptureAsked.model_validate_json(body))
                case "void":
                    VoidAsked.model_validate_json(body)
                    return self.money.void(order_id)
                case "refunds":
                    return self.money.refund(order_id, RefundAsked.model_validate_json(body))
                case _:
                    return self.money.authorise(AuthorisationAsked.model_validate_json(body), switches)

        return self.money.once(key, path, body, ask)

    def _switches(self, order_id: str, body: bytes) -> dict[str, float]:
        """Those of the payment's instrument, known from its first request; else what PUT /switches said."""
        known = self.money.payments.get(order_id)
        instrument = known.instrument if known else None
        if not order_id:
            instrument = AuthorisationAsked.model_validate_json(body).instrument
        named = instrument is not None and instrument.startswith(PREFIX)
        return switches_of(instrument[len(PREFIX) :] if instrument and named else self.switches)

    def _spend(self, key: str, switch: str, switches: Mapping[str, float]) -> bool:
        """Whether a switch that works N times for each key works now."""
        self._spent[key, switch] += 1
        return self._spent[key, switch] <= switches.get(switch, 0)

    def _call_back(self, order_id: str, answer: ProviderAnswer, key: str, switches: Mapping[str, float]) -> None:
        if "lose-callback" in switches or self.callback_url is None:
            return
        payment = self.money.payments[order_id]
        if payment.user_id == NOBODY:  # voided before it was asked for: there is nobody to tell about
            return
        if answer.status is S.PENDING:
            task = asyncio.create_task(self._decide_later(payment, key, switches))
        else:
            callbacks = [callback_of(payment, answer, key, _now_ms())]
            if answer.status is S.CAPTURED and not payment.refunded:
                for taken in self.money.reverse(order_id, switches):
                    callbacks.append(callback_of(payment, taken, None, _now_ms()) | {"movement_id": taken.id})
            task = asyncio.create_task(self._send_all(callbacks, switches))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _decide_later(self, payment: Payment, key: str, switches: Mapping[str, float]) -> None:
        await asyncio.sleep(0.2)
        if self.money.decide(payment.order_id):
            self._save()
            answer = _answer(payment, S.AUTHORISED)
            await self._send(callback_of(payment, answer, key, _now_ms()), switches)

    async def _send_all(self, callbacks: Sequence[Mapping[str, Any]], switches: Mapping[str, float]) -> None:
        """In this order: money that is taken back was captured before."""
        for callback in callbacks:
            await self._send(callback, switches)

    async def _send(self, callback: Mapping[str, Any], switches: Mapping[str, float]) -> None:
        assert self._session is not None and self.callback_url is not None, "the service runs"
        body = orjson.dumps(callback)
        secret = "another" if "wrong-signature" in switches else self.callback_secret
        about = Signed("POST", urlsplit(self.callback_url).path)
        for _ in range(REPEATS if "repeat" in switches else 1):
            for attempt in range(CALLBACK_TRIES):
                headers = {"Content-Type": "application/json", SIGNATURE: sign(secret, body, int(time.time()), about)}
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                    async with self._session.post(self.callback_url, data=body, headers=headers) as response:
                        self.calls[f"callback {response.status}"] += 1
                        if response.status < 500:
                            break
                await asyncio.sleep(FIRST_PAUSE_S * 2**attempt)

    def _save(self) -> None:
        """The whole state, at once or not at all: it is small, and this is a sandbox."""
        if self._state is None:
            return
        new = self._state.with_suffix(".new")
        payments = {id: asdict(payment) for id, payment in self.money.payments.items()}
        told = {"payments": payments, "answers": self.money.answers, "asked": self.asked}
        new.write_bytes(orjson.dumps(told))
        new.replace(self._state)


def _order_of(body: bytes) -> str:
    return str(orjson.loads(body)["order_id"])


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _json(status: int, body: Any) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.sandbox", description="A payment service to try.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--callback-secret-file", type=Path, help="what callbacks are signed with, if another")
    parser.add_argument("--callback", help="URL that it calls back")
    parser.add_argument("--state", type=Path, help="where it keeps what it knows")
    parser.add_argument("--window", type=float, default=WINDOW_S, help="seconds that a signature's time may be off")
    options = parser.parse_args()
    own = options.callback_secret_file
    sandbox = Sandbox(
        options.secret_file.read_text().strip(),
        options.callback,
        options.state,
        options.window,
        own.read_text().strip() if own else None,
    )
    web.run_app(sandbox.application(), host="127.0.0.1", port=options.port, print=None)


if __name__ == "__main__":
    main()
