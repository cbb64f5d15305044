import type { CandlestickData, HistogramData, IChartApiBase, ISeriesApi, UTCTimestamp, WhitespaceData } from 'lightweight-charts'
import type { Client } from './client.js'
import { Candles, type CandleEventKind, Changes, LiveCandles } from './documents.js'
import { CandlegraphError } from './errors.js'
import { resumingSubscription } from './resuming.js'
import { lengthOf } from './timeframe.js'
import { type Candle, type SeriesPage, type Span, Timeline } from './timeline.js'

export { ZonedTime, type ZonedFormats, zonedFormats } from './time-zone.js'
export { type Candle, type Gap, type SourceSpan, type Span, Timeline } from './timeline.js'

/** Which candles to draw; `provider` is the short name or the id. */
export interface SeriesQuery {
  readonly market: string
  readonly provider: string
  readonly symbol: string
  readonly timeframe: string
  /** The IANA zone in which days and longer candles open; the symbol's own by default. */
  readonly timezone?: string | null
}

export interface AttachOptions {
  /** A histogram that gets the volumes. */
  readonly volume?: ISeriesApi<'Histogram'>
  /** The colour of a volume bar. */
  readonly volumeColor?: (candle: Candle) => string
  /** The colours of a bar where they are not those of the series. */
  readonly barStyle?: (candle: Candle) => Partial<CandlestickData>
  /** Candles of a page. */
  readonly limit?: number
  /** How wide a gap is at most, in bars. */
  readonly gapBars?: number
  /** After each page and each event; `nodes` are the candles that came. */
  readonly onChange?: (attached: Attached, kind: CandleEventKind | 'PAGE', nodes: readonly Candle[]) => void
  readonly onError?: (error: CandlegraphError) => void
}

type Bar = CandlestickData | WhitespaceData
type Volume = HistogramData | WhitespaceData

const LOAD_MARGIN = 50 // bars left of the view
const PENDING_WAIT_MS = 2_000
const PENDING_TRIES = 30

/**
 * Draw a series of candles: the newest page, then live candles; older pages as the chart is scrolled to the left.
 * Gaps are whitespace. The times are UTC; `ZonedTime` and `zonedFormats` show them in another zone.
 */
export function attach(series: ISeriesApi<'Candlestick'>, client: Client, query: SeriesQuery, options: AttachOptions = {}): Attached {
  return new Attached(series, client, query, options)
}

/** A series of a chart that follows a series of the server, until `detach`. */
export class Attached {
  readonly query: SeriesQuery
  readonly timeline = new Timeline()
  /** The first page is drawn. It never rejects; `onError` gets the error. */
  readonly ready: Promise<void>
  readonly #series: ISeriesApi<'Candlestick'>
  readonly #client: Client
  readonly #options: AttachOptions
  readonly #abort = new AbortController()
  #chart: IChartApiBase | undefined
  #unsubscribe = (): void => undefined
  #loading: Promise<boolean> | undefined

  constructor(series: ISeriesApi<'Candlestick'>, client: Client, query: SeriesQuery, options: AttachOptions) {
    this.query = query
    this.#series = series
    this.#client = client
    this.#options = options
    const primitive = { attached: ({ chart }: { chart: IChartApiBase }) => { this.#chart = chart } }
    series.attachPrimitive(primitive) // the way from a series to its chart
    series.detachPrimitive(primitive)
    this.#chart?.timeScale().subscribeVisibleLogicalRangeChange(this.#scrolled)
    this.ready = this.#begin()
  }

  /** End the subscription and the requests; what is drawn stays. */
  detach(): void {
    this.#abort.abort()
    this.#unsubscribe()
    this.#chart?.timeScale().unsubscribeVisibleLogicalRangeChange(this.#scrolled)
  }

  /** Load the next older page. False where there is none, or it failed. */
  loadOlder(): Promise<boolean> {
    this.#loading ??= this.#loadOlder().finally(() => { this.#loading = undefined })
    return this.#loading
  }

  /** Read a span again, as after a backfill. */
  async reload(span: Span): Promise<void> {
    await this.#guarded(async () => {
      for (let since = span.since; since < span.until;) {
        const page = await this.#load({ since, until: span.until, limit: 5_000 })
        const until = page.hasMore && page.nextSince ? page.nextSince : span.until
        this.timeline.replace({ since, until }, page)
        since = until
      }
      this.#draw()
    })
  }

