// What is drawn over the candles: gaps as shaded spans, a ribbon of sources, and the countdown beside the last price.
import type { Gap, SourceSpan, Span } from '@candlegraph/client/lightweight-charts'
import type {
  IChartApiBase, IPrimitivePaneRenderer, IPrimitivePaneView, ISeriesApi, ISeriesPrimitive, ISeriesPrimitiveAxisView, Logical,
  SeriesAttachedParameter, Time,
} from 'lightweight-charts'
import type { Palette } from './palette.ts'

const RIBBON_PX = 4
const STRIPE_PX = 7

type Target = Parameters<IPrimitivePaneRenderer['draw']>[0]

export interface Shown {
  readonly gaps: readonly Gap[]
  readonly sources: readonly SourceSpan[]
  /** The gap under the pointer or the keyboard. */
  readonly selected: Gap | null
  /** The last price, its colour, and how long its candle still forms. */
  readonly price: number | null
  readonly priceColour: string
  readonly countdown: string
  /** The times of the first and the last bar (ms). */
  readonly edges: Span | null
}

export class Overlay implements ISeriesPrimitive {
  #shown: Shown = { gaps: [], sources: [], selected: null, price: null, priceColour: '', countdown: '', edges: null }
  #palette: Palette
  #chart: IChartApiBase | undefined
  #series: ISeriesApi<'Candlestick'> | undefined
  #requestUpdate: (() => void) | undefined

  constructor(palette: Palette) {
    this.#palette = palette
  }

  attached({ chart, series, requestUpdate }: SeriesAttachedParameter): void {
    this.#chart = chart
    this.#series = series as ISeriesApi<'Candlestick'>
    this.#requestUpdate = requestUpdate
  }

  detached(): void {
    this.#requestUpdate = undefined
  }

  show(fields: Partial<Shown>): void {
    this.#shown = { ...this.#shown, ...fields }
    this.#requestUpdate?.()
  }

  setPalette(palette: Palette): void {
    this.#palette = palette
    this.#requestUpdate?.()
  }

  paneViews(): readonly IPrimitivePaneView[] {
    return [
      { zOrder: () => 'bottom', renderer: () => ({ draw: (target) => { this.#drawGaps(target) } }) },
      { zOrder: () => 'top', renderer: () => ({ draw: (target) => { this.#drawRibbon(target) } }) },
    ]
  }

  priceAxisViews(): readonly ISeriesPrimitiveAxisView[] {
    const { price, priceColour, countdown } = this.#shown
    const at = price === null ? null : this.#series?.priceToCoordinate(price) ?? null
    if (at === null || !countdown) return []
    const coordinate = at + 19 // below the label of the price
    return [{
      coordinate: () => coordinate, text: () => countdown, textColor: () => this.#palette.canvas, backColor: () => priceColour,
    }]
  }

  /** Where a span lies (px), as far as it has bars; null outside of them. */
  placeOf({ since, until }: Span): { left: number; right: number } | null {
    const scale = this.#chart?.timeScale()
    const { edges } = this.#shown
    if (!scale || !edges || until <= edges.since || since > edges.until) return null
    const edge = (at: number): number | null => {
      const index = scale.timeToIndex(at / 1_000 as Time, true)
      return index === null ? null : scale.logicalToCoordinate(index as unknown as Logical)
    }
    const half = scale.options().barSpacing / 2
    const [left, right] = [edge(since), edge(until)]
    if (left === null || right === null) return null
    return { left: left - half, right: right + (until > edges.until ? half : -half) }
  }

  #drawGaps(target: Target): void {
    target.useBitmapCoordinateSpace(({ context, bitmapSize, horizontalPixelRatio: ratio }) => {
      for (const gap of this.#shown.gaps) {
        const place = this.placeOf(gap)
        if (!place || place.right * ratio < 0 || place.left * ratio > bitmapSize.width) continue
        const [left, width] = [place.left * ratio, Math.max(1, (place.right - place.left) * ratio)]
        const isSelected = gap.since === this.#shown.selected?.since
        context.save()
        context.beginPath()
        context.rect(left, 0, width, bitmapSize.height)
        context.clip()
        context.fillStyle = this.#palette.gap
        context.globalAlpha = isSelected ? 0.2 : 0.09
        context.fill()
        context.globalAlpha = isSelected ? 0.55 : 0.28
        context.strokeStyle = this.#palette.gap
        context.lineWidth = ratio
        context.beginPath()
        const step = STRIPE_PX * ratio
        const from = Math.max(left, 0) - bitmapSize.height - (Math.max(left, 0) % step)
        for (let x = from; x < Math.min(left + width, bitmapSize.width); x += step) {
          context.moveTo(x, bitmapSize.height)
          context.lineTo(x + bitmapSize.height, 0)
        }
        context.stroke()
        context.restore()
      }
    })
  }

  #drawRibbon(target: Target): void {
    target.useBitmapCoordinateSpace(({ context, bitmapSize, horizontalPixelRatio, verticalPixelRatio }) => {
      const height = RIBBON_PX * verticalPixelRatio
      const top = bitmapSize.height - height
      for (const source of this.#shown.sources) {
        const place = this.placeOf(source)
        if (!place) continue
        context.fillStyle = this.#palette.sources[source.source]
        context.fillRect(place.left * horizontalPixelRatio, top, (place.right - place.left) * horizontalPixelRatio, height)
      }
    })
  }
}
