"""values -> bytes -> values: how topics and tables write what they hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError

from streams.errors import MAX_FAULTS, FaultAt, Poison

V = TypeVar("V")


class Codec(NamedTuple, Generic[V]):
    """A pair of pure functions; `decode` raises Poison for what it cannot read."""

    encode: Callable[[V], bytes]
    decode: Callable[[bytes], V]


Row = TypeVar("Row", bound=tuple[Any, ...])


def positional(kind: type[Row]) -> Codec[Row]:
    """Of a NamedTuple of plain values, in the order of its fields and without their names: for tables that have a row
    for each change. New fields go to the end."""
    make = kind._make  # type: ignore[attr-defined]
    width = len(kind._fields)  # type: ignore[attr-defined]
    return Codec(lambda row: orjson.dumps(tuple(row)), lambda raw: make(orjson.loads(raw)[:width]))


def json_path(location: tuple[int | str, ...]) -> str:
    """pydantic's error location as a JSON path: ("items", 0, "price") -> $.items[0].price"""
    return "$" + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def encode_json(value: object) -> bytes:
    """Bytes pass through: whoever kept them as received does not pay for them again."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, BaseModel):
        return value.model_dump_json().encode()
    return orjson.dumps(value)


def _identity(value: bytes) -> bytes:
    return value


RAW: Codec[bytes] = Codec(_identity, _identity)


def codec_for(value_type: Any, check: Callable[[bytes], None] | None = None) -> Codec[Any]:
    """The codec of a declared type: none or bytes keep raw bytes, everything else is JSON checked by pydantic.

    `check` sees the bytes first and raises Poison for what pydantic does not judge, such as a name given twice.
    """
    if value_type is None or value_type is bytes:
        return RAW
    adapter: TypeAdapter[Any] = value_type if isinstance(value_type, TypeAdapter) else TypeAdapter(value_type)
    validate = adapter.validate_json

    def decode(raw: bytes) -> Any:
        if check is not None:
            check(raw)
        try:
            return validate(raw)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False)[:MAX_FAULTS]
            skipped = 1 if _is_tagged(adapter) else 0
            faults = (FaultAt(json_path(fault["loc"][skipped:]), fault["msg"]) for fault in found)
            raise Poison(faults, "undecodable") from None

    return Codec(encode_json, decode)


def _is_tagged(adapter: TypeAdapter[Any]) -> bool:
    """Whether pydantic's locations begin with the tag of a union, which is no part of the JSON path."""
    schema: Any = adapter.core_schema
    while schema["type"] == "definitions":
        schema = schema["schema"]
    return bool(schema["type"] == "tagged-union")
