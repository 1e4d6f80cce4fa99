"""Standard Webhooks: signatures that others verify, and addresses that no request may go to."""

from __future__ import annotations

import time
from base64 import b64decode

from pytest import mark, param, raises
from standardwebhooks import Webhook, WebhookVerificationError

from schemas.signatures import address_fault, fingerprint, headers, secret_of, sign, url_fault, written

KEY = b"k" * 32
BODY = b'{"type":"purchases.order_paid","data":{"name":"J\xc3\xa9r\xc3\xb4me"}}'


def test_the_published_vector() -> None:
    """The one that the libraries of Standard Webhooks test themselves with."""
    secret = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    signed = sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_receivers_of_the_old_and_the_new_secret_both_take_it() -> None:
    old, new, other = (secret_of(KEY, "s", id) for id in ("1", "2", "3"))
    now = int(time.time())
    sent = headers([new, old], "d1", now, BODY)
    for secret in (old, new):
        Webhook(written(secret)).verify(BODY.decode(), sent)
    with raises(WebhookVerificationError):
        Webhook(written(other)).verify(BODY.decode(), sent)


@mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body"])
def test_id_moment_and_body_are_signed(changed: str) -> None:
    secret, now = secret_of(KEY, "s", "1"), int(time.time())
    sent = headers([secret], "d1", now, BODY)
    told = sent | {"webhook-id": "d2"} if changed == "webhook-id" else sent
    told = told | {"webhook-timestamp": str(now - 1)} if changed == "webhook-timestamp" else told
    body = BODY.decode() + " " if changed == "body" else BODY.decode()
    with raises(WebhookVerificationError):
        Webhook(written(secret)).verify(body, told)


def test_a_secret_follows_from_key_subscription_and_name_and_from_nothing_else() -> None:
    made = {secret_of(key, sub, id) for key in (KEY, b"l" * 32) for sub in ("a", "b") for id in ("1", "2")}
    assert len(made) == 8 and all(len(secret) == 32 for secret in made)
    assert secret_of(KEY, "a", "1") in made
    assert len({fingerprint(secret) for secret in made}) == 8
    assert not any(fingerprint(secret) in secret.hex() for secret in made)


NOT_PUBLIC = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1", "172.31.255.255"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.9"),
    *("224.0.0.1", "239.1.2.3", "240.0.0.1", "255.255.255.255"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1"),
    # An IPv4 address in IPv6's clothes: mapped, compatible, NAT64, 6to4, Teredo.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a00:1"),
    *("64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:80ff:fffe"),
    *("no address", "", "127.1"),
]


@mark.parametrize("address", NOT_PUBLIC)
def test_no_request_goes_to(address: str) -> None:
    assert address_fault(address, loopback=False) is not None


@mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_requests_go_to(address: str) -> None:
    assert address_fault(address, loopback=False) is None


def test_loopback_is_all_that_the_setting_opens() -> None:
    loopback = {"127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1"}
    opened = {address for address in NOT_PUBLIC if address_fault(address, loopback=True) is None}
    # What carries a loopback address is it: the kernel takes a mapped one there, the others lead to a gateway.
    carriers = {"::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::"}
    assert opened - carriers - {"2001:0:4136:e378:8000:63bf:80ff:fffe"} == loopback


@mark.parametrize(
    ("url", "loopback", "fault"),
    [
        param("https://example.com/x?y=1", False, None, id="https"),
        param("https://8.8.8.8/x", False, None, id="a public address"),
        param("http://example.com/x", False, "https is required", id="http"),
        param("http://example.com/x", True, "https is required", id="http beyond this machine"),
        param("http://8.8.8.8/x", True, "https is required", id="http to an address beyond this machine"),
        param("https://127.0.0.1/x", False, "127.0.0.1 is not a public address", id="loopback"),
        param("https://[::ffff:10.0.0.1]/x", False, "::ffff:10.0.0.1 is not a public address", id="mapped"),
        param("https://localhost/x", False, "localhost is not a public address", id="localhost"),
        param("https://a.localhost/x", False, "a.localhost is not a public address", id="below localhost"),
        param("http://localhost:8080/x", True, None, id="localhost, allowed"),
        param("http://127.0.0.1:8080/x", True, None, id="loopback, allowed"),
        param("http://10.0.0.1:8080/x", True, "10.0.0.1 is not a public address", id="private stays refused"),
    ],
)
def test_what_a_target_tells_of_itself(url: str, loopback: bool, fault: str | None) -> None:
    assert url_fault(url, loopback=loopback) == fault
