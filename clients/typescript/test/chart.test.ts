import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { box } from './window.js'
import { CandlestickSeries, createChartEx, HistogramSeries, type ISeriesApi, type Time, type UTCTimestamp } from 'lightweight-charts'
import { attach, type Attached, type AttachOptions, type SeriesQuery, ZonedTime, zonedFormats } from '@candlegraph/client/lightweight-charts'
import { Cable } from './cable.js'
import { BTC, eventually, MINUTE_MS, type Row, Server } from './server.js'

const SOL = { ...BTC, symbol: 'SOL/USD' } // the other tests, which run beside this one, correct BTC/USD
const fast = new Server('fast')
const cable = await new Cable(fast.endpoint).mend()
const client = fast.client(cable.endpoint)
after(async () => {
  client.dispose()
  await cable.cut({ down: true })
})

interface Drawn { candles: ISeriesApi<'Candlestick'>; volume: ISeriesApi<'Histogram'>; attached: Attached; scrollTo: (from: number) => void; placeOf: (time: number) => number | null }

function draw(query: SeriesQuery, options: AttachOptions = {}, from = client): Drawn {
  const chart = createChartEx<Time, InstanceType<typeof ZonedTime>>(box(), new ZonedTime('America/New_York'), {
    width: 400, height: 300, ...zonedFormats('America/New_York'),
  })
  const candles = chart.addSeries(CandlestickSeries)
  const volume = chart.addSeries(HistogramSeries)
  const attached = attach(candles, from, query, { volume, onError: (error) => { throw error }, ...options })
  return {
    candles, volume, attached,
    scrollTo: (from) => { chart.timeScale().setVisibleLogicalRange({ from, to: from + 100 }) },
    placeOf: (time) => chart.timeScale().timeToIndex(time / 1_000 as UTCTimestamp),
  }
}

/** The bars as the API has the candles: [timestamp, close]. */
function barsOf({ candles }: Drawn): [number, number | undefined][] {
  return candles.data().map((bar) => [Number(bar.time) * 1_000, 'close' in bar ? bar.close : undefined])
}

test('a chart has each candle once over cuts, a late close, a correction and a scroll to the left', async () => {
  const kinds: string[] = []
  const drawn = draw(SOL, { limit: 200, onChange: (_, kind) => kinds.push(kind) })
  await drawn.attached.ready
  assert.equal(barsOf(drawn).length, 200)
  const closes = (): number => kinds.filter((kind) => kind === 'CLOSE').length
  await eventually(() => closes() > 1)

  drawn.scrollTo(-20)
  await eventually(() => barsOf(drawn).length >= 400)

  await cable.cut({ down: true })
  const { timestamp } = await fast.newest(SOL)
  const target = timestamp - 100 * MINUTE_MS // older than where the subscription began
  await fast.store(SOL, [[target, 1, 3, 1, 2, 7]])
  await eventually(async () => (await fast.newest(SOL)).timestamp > timestamp + 2 * MINUTE_MS)
  await cable.mend()
  await eventually(() => barsOf(drawn).some(([time, close]) => time === target && close === 2))
  const after = closes()
  await eventually(() => closes() > after + 1)

  const bars = barsOf(drawn)
  drawn.attached.detach()
  const [first = [0]] = bars
  const truth = (await fast.closed(SOL, first[0])).map(({ timestamp, close }) => [timestamp, close])
  assert.deepEqual(bars.slice(0, -2), truth.slice(0, bars.length - 2))
  assert.deepEqual(drawn.volume.data().map(({ time }) => time), drawn.candles.data().map(({ time }) => time))
})

test('a series that is detached before its answer comes is not drawn', async () => {
  const held: (() => void)[] = []
  const slow = fast.client(fast.endpoint, {
    fetch: async (url, init) => {
      const response = await fetch(url, { ...init, signal: null }) // it has arrived: to abort it is too late
      await new Promise<void>((resolve) => held.push(resolve))
      return response
    },
  })
  const drawn = draw(SOL, {}, slow)
  await eventually(() => held.length === 1)
  drawn.attached.detach()
  held[0]?.()
  await drawn.attached.ready
  slow.dispose()
  assert.deepEqual(barsOf(drawn), [])
})

test('a gap is whitespace, in its place, and narrow where it is long', async () => {
  const mine = { ...BTC, market: 'mine', symbol: `GAP-${Date.now()}` }
  const T0 = Date.UTC(2024, 2, 1)
  const rows = (since: number, count: number): Row[] => (
    Array.from({ length: count }, (_, i) => [since + i * MINUTE_MS, 1, 2, 1, 2, 1] as const)
  )
  const week = 7 * 24 * 60 * MINUTE_MS
  await fast.store(mine, [...rows(T0, 30), ...rows(T0 + week, 30)])
  const drawn = draw(mine, { gapBars: 20 })
  await drawn.attached.ready
  drawn.attached.detach()
  const bars = barsOf(drawn)
  const { gaps, complete } = drawn.attached.timeline
  const gap = gaps.find(({ since }) => since === T0 + 30 * MINUTE_MS)
  assert.ok(gap && !complete && gap.until === T0 + week, JSON.stringify(gaps))
  assert.equal(gap.reason, 'NOT_FETCHED')
  assert.equal(bars.length, 60)
  const places = (time: number | undefined): number => Number(drawn.placeOf(time ?? 0))
  assert.deepEqual([places(bars[0]?.[0]), places(bars[29]?.[0])], [0, 29])
  const blank = places(bars[30]?.[0]) - 30 // a whitespace is no bar, and has a place
  assert.ok(blank > 10 && blank <= 20, `${blank}`)
})

test('an unknown symbol is an error, and nothing is drawn', async () => {
  const codes: string[] = []
  const drawn = draw({ ...BTC, symbol: 'NO/SUCH' }, { onError: ({ code }) => codes.push(code) })
  await drawn.attached.ready
  drawn.attached.detach()
  assert.deepEqual(codes, ['NOT_FOUND'])
  assert.deepEqual(barsOf(drawn), [])
})
