// One chart: the library, the series of the server that it follows, and what the page shows of it as signals.
import { batch, effect, signal } from '@preact/signals'
import { type CandlegraphError, isDaily, OneSymbol, type OneSymbolQuery } from '@candlegraph/client'
import { attach, type Attached, type Candle, type Gap, type Span, type Timeline, ZonedTime, zonedFormats } from '@candlegraph/client/lightweight-charts'
import { CandlestickSeries, createChartEx, CrosshairMode, HistogramSeries, type IChartApiBase, type ISeriesApi, LineStyle, type MouseEventParams, type Time } from 'lightweight-charts'
import { client } from '../session.ts'
import { serverNow } from '../shared/clock.ts'
import { decimalsOf, directionOf, printDuration, printPrice } from '../shared/format.ts'
import { Overlay } from './overlay.ts'
import { faded, onTheme, readPalette } from './palette.ts'
import type { View } from './state.ts'

export type SymbolInfo = NonNullable<OneSymbolQuery['symbol']>
export interface Point { readonly x: number; readonly y: number }
/** A place in the chart: a time (ms) and a price. */
export interface Place { readonly at: number; readonly price: number; readonly point: Point }

const FLASH_MS = 2_500
const REFRESH_MS = 15_000

export class Chart {
  readonly view: View
  readonly status = signal<'loading' | 'shown' | 'empty' | 'failed'>('loading')
  readonly error = signal<CandlegraphError | null>(null)
  readonly symbol = signal<SymbolInfo | null>(null)
  readonly timeline = signal<{ readonly of: Timeline; readonly changes: number } | null>(null)
  readonly newest = signal<Candle | null>(null)
  readonly hovered = signal<Candle | null>(null)
  /** The selected gap; one that is only hovered goes with the pointer. */
  readonly gap = signal<{ readonly gap: Gap; readonly point: Point; readonly isPinned: boolean } | null>(null)
  readonly decimals = signal(2)
  /** Corrections so far, for those who cannot see the flash. */
  readonly corrected = signal<Candle | null>(null)
  readonly api: IChartApiBase
  readonly candles: ISeriesApi<'Candlestick'>
  readonly #volume: ISeriesApi<'Histogram'>
  readonly #overlay: Overlay
  readonly #attached: Attached
  readonly #flashing = new Set<number>()
  readonly #ends: (() => void)[] = []
  #palette = readPalette()
  #changes = 0
  #isRemoved = false

