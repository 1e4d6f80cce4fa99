"""Standard Webhooks: a key and a subscription -> its secret; a body and a moment -> the headers that sign it.

https://www.standardwebhooks.com: `webhook-id`, `webhook-timestamp` (Unix seconds) and `webhook-signature`, which is
`v1,` and base64 of HMAC-SHA256 over `<id>.<timestamp>.<body>`; several, one for each secret in use, joined by spaces.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

PREFIX = "whsec_"
ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

#: Addresses that carry an IPv4 address in their last four bytes: NAT64 (RFC 6052, RFC 8215) and "compatible" ones.
_CARRIERS = [ip_network(text) for text in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96")]


def secret_of(key: bytes, subscription_id: str, secret_id: str) -> bytes:
    """The secret that a worker's key makes for a subscription: no log and no table needs to hold it."""
    return hmac.new(key, f"webhook\0{subscription_id}\0{secret_id}".encode(), sha256).digest()


def fingerprint(secret: bytes) -> str:
    """Names a secret without telling anything of it."""
    return sha256(b"orderstream webhook secret\0" + secret).hexdigest()[:16]


def written(secret: bytes) -> str:
    """A secret as its receiver gets it, once."""
    return PREFIX + b64encode(secret).decode()


def sign(secret: bytes, id: str, at_s: int, body: bytes) -> str:
    """One signature."""
    return "v1," + b64encode(hmac.new(secret, b"%b.%d.%b" % (id.encode(), at_s, body), sha256).digest()).decode()


def headers(secrets: Sequence[bytes], id: str, at_s: int, body: bytes) -> dict[str, str]:
    """What a request is sent with: a receiver takes it when one of the signatures is that of its secret."""
    return {ID: id, TIMESTAMP: str(at_s), SIGNATURE: " ".join(sign(secret, id, at_s, body) for secret in secrets)}


# -- where a request may go --------------------------------------------------------------------------------------------


def address_fault(text: str, *, loopback: bool) -> str | None:
    """Why no request may go to an IP address; None: it is a public one, or loopback and that is allowed.

    An address that carries another one is what it carries.
    """
    try:
        address = _carried(ip_address(text.partition("%")[0]))
    except ValueError:
        return f"{text} is no IP address"
    if address.is_loopback and loopback:
        return None
    odd = address.is_multicast or address.is_reserved or address.is_unspecified or not address.is_global
    if odd or getattr(address, "is_site_local", False):
        return f"{text} is not a public address"
    return None


def _carried(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if int(address) > 1 and any(address in carrier for carrier in _CARRIERS):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


def url_fault(url: str, *, loopback: bool) -> str | None:
    """What can be told of a target without asking anybody: plain HTTP, or an address that no request may go to.

    Plain HTTP stays on this machine, where a developer listens.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    local = host == "localhost" or host.endswith(".localhost")
    if local and not loopback:
        return f"{host} is not a public address"
    is_address = ":" in host or _is_address(host)
    if is_address and (fault := address_fault(host, loopback=loopback)) is not None:
        return fault
    on_this_machine = local or (is_address and ip_address(host).is_loopback)
    if parts.scheme != "https" and not on_this_machine:
        return "https is required"
    return None


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
