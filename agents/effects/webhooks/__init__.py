"""events -> who wants them -> HTTP requests to outside targets -> what came of each, as commands.

Two effects with positions of their own: routing.py turns each committed event into a RequestDelivery for each
subscription that wants it, sending.py makes the attempts that the subscription's owner says are due. So a target that
is slow or dead holds up neither the routing nor, beyond its few attempts under way, any other target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agents.effects.webhooks.routing import Commands, Router
from agents.effects.webhooks.sending import Opened, Sender, SenderMetrics, Settled, line_of
from schemas.settings import Settings
from schemas.topics import DELIVERY_EVENTS, TOLD, WEBHOOK_EVENTS
from streams import App
from streams.effects import Effect
from streams.following import KafkaTail, Tail

#: Requests under way at the same time, of all targets together: one target has a few at most (schemas/webhooks.py).
#: And events that are being routed: they share a look at what subscriptions there are.
AT_ONCE = 256


def attach(
    app: App,
    commands: Commands,
    settings: Settings,
    keys: Callable[[], Sequence[bytes]],
    tail: Tail | None = None,
    opened: Opened | None = None,
) -> tuple[Router, list[Effect]]:
    """Run both in every worker of the app; they share the partitions. The router also says where hearing begins.

    `keys`: what secrets are made from, the one for new secrets first. `opened`: as the Sender's.
    """
    router = Router(commands, settings.partitions, tail or KafkaTail(lambda: app.brokers))
    rules = Settled(timeout_s=settings.webhook_timeout_ms / 1000, loopback=settings.webhook_loopback)
    sender = Sender(commands, keys, rules, SenderMetrics(app.metrics.registry), opened=opened)
    told = [spec.name for spec in TOLD]
    effects = [
        Effect(
            app,
            "webhook-routes",
            told,
            router.act,
            close=router.close,
            at_once=AT_ONCE,
            unwanted=router.nobody_listens,
            pressed=lambda: app.engine.pressed,
            beside=[WEBHOOK_EVENTS.name],
            works=lambda: app.engine.works,
        ),
        Effect(
            app,
            "webhook-sends",
            [DELIVERY_EVENTS.name],
            sender.act,
            health=lambda: sender.wrong,
            close=sender.close,
            at_once=AT_ONCE,
            line=line_of,
            works=lambda: app.engine.works,
        ),
    ]
    for effect in effects:
        app.add_service(effect)
    return router, effects


__all__ = ["Router", "Sender", "attach"]