  constructor(box: HTMLElement, view: View, zone: string, span: Span | null) {
    this.view = view
    this.api = createChartEx<Time, InstanceType<typeof ZonedTime>>(box, new ZonedTime(zone), {
      // The logo brings a style sheet of its own, which the policy of the page refuses; the dialog of keys has the notice.
      autoSize: true, layout: { attributionLogo: false }, ...zonedFormats(zone, !isDaily(view.timeframe), 'en-GB'),
    })
    this.api.applyOptions({ timeScale: { rightOffset: 6, barSpacing: 8, minBarSpacing: 0.4 } })
    this.candles = this.api.addSeries(CandlestickSeries, { priceLineStyle: LineStyle.Dotted })
    this.#volume = this.api.addSeries(HistogramSeries, {
      priceScaleId: '', priceFormat: { type: 'volume' }, priceLineVisible: false, lastValueVisible: false,
    })
    this.candles.priceScale().applyOptions({ scaleMargins: { top: box.clientWidth < 600 ? 0.26 : 0.12, bottom: 0.24 } })
    this.#volume.priceScale().applyOptions({ scaleMargins: { top: 0.82, bottom: 0.02 } })
    this.#overlay = new Overlay(this.#palette)
    this.candles.attachPrimitive(this.#overlay)
    this.#applyPalette()
    this.#attached = attach(this.candles, client, view, {
      volume: this.#volume,
      volumeColor: (candle) => faded(this.#palette[directionOf(candle)], 0.42),
      barStyle: (candle) => this.#styleOf(candle),
      onChange: (_, kind, nodes) => { this.#changed(kind, nodes) },
      onError: (error) => { this.#failed(error) },
    })
    this.#ends.push(onTheme(() => { this.#retheme() }), effect(() => { this.#tick(serverNow.value) }))
    this.api.subscribeCrosshairMove((event) => { this.#hover(event) })
    void this.#describe()
    if (span) void this.#attached.ready.then(() => this.#reveal(span))
  }

  remove(): void {
    this.#isRemoved = true
    this.#attached.detach()
    for (const end of this.#ends) end()
    this.api.remove()
  }

  /** The visible span (ms); null before there are bars. */
  visible(): Span | null {
    const range = this.api.timeScale().getVisibleRange()
    return range && { since: Number(range.from) * 1_000, until: Number(range.to) * 1_000 }
  }

  /** Where a point of the pane is. */
  placeAt(point: Point): Place | null {
    const time = this.api.timeScale().coordinateToTime(point.x)
    const price = this.candles.coordinateToPrice(point.y)
    return time === null || price === null ? null : { at: Number(time) * 1_000, price, point }
  }

  /** Where the close of a candle is; null while it is not in view. */
  placeOf({ timestamp: at, close: price }: Candle): Place | null {
    const x = this.api.timeScale().timeToCoordinate(at / 1_000 as Time)
    const y = this.candles.priceToCoordinate(price)
    return x === null || y === null ? null : { at, price, point: { x, y } }
  }

  /** Show the crosshair of another chart. */
  point(at: number | null): void {
    const candle = at === null ? undefined : this.#attached.timeline.candles.findLast(({ timestamp }) => timestamp <= at)
    if (candle) this.api.setCrosshairPosition(candle.close, candle.timestamp / 1_000 as Time, this.candles)
    else this.api.clearCrosshairPosition()
  }

  /** Select the next older gap, and bring it into view. */
  nextGap(): Gap | null {
    const { gaps } = this.#attached.timeline
    const selected = this.gap.value?.gap
    const at = selected ? gaps.findIndex(({ since }) => since === selected.since) : gaps.length
    const next = gaps.at(at <= 0 ? -1 : at - 1) ?? null
    if (next) this.select(next)
    return next
  }

  select(gap: Gap | null): void {
    this.#overlay.show({ selected: gap })
    if (!gap) {
      this.gap.value = null
      return
    }
    const scale = this.api.timeScale()
    let place = this.#overlay.placeOf(gap)
    if (!place || place.right < 0 || place.left > scale.width()) {
      this.#centre(gap)
      place = this.#overlay.placeOf(gap)
    }
    const left = place ? (Math.max(0, place.left) + Math.min(scale.width(), place.right)) / 2 : scale.width() / 2
    this.gap.value = { gap, point: { x: left, y: 90 }, isPinned: true }
  }

  /** Keep the selected gap, wherever the pointer goes. */
  pin(): void {
    if (this.gap.value) this.gap.value = { ...this.gap.value, isPinned: true }
  }

  reload(span: Span): Promise<void> {
    return this.#attached.reload(span)
  }

  scroll(bars: number): void {
    const scale = this.api.timeScale()
    scale.scrollToPosition(scale.scrollPosition() + bars, false)
  }

  zoom(factor: number): void {
    const scale = this.api.timeScale()
    const range = scale.getVisibleLogicalRange()
    if (range) scale.setVisibleLogicalRange({ from: range.to - (range.to - range.from) * factor, to: range.to })
  }

  toNewest(): void {
    this.api.timeScale().scrollToRealTime()
  }

  /** The chart as a picture, with its name. */
  async snapshot(): Promise<Blob | null> {
    const drawn = this.api.takeScreenshot(true)
    const [canvas, ratio] = [document.createElement('canvas'), devicePixelRatio]
    canvas.width = drawn.width
    canvas.height = drawn.height + 34 * ratio
    const context = canvas.getContext('2d')
    if (!context) return null
    context.fillStyle = this.#palette.canvas
    context.fillRect(0, 0, canvas.width, canvas.height)
    context.drawImage(drawn, 0, 34 * ratio)
    context.fillStyle = this.#palette.text
    context.font = `600 ${14 * ratio}px sans-serif`
    const { market, provider, symbol, timeframe } = this.view
    context.fillText(`${symbol}  ${timeframe}  ${market}/${provider}  ${new Date(serverNow.value).toISOString().slice(0, 16)}Z`, 14 * ratio, 23 * ratio)
    return new Promise((resolve) => { canvas.toBlob(resolve, 'image/png') })
  }

  async #describe(): Promise<void> {
    const { data } = await client.execute(OneSymbol, this.view).catch(() => ({ data: null }))
    if (this.#isRemoved) return
    this.symbol.value = data?.symbol ?? null
    this.#setDecimals()
  }

  /** Load older pages until the span is there, and show it. */
  async #reveal(span: Span): Promise<void> {
    const oldest = (): number => this.#attached.timeline.candles[0]?.timestamp ?? -Infinity
    while (oldest() > span.since && await this.#attached.loadOlder());
    if (this.#isRemoved) return
    this.api.timeScale().setVisibleRange({ from: span.since / 1_000 as Time, to: span.until / 1_000 as Time })
  }

  #centre({ since, until }: Span): void {
    const scale = this.api.timeScale()
    const index = scale.timeToIndex((since + until) / 2_000 as Time, true)
    const range = scale.getVisibleLogicalRange()
    if (index === null || !range) return
    const half = (range.to - range.from) / 2
    scale.setVisibleLogicalRange({ from: Number(index) - half, to: Number(index) + half })
  }

  #changed(kind: string, nodes: readonly Candle[]): void {
    const { timeline } = this.#attached
    const { gaps, sources, candles } = timeline
    const [first, last] = [candles[0]?.timestamp ?? Infinity, candles.at(-1)?.timestamp ?? -Infinity]
    const edges = { since: Math.min(first, gaps[0]?.since ?? first), until: Math.max(last, (gaps.at(-1)?.until ?? last + 1) - 1) }
    batch(() => {
      this.newest.value = timeline.newest ?? null
      this.timeline.value = { of: timeline, changes: ++this.#changes }
      if (this.status.value !== 'failed' || candles.length) this.status.value = candles.length ? 'shown' : 'empty'
      if (candles.length) this.error.value = null
      if (this.#changes === 1) this.#setDecimals()
    })
    this.#overlay.show({ gaps, sources, edges: edges.until > edges.since ? edges : null })
    this.#tick(serverNow.value)
    if (kind === 'CORRECTION') this.#flash(nodes)
    if (kind === 'CLOSE') nodes.forEach(({ timestamp }) => { this.#attached.restyle(timestamp) })
  }

  #failed(error: CandlegraphError): void {
    this.error.value = error
    if (this.status.value === 'loading') this.status.value = 'failed'
  }

  #flash(nodes: readonly Candle[]): void {
    for (const candle of nodes) {
      this.corrected.value = candle
      this.#flashing.add(candle.timestamp)
      this.#attached.restyle(candle.timestamp)
      setTimeout(() => {
        this.#flashing.delete(candle.timestamp)
        this.#attached.restyle(candle.timestamp)
      }, FLASH_MS)
    }
  }

  /** A forming candle is hollow, a corrected one flashes. */
  #styleOf(candle: Candle): { color?: string; borderColor?: string; wickColor?: string } {
    const { accent, canvas } = this.#palette
    if (this.#flashing.has(candle.timestamp)) return { color: accent, borderColor: accent, wickColor: accent }
    return candle.closed ? {} : { color: faded(this.#palette[directionOf(candle)], 0.16) || canvas }
  }

  #tick(now: number): void {
    const { newest } = this.#attached.timeline
    const isForming = newest && !newest.closed && newest.end - now > -REFRESH_MS
    this.#overlay.show({
      price: newest?.close ?? null,
      priceColour: newest ? this.#palette[directionOf(newest)] : '',
      countdown: isForming ? printDuration(newest.end - now) : '',
    })
  }

  #hover({ time, point, sourceEvent }: MouseEventParams): void {
    const at = time === undefined ? null : Number(time) * 1_000
    const { candles, gaps } = this.#attached.timeline
    this.hovered.value = at === null ? null : candles.findLast(({ timestamp }) => timestamp === at) ?? null
    if (!point || !sourceEvent) return // the crosshair of another chart
    const gap = at === null ? undefined : gaps.find(({ since, until }) => since <= at && at < until)
    const selected = this.gap.value
    if (gap && selected?.gap !== gap) {
      this.#overlay.show({ selected: gap })
      this.gap.value = { gap, point, isPinned: false }
    } else if (!gap && at !== null && selected && !selected.isPinned) this.select(null)
  }

  #setDecimals(): void {
    const decimals = decimalsOf(this.symbol.value?.priceIncrement, this.newest.value?.close)
    this.decimals.value = decimals
    this.candles.applyOptions({
      priceFormat: { type: 'custom', minMove: 10 ** -decimals, formatter: (price: number) => printPrice(price, decimals) },
    })
  }

  #retheme(): void {
    this.#palette = readPalette()
    this.#applyPalette()
    this.#attached.timeline.candles.filter(({ closed }) => !closed).forEach(({ timestamp }) => { this.#attached.restyle(timestamp) })
  }

  #applyPalette(): void {
    const { canvas, line, muted, up, down } = this.#palette
    this.api.applyOptions({
      layout: {
        background: { color: canvas }, textColor: muted, fontSize: 11,
        fontFamily: getComputedStyle(document.body).fontFamily, panes: { separatorColor: line },
      },
      grid: { vertLines: { color: faded(line, 0.5) }, horzLines: { color: faded(line, 0.5) } },
      crosshair: {
        mode: CrosshairMode.Normal, vertLine: { color: muted, labelBackgroundColor: line }, horzLine: { color: muted, labelBackgroundColor: line },
      },
      timeScale: { borderColor: line },
      rightPriceScale: { borderColor: line },
    })
    this.candles.applyOptions({
      upColor: up, downColor: down, borderUpColor: up, borderDownColor: down, wickUpColor: up, wickDownColor: down,
    })
    this.#overlay.setPalette(this.#palette)
  }
}
