// The stored series, each with its timeline, and the tracked ones among them.
import { useEffect, useState } from 'preact/hooks'
import { Candles, StoredSeries, Track, TrackedSymbols, type TrackedSymbolsQuery, Untrack, lengthOf } from '@candlegraph/client'
import { client } from '../session.ts'
import { setServerTime } from '../shared/clock.ts'
import { printSpan, printTime } from '../shared/format.ts'
import { PRESETS, isAll, oldest, pan, range, showAll, showLast, showSpan, spanMs, zoom } from './axis.ts'
import { go } from './route.ts'
import { asError, useAction, useQuery } from './query.ts'
import { Empty, Failure, More, Show } from './states.tsx'
import { Axis, AxisLabels, Legend, Timeline, describeGap, holesOf, kindOf } from './timeline.tsx'
import type { SpanFields, StoredSeriesNode } from './types.ts'

const RELOAD_MS = 10_000
const MAX_GAPS = 50
const MAX_BUCKETS = 400

type TrackedNode = NonNullable<TrackedSymbolsQuery['tracked']>['nodes'][number]

const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })
const compact = new Intl.NumberFormat('en-US', { notation: 'compact', maximumFractionDigits: 1 })
const keyOf = ({ symbol, timeframe }: StoredSeriesNode): string => `${symbol.id} ${timeframe}`

export function SeriesView() {
  const [search, setSearch] = useState('')
  const [cursors, setCursors] = useState<readonly (string | null)[]>([null])
  const tracked = useQuery(TrackedSymbols, { first: 1_000 }, RELOAD_MS)
  const ids = new Map(tracked.data?.tracked?.nodes.map((node) => [node.symbol.id, node]))
  useKeys()
  return (
    <section aria-labelledby="series-title">
      <header class="view-head">
        <h1 id="series-title">Series</h1>
        <input type="search" placeholder="Find a symbol…" aria-label="Find a symbol" value={search} onInput={(event) => { setSearch(event.currentTarget.value); setCursors([null]) }} />
        <Zoom />
      </header>
      <Legend />
      <div class="series-list">
        <div class="series-axis"><span class="muted">times in UTC</span><div class="axis-box"><Axis /><AxisLabels /></div></div>
        {cursors.map((after, at) => (
          <SeriesPage
            key={`${search} ${after}`} search={search} after={after} tracked={ids} onTracked={tracked.reload}
            onMore={at === cursors.length - 1 ? (cursor) => setCursors([...cursors, cursor]) : undefined}
          />
        ))}
      </div>
      <TrackedElsewhere tracked={[...ids.values()]} />
    </section>
  )
}

function SeriesPage({ search, after, tracked, onTracked, onMore }: {
  search: string
  after: string | null
  tracked: ReadonlyMap<string, TrackedNode>
  onTracked: () => void
  onMore: ((cursor: string) => void) | undefined
}) {
  const [open, setOpen] = useState<string | null>(null)
  const loaded = useQuery(StoredSeries, { search: search || null, first: 25, after }, RELOAD_MS)
  useEffect(() => {
    if (!loaded.data) return
    setServerTime(loaded.data.serverTime)
    const starts = loaded.data.seriesList?.nodes.flatMap(({ covered }) => covered[0]?.since ?? []) ?? []
    if (starts.length) oldest.value = Math.min(after === null ? Infinity : oldest.value, ...starts) - 86_400_000
  }, [loaded.data])
  return (
    <Show of={loaded} rows={6}>
      {({ seriesList }) => !seriesList?.nodes.length && after === null
        ? <Empty title={search ? 'No series matches' : 'Nothing is stored yet'}>{search ? 'Search by a part of the symbol or of its name.' : <>Open a <a href="./">chart</a>, start a <a href="#backfills">backfill</a>, or <a href="#upload">upload a file</a>.</>}</Empty>
        : (
          <>
            <ul>
              {seriesList?.nodes.map((series) => (
                <SeriesRow
                  key={keyOf(series)} series={series} tracked={tracked.get(series.symbol.id)} onTracked={onTracked}
                  isOpen={open === keyOf(series)} toggle={() => setOpen(open === keyOf(series) ? null : keyOf(series))}
                />
              ))}
            </ul>
            {seriesList && onMore && <More page={seriesList.pageInfo} load={onMore} isLoading={loaded.isLoading} />}
          </>
          )}
    </Show>
  )
}

