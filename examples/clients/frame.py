"""Candles as a pandas DataFrame, over HTTP with gql."""

import pandas as pd
from gql import Client, GraphQLRequest
from gql.transport.aiohttp import AIOHTTPTransport

CANDLES = """
query ($market: ID!, $provider: ID!, $symbol: String!, $timeframe: Timeframe!, $since: Timestamp, $limit: Int) {
  candles(market: $market, provider: $provider, symbol: $symbol, timeframe: $timeframe, since: $since, limit: $limit) {
    timezone
    complete
    columns { timestamp open high low close volume closed }
  }
}"""


def candles(url: str, **variables: object) -> pd.DataFrame:
    """Load at most 5,000 candles; the index is the opening of each bucket in the time zone of the series."""
    request = GraphQLRequest(CANDLES, variable_values=variables)
    series = Client(transport=AIOHTTPTransport(url)).execute(request)["candles"]
    if not series["complete"]:
        raise LookupError("Some candles are missing; `gaps` says which and why.")
    frame = pd.DataFrame(series["columns"]).set_index("timestamp")
    frame.index = pd.to_datetime(frame.index, unit="ms", utc=True).tz_convert(series["timezone"])
    return frame
