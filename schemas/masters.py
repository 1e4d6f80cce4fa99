"""a file's text -> the master keys that wrap customers' keys (schemas/seals.py), and names that give none away."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256

MASTER_BYTES = 32


def name_of(master: bytes) -> str:
    """Names a master key without telling anything of it."""
    return sha256(b"orderstream master\0" + master).hexdigest()[:16]


def read_masters(text: str) -> tuple[bytes, ...]:
    """The master keys of a file: 32 bytes in base64 on each line, the newest first. Raises ValueError."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        masters = tuple(b64decode(line, validate=True) for line in lines)
    except ValueError:
        masters = ()
    if not masters or any(len(master) != MASTER_BYTES for master in masters):
        raise ValueError(f"it must hold {MASTER_BYTES} bytes in base64, one key a line (`openssl rand -base64 32`)")
    return masters