function SeriesRow({ series, tracked, onTracked, isOpen, toggle }: {
  series: StoredSeriesNode
  tracked: TrackedNode | undefined
  onTracked: () => void
  isOpen: boolean
  toggle: () => void
}) {
  const { symbol, timeframe, rows, gaps } = series
  const missing = holesOf(gaps, series.covered)
  return (
    <li class={isOpen ? 'series open' : 'series'}>
      <button class="series-row" aria-expanded={isOpen} onClick={toggle}>
        <span class="series-name">
          <strong>{symbol.symbol}</strong> <span class="chip">{timeframe}</span>{' '}{tracked && timeframe === '1m' && <span class="chip tracked">tracked</span>}
          <span class="muted block">{symbol.market}/{symbol.provider} · {rows === null ? '?' : compact.format(rows)} candles{missing > 0 && <> · <span class="warn">{missing} {missing === 1 ? 'gap' : 'gaps'}</span></>}</span>
        </span>
        <Timeline spans={series} label={`${symbol.symbol} ${timeframe}`} />
      </button>
      {isOpen && <SeriesDetails series={series} tracked={tracked} onTracked={onTracked} />}
    </li>
  )
}

function SeriesDetails({ series, tracked, onTracked }: { series: StoredSeriesNode; tracked: TrackedNode | undefined; onTracked: () => void }) {
  const { symbol, timeframe, covered, gaps, rows, revision } = series
  const names = { market: symbol.market, provider: symbol.provider, symbols: [symbol.symbol] }
  const tracking = useAction(async () => {
    await (tracked ? client.query(Untrack, { input: names }) : client.query(Track, { input: names }))
    onTracked()
  })
  const quiet = useQuiet(series)
  const first = covered[0]
  const last = covered.at(-1)
  return (
    <div class="details">
      <div class="series-large">
        <span class="muted">{printTime(range.value.since, 'UTC')}<span class="block">to {printTime(range.value.until, 'UTC')}</span></span>
        <Timeline spans={{ ...series, quiet: quiet.spans }} label={`${symbol.symbol} ${timeframe}, larger`} tall />
      </div>
      {quiet.error && <Failure error={asError(quiet.error)} />}
      <dl class="facts">
        <div><dt>Covered</dt><dd>{first && last ? `${printTime(first.since, 'UTC')} to ${printTime(last.until, 'UTC')}` : 'nothing'}</dd></div>
        <div><dt>Spans</dt><dd>{covered.length >= 1_000 ? 'the newest 1,000' : count.format(covered.length)}</dd></div>
        <div><dt>Candles</dt><dd>{rows === null ? 'unknown' : `${rows > 1_000 ? 'about ' : ''}${count.format(rows)}`}</dd></div>
        <div><dt>First available</dt><dd>{symbol.firstAvailable ? printTime(symbol.firstAvailable, 'UTC') : 'unknown'}</dd></div>
        <div><dt>Time zone</dt><dd>{symbol.timezone}</dd></div>
        <div><dt>Revision</dt><dd><code>{revision}</code></dd></div>
        {tracked && <div><dt>Tracked since</dt><dd>{printTime(tracked.since, 'UTC')}</dd></div>}
      </dl>
      <div class="actions">
        {timeframe === '1m' && <button class="quiet" disabled={tracking.isRunning} onClick={() => tracking.run()}>{tracked ? 'Stop tracking' : 'Track'}</button>}
        <button class="quiet" onClick={() => go('backfills', { market: symbol.market, provider: symbol.provider, pattern: symbol.symbol, timeframe })}>Backfill…</button>
        <button class="quiet" onClick={() => go('corrections', { market: symbol.market, provider: symbol.provider, symbol: symbol.symbol })}>Corrections</button>
        {first && last && <button class="quiet" onClick={() => showSpan(first.since, last.until)}>Fit the axis</button>}
      </div>
      {tracking.error && <Failure error={tracking.error} />}
      <Gaps gaps={gaps} covered={covered} />
    </div>
  )
}

