// What the page shows: charts, watchlist, zone and theme. Kept in localStorage, and with the account where there is one.
import { computed, effect, signal } from '@preact/signals'
import { reduce } from '@candlegraph/client'

export interface Instrument { readonly market: string; readonly provider: string; readonly symbol: string }
export interface View extends Instrument { readonly timeframe: string }
export type Theme = 'system' | 'dark' | 'light'
export interface Layout {
  readonly charts: readonly View[]
  readonly watchlist: readonly Instrument[]
  readonly recent: readonly Instrument[]
  readonly zone: string
  readonly theme: Theme
  readonly welcomed: boolean
}

export const MAX_CHARTS = 4
const MAX_RECENT = 8
const KEY = 'candlegraph-layout'
const DEMO = { market: 'demo', provider: 'synthetic' }
const FIRST: View = { ...DEMO, symbol: 'BTC/USD', timeframe: '1m' }
const DEFAULT: Layout = {
  charts: [FIRST],
  watchlist: ['BTC/USD', 'ETH/USD', 'SOL/USD', 'EUR/USD'].map((symbol) => ({ ...DEMO, symbol })),
  recent: [],
  zone: Intl.DateTimeFormat().resolvedOptions().timeZone || 'UTC',
  theme: 'system',
  welcomed: false,
}

export const layout = signal<Layout>(linked(parseLayout(localStorage.getItem(KEY))))
/** The chart that the toolbar and the keyboard act on. */
export const active = signal(0)
export const activeView = computed<View>(() => layout.value.charts[active.value] ?? FIRST)
/** The span that a link asks for; of the first chart, once. */
export const linkedSpan = spanOf(location.hash)

effect(() => { localStorage.setItem(KEY, JSON.stringify(layout.value)) })
effect(() => {
  const { theme } = layout.value
  if (theme === 'system') delete document.documentElement.dataset['theme']
  else document.documentElement.dataset['theme'] = theme
})

function instrumentOf({ market, provider, symbol }: Instrument): Instrument {
  return { market, provider, symbol }
}

export const keyOf = ({ market, provider, symbol }: Instrument): string => `${market}/${provider}/${symbol}`
export const isSame = (one: Instrument, other: Instrument): boolean => keyOf(one) === keyOf(other)

export function change(fields: Partial<Layout>): void {
  layout.value = { ...layout.value, ...fields }
}

/** Show another symbol or timeframe in the active chart. */
export function show(view: Partial<View>): void {
  const { charts, recent } = layout.value
  const shown = { ...activeView.value, ...view }
  const others = recent.filter((one) => !isSame(one, shown))
  change({
    charts: charts.map((chart, at) => (at === active.value ? shown : chart)),
    recent: view.symbol ? [instrumentOf(shown), ...others].slice(0, MAX_RECENT) : recent,
  })
}

export function setChartCount(count: number): void {
  const { charts, watchlist } = layout.value
  const more = watchlist.filter((one) => !charts.some((chart) => isSame(chart, one)))
  const added = Array.from({ length: Math.max(0, count - charts.length) }, (_, i) => ({
    ...activeView.value, ...more[i],
  }))
  change({ charts: [...charts, ...added].slice(0, count) })
  active.value = Math.min(active.value, count - 1)
}

export function toggleWatched(instrument: Instrument): void {
  const { watchlist } = layout.value
  const without = watchlist.filter((one) => !isSame(one, instrument))
  change({ watchlist: without.length < watchlist.length ? without : [...watchlist, instrumentOf(instrument)] })
}

/** A layout of unknown origin: what is not as it should be is that of a first visit. */
export function parseLayout(value: unknown): Layout {
  let given: Partial<Record<keyof Layout, unknown>> = {}
  try {
    given = ((typeof value === 'string' ? JSON.parse(value) : value) ?? {}) as typeof given
  } catch {
    // the one of a first visit
  }
  const charts = list(given.charts).filter((one): one is View => isInstrument(one) && isTimeframe((one as View).timeframe))
    .map((one) => ({ ...instrumentOf(one), timeframe: one.timeframe }))
  return {
    charts: charts.length ? charts.slice(0, MAX_CHARTS) : DEFAULT.charts,
    watchlist: given.watchlist ? list(given.watchlist).filter(isInstrument).map(instrumentOf).slice(0, 100) : DEFAULT.watchlist,
    recent: list(given.recent).filter(isInstrument).map(instrumentOf).slice(0, MAX_RECENT),
    zone: isZone(given.zone) ? given.zone : DEFAULT.zone,
    theme: given.theme === 'dark' || given.theme === 'light' ? given.theme : 'system',
    welcomed: given.welcomed === true,
  }
}

/** A link to the present view. */
export function linkTo(span: { since: number; until: number } | null): string {
  const fields = new URLSearchParams()
  for (const chart of layout.value.charts) fields.append('chart', `${keyOf(chart)}@${chart.timeframe}`)
  fields.set('zone', layout.value.zone)
  if (span) fields.set('span', `${span.since}-${span.until}`)
  return `${location.origin}${location.pathname}#${fields}`
}

/** The layout with the charts and the zone of the page's address, where it has any. */
function linked(layout: Layout): Layout {
  const fields = new URLSearchParams(location.hash.slice(1))
  const charts = fields.getAll('chart').flatMap((text) => {
    const [, market, provider, symbol, timeframe] = /^([^/]+)\/([^/]+)\/(.+)@(\w+)$/.exec(text) ?? []
    return market && provider && symbol && timeframe && isTimeframe(timeframe) ? [{ market, provider, symbol, timeframe }] : []
  })
  const zone = fields.get('zone')
  return { ...layout, ...(charts.length ? { charts: charts.slice(0, MAX_CHARTS) } : {}), ...(isZone(zone) ? { zone } : {}) }
}

function spanOf(hash: string): { since: number; until: number } | null {
  const [since, until] = (new URLSearchParams(hash.slice(1)).get('span') ?? '').split('-').map(Number)
  return since && until && since < until ? { since, until } : null
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : []
}

function isInstrument(value: unknown): value is Instrument {
  const { market, provider, symbol } = (value ?? {}) as Partial<Instrument>
  return [market, provider, symbol].every((name) => typeof name === 'string' && name !== '')
}

export function isTimeframe(value: unknown): value is string {
  try {
    return typeof value === 'string' && Boolean(reduce(value))
  } catch {
    return false
  }
}

export function isZone(value: unknown): value is string {
  try {
    return typeof value === 'string' && Boolean(new Intl.DateTimeFormat('en', { timeZone: value }))
  } catch {
    return false
  }
}