  /** Draw a candle again, where `barStyle` has changed. */
  restyle(timestamp: number): void {
    if (this.#abort.signal.aborted) return
    const candle = this.timeline.candles.findLast((one) => one.timestamp === timestamp)
    if (candle && this.#has(candle)) this.#series.update(this.#barOf(candle), candle !== this.timeline.newest)
  }

  async #begin(): Promise<void> {
    await this.#guarded(async () => {
      const { serverTime, candles } = await this.#client.query(
        Candles, { ...this.query, limit: this.#options.limit ?? 500 }, this.#abort.signal,
      )
      if (!candles) throw new CandlegraphError('The server answered without candles.', 'INTERNAL')
      this.timeline.prepend(candles)
      this.#draw()
      this.#follow(candles.nodes.findLast(({ closed }) => closed)?.timestamp ?? serverTime)
      void this.#awaitPending()
    })
  }

  #follow(since: number): void {
    if (this.#abort.signal.aborted) return
    this.#unsubscribe = resumingSubscription(this.#client, LiveCandles, { ...this.query, since, closedOnly: false }, {
      next: ({ candles: { kind, nodes } }) => { this.#take(kind, nodes) },
      error: (error) => { this.#options.onError?.(error) },
      missed: () => { void this.#reloadChanges() },
    })
  }

  /** Read again what has changed since the first page, as far as the chart has it. */
  async #reloadChanges(): Promise<void> {
    const { revision, candles } = this.timeline
    const [first, last] = [candles[0], candles.at(-1)]
    if (!first || !last) return
    await this.#guarded(async () => {
      const { changes } = await this.#client.query(Changes, { ...this.query, after: revision }, this.#abort.signal)
      const all = { since: first.timestamp, until: last.timestamp }
      for (const { since, until } of changes ? [...changes.changed, ...changes.lost] : [all]) {
        await this.reload({ since: Math.max(since, all.since), until: Math.min(until, all.until) })
      }
      this.timeline.revision = changes?.revision ?? revision
    })
  }

  async #loadOlder(): Promise<boolean> {
    const { nextBefore } = this.timeline
    if (nextBefore === null) return false
    return this.#guarded(async () => {
      this.timeline.prepend(await this.#load({ until: nextBefore, limit: this.#options.limit ?? 500 }))
      this.#draw()
      void this.#awaitPending()
    })
  }

  /** Read the gaps again that the server is filling at present. */
  async #awaitPending(): Promise<void> {
    for (let tries = 0; tries < PENDING_TRIES; tries++) {
      const pending = this.timeline.gaps.filter(({ reason }) => reason === 'PENDING')
      const [first, last] = [pending[0], pending.at(-1)]
      if (!first || !last) return
      await new Promise((resolve) => setTimeout(resolve, PENDING_WAIT_MS))
      if (this.#abort.signal.aborted) return
      await this.reload({ since: first.since, until: last.until })
    }
  }

  async #load(range: { since?: number; until?: number; limit: number }): Promise<SeriesPage> {
    const { candles } = await this.#client.query(Candles, { ...this.query, ...range }, this.#abort.signal)
    if (!candles) throw new CandlegraphError('The server answered without candles.', 'INTERNAL')
    return candles
  }

  /** Whether it went well; an error goes to `onError`, unless this series is detached. */
  async #guarded(work: () => Promise<void>): Promise<boolean> {
    try {
      await work()
      return true
    } catch (error) {
      if (this.#abort.signal.aborted) return false
      if (!(error instanceof CandlegraphError)) throw error
      this.#options.onError?.(error)
      return false
    }
  }

  #take(kind: CandleEventKind, nodes: readonly Candle[]): void {
    if (this.#abort.signal.aborted) return
    this.timeline.apply(kind, nodes)
    const newest = this.#series.data().at(-1)?.time as UTCTimestamp | undefined
    const isPlain = nodes.length < 100 && nodes.every((node) => isAfter(node, newest) || this.#has(node))
    if (!isPlain) {
      this.#draw(kind, nodes)
      return
    }
    for (const node of nodes) {
      const isOlder = !isAfter(node, this.#series.data().at(-1)?.time as UTCTimestamp | undefined)
      this.#series.update(this.#barOf(node), isOlder)
      this.#options.volume?.update(this.#volumeOf(node), isOlder)
    }
    this.#options.onChange?.(this, kind, nodes)
  }

  #has({ timestamp }: Candle): boolean {
    const bars = this.#series.data()
    return bars.findLast(({ time }) => Number(time) * 1_000 <= timestamp)?.time === timestamp / 1_000
  }

  #draw(kind: CandleEventKind | 'PAGE' = 'PAGE', nodes: readonly Candle[] = this.timeline.candles): void {
    if (this.#abort.signal.aborted) return // the chart may be gone
    const spaces = whitespaceOf(this.timeline, lengthOf(this.query.timeframe), this.#options.gapBars ?? 60)
    const inOrder = <Item extends Bar | Volume>(items: Item[]): Item[] => (
      items.sort((a, b) => Number(a.time) - Number(b.time))
    )
    this.#series.setData(inOrder<Bar>([...this.timeline.candles.map((candle) => this.#barOf(candle)), ...spaces]))
    const volumes = (): Volume[] => [...this.timeline.candles.map((candle) => this.#volumeOf(candle)), ...spaces]
    this.#options.volume?.setData(inOrder(volumes()))
    this.#options.onChange?.(this, kind, nodes)
  }

  #barOf(candle: Candle): CandlestickData {
    const { open, high, low, close } = candle
    return { time: timeOf(candle), open, high, low, close, ...this.#options.barStyle?.(candle) }
  }

  #volumeOf(candle: Candle): HistogramData {
    const color = this.#options.volumeColor?.(candle)
    return { time: timeOf(candle), value: candle.volume, ...(color === undefined ? {} : { color }) }
  }

  readonly #scrolled = (range: { from: number } | null): void => {
    if (range && range.from < LOAD_MARGIN) void this.loadOlder()
  }
}

function timeOf({ timestamp }: Candle): UTCTimestamp {
  return timestamp / 1_000 as UTCTimestamp // a chart counts in seconds
}

/** Whether a candle is the newest bar or newer than it. */
function isAfter(candle: Candle, newest: UTCTimestamp | undefined): boolean {
  return newest === undefined || timeOf(candle) >= newest
}

/** The times of the gaps' bars, at most `most` for each gap: a chart's time scale has a place for each bar, not for time. */
function whitespaceOf({ gaps, candles }: Timeline, lengthMs: number, most: number): WhitespaceData[] {
  const taken = new Set(candles.map(({ timestamp }) => timestamp))
  const times = new Set<number>()
  for (const { since, until } of gaps) {
    const step = lengthMs * Math.max(1, Math.ceil((until - since) / lengthMs / most))
    for (let at = since; at < until; at += step) if (!taken.has(at)) times.add(at)
  }
  return [...times].map((at) => ({ time: at / 1_000 as UTCTimestamp }))
}
