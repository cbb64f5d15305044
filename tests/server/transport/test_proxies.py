"""Which forwarded headers count, what strangers may write into the log, and which headers browsers get."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from server.transport.log_limit import PER_MINUTE, LogLimit
from server.transport.proxies import ForwardedHeaders, TrustedProxies, parse_networks

PROXIES = TrustedProxies(parse_networks("10.0.0.0/8, 192.0.2.1,2001:db8::/32"))


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("1.2.3.4, 203.0.113.7", "203.0.113.7"),  # the left one is the client's own text
        ("203.0.113.7, 10.1.1.1, 192.0.2.1", "203.0.113.7"),
        ("203.0.113.7:4711", "203.0.113.7"),
        ("2001:db9::5", "2001:db9::5"),
        ("[2001:db9::5]:4711, 2001:db8::1", "2001:db9::5"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("203.0.113.7, unknown", "10.0.0.1"),  # hidden by the proxy
        ("203.0.113.7, <script>, 192.0.2.1", "192.0.2.1"),
        ("", "10.0.0.1"),
        (",,,", "10.0.0.1"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
    ],
)
def test_the_client_is_the_rightmost_address_that_is_no_proxy(forwarded: str, client: str) -> None:
    assert PROXIES.client_of("10.0.0.1", forwarded) == client


async def _scope(proxies: TrustedProxies, peer: str, kind: str = "http", **headers: str) -> dict[str, Any]:
    seen: dict[str, Any] = {}

    async def app(scope: Any, *_: Any) -> None:
        seen.update(scope)

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "client": (peer, 1), "scheme": "http" if kind == "http" else "ws", "headers": raw}
    given: Any = None
    await ForwardedHeaders(app, proxies)(scope, given, given)
    return seen


async def test_the_headers_of_a_stranger_do_not_count_and_the_first_is_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    proxies = TrustedProxies(PROXIES._networks)
    for _ in range(100):
        seen = await _scope(proxies, "127.0.0.1", x_forwarded_for="203.0.113.7", x_forwarded_proto="https")
        assert (seen["client"][0], seen["scheme"]) == ("127.0.0.1", "http")
    (record,) = caplog.records
    assert "FORWARDED_ALLOW_IPS" in record.getMessage()
    assert proxies.advice
    assert "127.0.0.1" in proxies.advice


async def test_those_of_a_proxy_do(caplog: pytest.LogCaptureFixture) -> None:
    for kind, scheme in (("http", "https"), ("websocket", "wss")):
        seen = await _scope(
            PROXIES, "::ffff:10.0.0.1", kind, x_forwarded_for="203.0.113.7", x_forwarded_proto="http, https"
        )
        assert (seen["client"][0], seen["scheme"]) == ("203.0.113.7", scheme)
    seen = await _scope(PROXIES, "10.0.0.1", x_forwarded_proto="javascript")
    assert (seen["client"][0], seen["scheme"]) == ("10.0.0.1", "http")
    assert not caplog.records


def test_a_network_that_is_none_is_named() -> None:
    for text in ("*", "10.0.0.0/8, example.com", "10.0.0.1/8"):
        with pytest.raises(ValueError, match="is no address"):
            parse_networks(text)


def test_warnings_of_strangers_are_few_a_minute_and_their_number_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [60.0]
    monkeypatch.setattr("server.transport.log_limit.time.monotonic", lambda: now[0])
    limit, written = LogLimit(), []
    for now[0] in (60.0, 120.0):
        for number in range(1_000):
            record = logging.LogRecord("x", logging.WARNING, "", 0, "refused %s", (number,), None)
            if limit.filter(record):
                written.append(record.getMessage())
    assert len(written) == 2 * PER_MINUTE
    assert written[PER_MINUTE] == f"refused 0 ({1_000 - PER_MINUTE} more before)"
    assert limit.filter(logging.LogRecord("x", logging.ERROR, "", 0, "refused %s", (1,), None))
