// The last price and the change of the day of every watched symbol: one query, then one subscription.
import { effect, signal } from '@preact/signals'
import { type Candle, Latest, LiveCandlesMany, resumingSubscription, type SymbolFieldsFragment } from '@candlegraph/client'
import { client } from '../session.ts'
import { type Instrument, keyOf, layout } from './state.ts'

export interface Quote {
  readonly symbol: SymbolFieldsFragment | null
  readonly candle: Candle | null
  readonly previousClose: number | null
  /** Why there is no price. */
  readonly problem: string | null
}

export const quotes = signal<ReadonlyMap<string, Quote>>(new Map())
const EMPTY: Quote = { symbol: null, candle: null, previousClose: null, problem: null }

function change(key: string, fields: Partial<Quote>): void {
  quotes.value = new Map(quotes.value).set(key, { ...(quotes.value.get(key) ?? EMPTY), ...fields })
}

async function load(watched: readonly Instrument[], signal: AbortSignal): Promise<void> {
  const groups = new Map<string, Instrument[]>()
  for (const one of watched) groups.set(`${one.market}/${one.provider}`, [...(groups.get(`${one.market}/${one.provider}`) ?? []), one])
  await Promise.all([...groups.values()].map(async (group) => {
    const [{ market, provider } = { market: '', provider: '' }] = group
    const answer = await client.execute(Latest, { market, provider, symbols: group.map(({ symbol }) => symbol), timeframe: '1d' }, signal).catch(() => null)
    if (signal.aborted) return
    for (const { symbol, candle, previousClose } of answer?.data?.latest?.nodes ?? []) {
      change(keyOf(symbol), { symbol, candle: candle ?? null, previousClose: previousClose ?? null, problem: null })
    }
    const missing = answer?.data?.latest?.missing ?? []
    const problem = answer?.errors?.[0]?.message
    for (const one of group) {
      if (missing.includes(one.symbol)) change(keyOf(one), { problem: 'It does not exist.' })
      else if (problem) change(keyOf(one), { problem })
    }
  }))
}

function take(key: string, kind: string, nodes: readonly Candle[]): void {
  for (const candle of nodes) {
    const quote = quotes.value.get(key) ?? EMPTY
    const isNext = quote.candle && candle.timestamp > quote.candle.timestamp
    if (quote.candle && candle.timestamp < quote.candle.timestamp) continue
    change(key, { candle, problem: null, ...(isNext && kind !== 'SNAPSHOT' ? { previousClose: quote.candle.close } : {}) })
  }
}

/** Follow what is watched, until the result is called. */
export function followWatchlist(): () => void {
  let stop = (): void => undefined
  let key = ''
  const end = effect(() => {
    const watched = layout.value.watchlist
    if (watched.map(keyOf).join() === key) return
    key = watched.map(keyOf).join()
    stop()
    const abort = new AbortController()
    let unsubscribe = (): void => undefined
    stop = () => {
      abort.abort()
      unsubscribe()
    }
    void load(watched, abort.signal).then(() => {
      if (abort.signal.aborted || !watched.length) return
      const series = watched.map((one) => ({ ...one, timeframe: '1d' }))
      unsubscribe = resumingSubscription(client, LiveCandlesMany, { series, closedOnly: false }, {
        next: ({ candlesMany: { event, ...one } }) => { if (event) take(keyOf(one), event.kind, event.nodes) },
        error: (error, one) => { if (one) change(keyOf(one), { problem: error.message }) },
      })
    })
  })
  return () => {
    end()
    stop()
  }
}
