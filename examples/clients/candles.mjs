// The operations that the examples share. `since` of the subscription is the last closed candle of the query.
const SERIES = 'market: $market, provider: $provider, symbol: $symbol, timeframe: $timeframe'
const TYPES = '$market: ID!, $provider: ID!, $symbol: String!, $timeframe: Timeframe!'

export const HISTORY = `query History(${TYPES}, $limit: Int) {
  candles(${SERIES}, limit: $limit) {
    nodes { timestamp open high low close volume closed }
  }
}`

export const LIVE = `subscription Live(${TYPES}, $since: Timestamp) {
  candles(${SERIES}, since: $since) {
    kind seq caughtUp resyncFrom
    nodes { timestamp open high low close volume closed }
  }
}`

/** Both lists of candles as one, ascending; where both have a candle, the one of `more`. */
export function merge(nodes, more) {
  const byTime = new Map([...nodes, ...more].map((node) => [node.timestamp, node]))
  return [...byTime.values()].sort((a, b) => a.timestamp - b.timestamp)
}