function Gaps({ gaps, covered }: Pick<StoredSeriesNode, 'gaps' | 'covered'>) {
  if (!gaps.length) return <p class="muted">No gap: everything from its beginning to now is covered.</p>
  const newest = gaps.slice(-MAX_GAPS).reverse()
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Gaps">
      <table class="gaps">
        <caption>{gaps.length > MAX_GAPS ? `The newest ${MAX_GAPS} of ${count.format(gaps.length)} gaps` : `${gaps.length} ${gaps.length === 1 ? 'gap' : 'gaps'}, the newest first`}</caption>
        <thead><tr><th>From</th><th>To</th><th>Length</th><th>Reason</th><th /></tr></thead>
        <tbody>
          {newest.map((gap) => (
            <tr key={gap.since}>
              <td>{printTime(gap.since, 'UTC')}</td>
              <td>{printTime(gap.until, 'UTC')}</td>
              <td>{printSpan(gap.until - gap.since)}</td>
              <td><span class={`dot ${kindOf(gap, covered)}`} /> {gap.reason.toLowerCase().replaceAll('_', ' ')}<span class="muted block">{gap.detail}</span></td>
              <td><button class="quiet small" aria-label={`Show ${describeGap(gap)}`} onClick={() => showSpan(gap.since, gap.until)}>Show</button></td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  )
}

/** Buckets without a candle in the longest covered span that is shown: nothing in it has to be fetched. */
function useQuiet(series: StoredSeriesNode): { spans: readonly SpanFields[]; error: unknown } {
  const step = Math.max(lengthOf(series.timeframe), niceStep(spanMs.value / MAX_BUCKETS))
  const span = longest(series.covered, range.value, step)
  const { market, provider, symbol } = series.symbol
  const { data, error } = useQuery(Candles, span && {
    market, provider, symbol, timeframe: printStep(step), since: span.since, until: span.until, limit: MAX_BUCKETS + 1, timezone: 'UTC', wait: 'AVAILABLE',
  })
  if (!span || data?.candles?.timeframe !== printStep(step)) return { spans: [], error }
  const stored = new Set(data.candles.nodes.map(({ timestamp }) => timestamp))
  const quiet: SpanFields[] = []
  for (let at = span.since; at < span.until; at += step) if (!stored.has(at)) quiet.push({ since: at, until: at + step })
  return { spans: quiet, error }
}

const MINUTES = [1, 5, 15, 60, 240, 1_440]
const niceStep = (ms: number): number => (MINUTES.find((minutes) => minutes * 60_000 >= ms) ?? 1_440) * 60_000
const printStep = (ms: number): string => (ms % 86_400_000 === 0 ? `${ms / 86_400_000}d` : ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : `${ms / 60_000}m`)

function longest(covered: readonly SpanFields[], shown: { since: number; until: number }, step: number): SpanFields | null {
  let found: SpanFields | null = null
  for (const { since, until } of covered) {
    const from = Math.ceil(Math.max(since, shown.since) / step) * step
    const to = Math.floor(Math.min(until, shown.until) / step) * step
    if (to > from && to - from > (found ? found.until - found.since : 0)) found = { since: from, until: to }
  }
  return found && { since: Math.max(found.since, found.until - MAX_BUCKETS * step), until: found.until }
}

function Zoom() {
  return (
    <div class="zoom" role="group" aria-label="Time that is shown">
      <button class={isAll.value ? 'quiet on' : 'quiet'} aria-pressed={isAll.value} onClick={showAll}>All</button>
      {[...PRESETS].reverse().map(([label, ms]) => {
        const isOn = !isAll.value && Math.abs(spanMs.value - ms) < 1
        return <button key={label} class={isOn ? 'quiet on' : 'quiet'} aria-pressed={isOn} onClick={() => showLast(ms)}>{label}</button>
      })}
      <button class="quiet" aria-label="Earlier" onClick={() => pan(-0.5)}>‹</button>
      <button class="quiet" aria-label="Later" onClick={() => pan(0.5)}>›</button>
      <button class="quiet" aria-label="Zoom in" onClick={() => zoom(0.5)}>+</button>
      <button class="quiet" aria-label="Zoom out" onClick={() => zoom(2)}>−</button>
    </div>
  )
}

const KEYS: Record<string, () => void> = {
  '+': () => zoom(0.5), '=': () => zoom(0.5), '-': () => zoom(2), '[': () => pan(-0.25), ']': () => pan(0.25), a: showAll,
}

function useKeys(): void {
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.ctrlKey || event.metaKey || event.altKey || (event.target as Element).closest('input, select, textarea')) return
      KEYS[event.key]?.()
    }
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [])
}

function TrackedElsewhere({ tracked }: { tracked: readonly TrackedNode[] }) {
  if (!tracked.length) return null
  return (
    <details class="card tracked-list">
      <summary>{tracked.length === 1 ? 'One symbol is' : `${count.format(tracked.length)} symbols are`} tracked: kept complete, with or without queries</summary>
      <ul>
        {tracked.map(({ symbol, since, holes, upToDateAt }) => (
          <li key={symbol.id}>
            <strong>{symbol.symbol}</strong> <span class="muted">{symbol.market}/{symbol.provider} · since {printTime(since, 'UTC', false)} · {holes ? `${holes} gaps` : 'complete'}{upToDateAt && ` · last complete ${printTime(Date.parse(upToDateAt), 'UTC')}`}</span>
          </li>
        ))}
      </ul>
    </details>
  )
}
