"""The provider keeps every rule of Candlegraph's, also while Acme is in trouble."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from acme import SYMBOL, AcmeExchange
from candlegraph_acme import Acme, create

from candlegraph import Span, UnconfiguredProvider
from candlegraph.testing import Conformance, Subject


@asynccontextmanager
async def acme() -> AsyncIterator[Subject]:
    """The provider over an exchange of our own, whose candles are known."""
    async with AcmeExchange() as exchange:
        yield Subject(
            make=lambda: Acme(exchange.url),
            symbol=SYMBOL,
            span=Span(int(exchange.truth.timestamp[0]), exchange.now),
            truth=exchange.truth,
            fail=exchange.fail,
        )


class TestAcme(Conformance):
    subjects = (acme,)


def test_without_a_url_it_says_what_is_missing() -> None:
    (provider,) = create({})
    assert isinstance(provider, UnconfiguredProvider)
    assert "ACME_URL" in provider.reason
