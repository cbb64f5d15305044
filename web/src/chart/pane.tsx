// One chart with its legend, its states and its cards.
import { signal, useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { isDaily } from '@candlegraph/client'
import { serverNow } from '../shared/clock.ts'
import { loadMarkets, providerOf } from '../shared/connection.ts'
import { directionOf, printDuration, printPercent, printPrice, printTime, printVolume } from '../shared/format.ts'
import { Chart } from './chart.ts'
import { GapCard } from './gap.tsx'
import { Measure } from './measure.tsx'
import { isMeasuring, link, open, register } from './panes.ts'
import { active, layout, linkedSpan, type View } from './state.ts'

const TABLE_ROWS = 50
const RETRY_MS = 5_000
const attempt = signal(0)

export function Pane({ view, place }: { view: View; place: number }) {
  const box = useRef<HTMLDivElement>(null)
  const chart = useSignal<Chart | null>(null)
  const { zone } = layout.value
  const { market, provider, symbol, timeframe } = view
  const tries = attempt.value
  useEffect(() => {
    if (!box.current) return
    const made = new Chart(box.current, view, zone, place === 0 ? linkedSpan : null)
    chart.value = made
    register(place, made)
    link(made)
    return () => {
      made.remove()
      register(place, undefined)
      chart.value = null
    }
  }, [market, provider, symbol, timeframe, zone, place, tries])
  const isActive = active.value === place && layout.value.charts.length > 1
  return (
    <section
      class={isActive ? 'pane active' : 'pane'} tabIndex={0} aria-label={`${symbol}, ${timeframe}, ${market}/${provider}`}
      onFocusCapture={() => { active.value = place }} onPointerDown={() => { active.value = place }}
    >
      <div class={isMeasuring.value ? 'canvas measuring' : 'canvas'} ref={box} />
      {chart.value && (
        <>
          <Legend chart={chart.value} />
          <State chart={chart.value} />
          <GapCard chart={chart.value} />
          {isMeasuring.value && isActiveOrOnly(place) && <Measure chart={chart.value} />}
          <Table chart={chart.value} />
        </>
      )}
    </section>
  )
}

const isActiveOrOnly = (place: number): boolean => active.value === place

function Legend({ chart }: { chart: Chart }) {
  const candle = chart.hovered.value ?? chart.newest.value
  const { symbol, market, provider, timeframe } = chart.view
  const decimals = chart.decimals.value
  const timeline = chart.timeline.value?.of
  const previous = timeline && candle ? timeline.candles[timeline.candles.indexOf(candle) - 1] : undefined
  const part = candle ? candle.close / (previous?.close ?? candle.open) - 1 : NaN
  const isForming = candle && !candle.closed
  return (
    <div class="legend">
      <button type="button" class="title" onClick={() => open('search')} title="Another symbol (/)">
        <b>{symbol}</b> <span class="frame">{timeframe}</span> <span class="muted origin">{market}/{provider}</span>
      </button>
      {candle && (
        <dl class={directionOf(candle)}>
          {([['O', candle.open], ['H', candle.high], ['L', candle.low], ['C', candle.close]] as const).map(([name, price]) => (
            <div key={name}><dt>{name}</dt><dd>{printPrice(price, decimals)}</dd></div>
          ))}
          <div><dd>{printPercent(part)}</dd></div>
          <div class="volume"><dt>Vol</dt><dd>{printVolume(candle.volume)}</dd></div>
        </dl>
      )}
      <p class="facts">
        {timeline && <Completeness chart={chart} />}
        {isForming && <span class="chip forming" title="It changes until it closes">forming, closes in {printDuration(candle.end - serverNow.value)}</span>}
        {candle?.closed && chart.hovered.value && <span class="chip">closed</span>}
        {chart.corrected.value && <span class="chip corrected" role="status">corrected: {printTime(chart.corrected.value.timestamp, layout.value.zone, !isDaily(timeframe))}</span>}
      </p>
    </div>
  )
}

function Completeness({ chart }: { chart: Chart }) {
  const gaps = chart.timeline.value?.of.gaps ?? []
  if (gaps.length === 0) return <span class="chip complete" title="Every closed candle of this span is here">complete</span>
  return (
    <button type="button" class="chip gaps" onClick={() => chart.nextGap()} title="Show the next one (G)">
      {gaps.length} {gaps.length === 1 ? 'gap' : 'gaps'}
    </button>
  )
}

function State({ chart }: { chart: Chart }) {
  const [status, error] = [chart.status.value, chart.error.value]
  const retry = (): void => {
    attempt.value++
    void loadMarkets()
  }
  const isUnreachable = status === 'failed' && error?.code === 'UNREACHABLE'
  useEffect(() => {
    if (!isUnreachable) return
    const timer = setTimeout(retry, RETRY_MS)
    return () => clearTimeout(timer)
  }, [isUnreachable])
  if (status === 'loading') return <div class="state bars" role="status" aria-label="Loading candles">{BARS.map((height, i) => <span key={i} class={`skeleton h${height}`} />)}</div>
  if (status === 'empty') {
    return (
      <div class="state card"><h2>No candles yet</h2><p>{chart.view.symbol} has none of {chart.view.timeframe} here. They appear as soon as there is a trade.</p></div>
    )
  }
  if (!error) return null
  const { market, provider } = chart.view
  const reason = providerOf(market, provider)?.stateReason
  return (
    <div class={status === 'failed' ? 'state card' : 'state corner'} role="alert">
      <h2>{error.code === 'UNREACHABLE' ? 'The server does not answer' : error.message}</h2>
      {error.code === 'UNREACHABLE' && <p>{error.message}</p>}
      {reason && reason !== error.message && <p>{reason}</p>}
      <p><code>{error.code}</code></p>
      <button type="button" class="primary" onClick={retry}>Try again</button>{' '}
      {error.code === 'UNAUTHENTICATED' ? <button type="button" onClick={() => open('sign-in')}>Sign in</button> : <button type="button" onClick={() => open('search')}>Another symbol</button>}
    </div>
  )
}

const BARS = [3, 4, 3, 5, 6, 5, 4, 6, 7, 8, 7, 6, 5, 6, 4, 3, 4, 5, 7, 6, 8, 9, 8, 7]

/** The last candles for those who cannot see the chart; it changes when one closes. */
function Table({ chart }: { chart: Chart }) {
  const timeline = chart.timeline.value?.of
  const rows = (timeline?.candles ?? []).slice(-TABLE_ROWS).reverse()
  const decimals = chart.decimals.value
  const { zone } = layout.value
  return (
    <table class="hidden">
      <caption>The last {rows.length} of {(timeline?.candles.length ?? 0).toLocaleString('en-US')} candles of {chart.view.symbol}, {chart.view.timeframe}, newest first{timeline?.complete ? '' : `; ${timeline?.gaps.length ?? 0} gaps`}</caption>
      <thead><tr>{['Time', 'Open', 'High', 'Low', 'Close', 'Volume', 'State'].map((name) => <th key={name} scope="col">{name}</th>)}</tr></thead>
      <tbody>
        {rows.map((candle) => (
          <tr key={candle.timestamp}>
            <th scope="row">{printTime(candle.timestamp, zone, !isDaily(chart.view.timeframe))}</th>
            {[candle.open, candle.high, candle.low, candle.close].map((price, i) => <td key={i}>{printPrice(price, decimals)}</td>)}
            <td>{printVolume(candle.volume)}</td>
            <td>{candle.closed ? 'closed' : 'forming'}</td>
          </tr>
        ))}
      </tbody>
    </table>
  )
}

