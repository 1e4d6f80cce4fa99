"""Versions of the tables: which of them is live. The words of orderstream.live.v1."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class VersionSaid(BaseModel):
    """The last one counts. `switching`: neither of the two works; `live`: `to` does. An empty name is a name, too."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    state: Literal["switching", "live"]
    source: str = Field(alias="from")
    to: str
    at_ms: int
    run: str
