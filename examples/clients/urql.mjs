// urql with graphcache: history by query, live candles by subscription, both in one cache.
import { Client, fetchExchange, subscriptionExchange } from '@urql/core'
import { cacheExchange } from '@urql/exchange-graphcache'
import { HISTORY, merge } from './candles.mjs'
import { connect } from './resuming.mjs'

// Types without an `id` belong to the object that holds them.
const EMBEDDED = [
  'AuthPayload', 'BackfillConnection', 'BackfillEdge', 'BackfillEstimate', 'Candle', 'CandleColumns', 'CandleEvent',
  'CandleSeries', 'Correction', 'CorrectionConnection', 'CorrectionEdge', 'Coverage', 'Fetch', 'Gap', 'Latest',
  'LatestConnection', 'LatestEdge', 'PageInfo', 'ProviderCounters', 'ProviderFailure', 'ProviderLimits', 'SeriesChanges',
  'SeriesCoverage', 'SeriesCoverageConnection', 'SeriesCoverageEdge', 'SeriesEvent', 'SourceSpan', 'SpanOf',
  'StorageStats', 'SymbolConnection', 'SymbolEdge', 'Tracked', 'TrackedConnection', 'TrackedEdge', 'TradingSession',
  'User', 'UserConfig',
]
export const keys = Object.fromEntries(EMBEDDED.map((type) => [type, () => null]))

/** Put the candles of an event into every cached range of their series. */
function update({ candles: event }, { market, provider, symbol, timeframe }, cache) {
  const isOf = (args) => args?.symbol === symbol && args.timeframe === timeframe && args.market === market && args.provider === provider
  for (const { fieldName, arguments: variables } of cache.inspectFields('Query')) {
    if (fieldName !== 'candles' || !isOf(variables)) continue
    cache.updateQuery({ query: HISTORY, variables }, (data) => data && {
      ...data, candles: { ...data.candles, nodes: merge(data.candles.nodes, event.nodes) },
    })
  }
}

export function createUrql(url) {
  const live = connect(url.replace(/^http/, 'ws'))
  const forwardSubscription = ({ query, variables }) => ({
    subscribe: (sink) => ({ unsubscribe: live.subscribe({ query, variables }, sink) }),
  })
  return new Client({
    url,
    preferGetMethod: false,
    exchanges: [
      cacheExchange({ keys, updates: { Subscription: { candles: update } } }),
      fetchExchange,
      subscriptionExchange({ forwardSubscription }),
    ],
  })
}
