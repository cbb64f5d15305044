// A watchlist: the newest candle of each symbol by one query, then all of them by one subscription.
import { connect } from './resuming.mjs'

const LATEST = `query Latest($market: ID!, $provider: ID!, $symbols: [String!]!, $timeframe: Timeframe!) {
  latest(market: $market, provider: $provider, symbols: $symbols, timeframe: $timeframe) {
    nodes { symbol { symbol } candle { timestamp close closed } previousClose }
    missing
  }
}`
const LIVE = `subscription Many($series: [LiveSeriesInput!]!) {
  candlesMany(series: $series) {
    market provider symbol timeframe
    event { kind seq caughtUp resyncFrom nodes { timestamp close closed } }
  }
}`

/**
 * Call `onRow` with the symbol, its candle, the kind of the event, and whether a newer candle of the symbol came before.
 * The result ends the subscription.
 */
export async function watch(url, { symbols, ...variables }, onRow) {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ query: LATEST, variables: { symbols, ...variables } }),
  })
  const { data: { latest } } = await response.json()
  const newest = new Map() // the time of the newest candle of each symbol
  const put = (symbol, candle, kind) => {
    const isOlder = candle.timestamp < newest.get(symbol)
    if (!isOlder) newest.set(symbol, candle.timestamp)
    onRow(symbol, candle, kind, isOlder)
  }
  latest.nodes.forEach(({ symbol, candle }) => candle && put(symbol.symbol, candle, 'LATEST'))
  const series = latest.nodes.map(({ symbol: { symbol }, candle }) => ({ ...variables, symbol, since: candle?.timestamp }))
  return connect(url.replace(/^http/, 'ws')).subscribe({ query: LIVE, variables: { series } }, {
    next({ data, errors }) {
      errors?.forEach(console.error) // one series has ended; the others continue
      const { symbol, event } = data.candlesMany
      event?.nodes.forEach((candle) => put(symbol, candle, event.kind))
    },
    error: console.error,
    complete() {},
  })
}
