"""The operations of this package, and the form of their answers; a test holds both equal to `schema.graphql`."""

from __future__ import annotations

from typing import TypedDict

_NAMES = "$market: ID!, $provider: ID!, $symbol: String!, $timeframe: Timeframe!"
_GIVEN = "market: $market, provider: $provider, symbol: $symbol, timeframe: $timeframe"
_SERIES = """{
    timezone revision hasMore nextSince nextBefore
    columns { timestamp open high low close volume closed }
    gaps { since until reason detail }
    sources { since until source fetchedAt }
  }"""

HISTORY = f"""query History({_NAMES}, $since: Timestamp, $until: Timestamp, $limit: Int, $timezone: String) {{
  serverId
  serverTime
  candles({_GIVEN}, since: $since, until: $until, limit: $limit, timezone: $timezone) {_SERIES}
}}"""

REFRESH = f"""query Refresh({_NAMES}, $after: String!, $more: Boolean!, $since: Timestamp, $until: Timestamp, $limit: Int,
  $timezone: String) {{
  serverId
  serverTime
  changes({_GIVEN}, after: $after) {{ revision changed {{ since until }} lost {{ since until }} }}
  candles({_GIVEN}, since: $since, until: $until, limit: $limit, timezone: $timezone) @include(if: $more) {_SERIES}
}}"""

NEWEST = f"""query Newest({_NAMES}, $timezone: String) {{
  serverTime
  candles({_GIVEN}, limit: 1, timezone: $timezone) {{ revision nodes {{ timestamp end closed }} }}
}}"""

LIVE = f"""subscription Live({_NAMES}, $since: Timestamp, $timezone: String, $closedOnly: Boolean!) {{
  candles({_GIVEN}, since: $since, timezone: $timezone, closedOnly: $closedOnly) {{
    kind caughtUp
    nodes {{ timestamp open high low close volume closed }}
  }}
}}"""

LOGIN = """mutation Login($username: String!, $password: String!) {
  login(username: $username, password: $password) { token refreshToken }
}"""

RENEW = """mutation Renew($token: String!) { refresh(token: $token) { token refreshToken } }"""


class Columns(TypedDict):
    """Equally long arrays."""

    timestamp: list[int]
    open: list[float]
    high: list[float]
    low: list[float]
    close: list[float]
    volume: list[float]
    closed: list[bool]


class Gap(TypedDict):
    """A span that is not covered, and why."""

    since: int
    until: int
    reason: str
    detail: str | None


class Source(TypedDict):
    """Where the candles of a span come from."""

    since: int
    until: int
    source: str
    fetchedAt: str | None


class CandleSeries(TypedDict):
    """A page of candles."""

    timezone: str
    revision: str
    hasMore: bool
    nextSince: int | None
    nextBefore: int | None
    columns: Columns
    gaps: list[Gap]
    sources: list[Source]


class HistoryAnswer(TypedDict):
    """The answer to HISTORY."""

    serverId: str | None
    serverTime: int
    candles: CandleSeries


class SpanOf(TypedDict):
    """A span of time."""

    since: int
    until: int


class Changes(TypedDict):
    """What changed after a revision."""

    revision: str
    changed: list[SpanOf]
    lost: list[SpanOf]


class RefreshAnswer(TypedDict):
    """The answer to REFRESH; ``candles`` is absent where it was not asked for."""

    serverId: str | None
    serverTime: int
    changes: Changes | None
    candles: CandleSeries


class NewestNode(TypedDict):
    """The newest candle."""

    timestamp: int
    end: int
    closed: bool


class NewestSeries(TypedDict):
    """The newest candle of a series."""

    revision: str
    nodes: list[NewestNode]


class NewestAnswer(TypedDict):
    """The answer to NEWEST."""

    serverTime: int
    candles: NewestSeries


class LiveNode(TypedDict):
    """A candle of an event."""

    timestamp: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    closed: bool


class Event(TypedDict):
    """A message of a subscription."""

    kind: str
    caughtUp: bool
    nodes: list[LiveNode]


class LiveAnswer(TypedDict):
    """A payload of LIVE."""

    candles: Event


class Tokens(TypedDict):
    """The tokens of a sign-in."""

    token: str
    refreshToken: str


class LoginAnswer(TypedDict):
    """The answer to LOGIN."""

    login: Tokens


class RenewAnswer(TypedDict):
    """The answer to RENEW."""

    refresh: Tokens
