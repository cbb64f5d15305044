"""Closed candles from a subscription that survives a lost network, over graphql-ws with gql."""

import asyncio
import random
from collections.abc import AsyncIterator

from gql import Client, GraphQLRequest
from gql.transport.exceptions import TransportError, TransportQueryError
from gql.transport.websockets import WebsocketsTransport
from websockets.exceptions import WebSocketException

LIVE = """
subscription ($market: ID!, $provider: ID!, $symbol: String!, $timeframe: Timeframe!, $since: Timestamp) {
  candles(market: $market, provider: $provider, symbol: $symbol, timeframe: $timeframe, since: $since, closedOnly: true) {
    kind seq caughtUp resyncFrom
    nodes { timestamp open high low close volume }
  }
}"""
MAX_WAIT_S = 5.0


async def follow(url: str, since: int, **series: object) -> AsyncIterator[tuple[str, dict]]:
    """Yield the kind of the event and the candle, for each final candle since an instant (ms) and each correction."""
    first, last, retries = since, -1, 0
    seq, counted = None, 0  # of the last event, and the candles since
    while True:
        request = GraphQLRequest(LIVE, variable_values={**series, "since": since})
        transport = WebsocketsTransport(url, subprotocols=["graphql-transport-ws"], ping_interval=10, pong_timeout=10)
        try:
            async with Client(transport=transport) as session:
                async for data in session.subscribe(request):
                    event, retries = data["candles"], 0
                    since = event["resyncFrom"] or since
                    for candle in event["nodes"]:
                        again = candle["timestamp"] <= last  # the last one comes once more after a reconnect
                        counted += event["kind"] == "CORRECTION" or not again
                        since = last = max(last, candle["timestamp"])
                        yield "CORRECTION" if again else event["kind"], candle
                    if event["kind"] == "SNAPSHOT" and not event["caughtUp"]:
                        continue
                    missed = event["caughtUp"] and seq is not None and event["seq"] > seq + counted
                    seq, counted = event["seq"], 0
                    if missed:  # a correction: read all again
                        since = first
                        break
        except TransportQueryError as error:
            if not (error.errors and error.errors[0].get("extensions", {}).get("retryAfter")):
                raise
        except (TransportError, WebSocketException, OSError):
            pass
        await asyncio.sleep(min(2.0**retries, MAX_WAIT_S) * random.uniform(0.5, 1))  # noqa: S311 - a jitter
        retries += 1
