"""Records of orderstream.effects.v1: which effects have begun."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class EffectBegan(BaseModel):
    """A consumer group has begun a partition at this offset. A second record of the same says nothing new."""

    model_config = ConfigDict(frozen=True)

    group: str
    topic: str
    partition: int
    offset: int
    at_ms: int
