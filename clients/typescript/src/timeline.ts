import type { CandleEventKind, CandleFieldsFragment, CandlesQuery } from './documents.js'

export type Candle = CandleFieldsFragment
export type SeriesPage = NonNullable<CandlesQuery['candles']>
export type Gap = SeriesPage['gaps'][number]
export type SourceSpan = SeriesPage['sources'][number]
/** Half-open: `[since, until)`, in milliseconds. */
export interface Span { readonly since: number; readonly until: number }

/** The candles of a chart, with what is known of their span: gaps, sources, and where the next older page ends. */
export class Timeline {
  candles: readonly Candle[] = []
  gaps: readonly Gap[] = []
  sources: readonly SourceSpan[] = []
  /** The `until` of the next older page; null where there is none. */
  nextBefore: number | null = null
  /** The revision up to which its corrections are known. */
  revision = ''

  /** Every settled bucket of the span is covered. */
  get complete(): boolean {
    return this.gaps.length === 0
  }

  get newest(): Candle | undefined {
    return this.candles.at(-1)
  }

  /** Put in a page that is older than what is here; the first page as well. */
  prepend(page: SeriesPage): void {
    this.candles = merge(page.nodes, this.candles)
    this.gaps = [...page.gaps, ...this.gaps]
    this.sources = [...page.sources, ...this.sources]
    this.nextBefore = page.hasMore ? (page.nextBefore ?? null) : null
    this.revision ||= page.revision
  }

  /** Replace what is known of a span by a page of it, as after a backfill. */
  replace(span: Span, page: SeriesPage): void {
    const isOutside = ({ timestamp }: Candle): boolean => timestamp < span.since || timestamp >= span.until
    this.candles = merge(this.candles.filter(isOutside), page.nodes)
    this.gaps = sorted([...cut(this.gaps, span), ...page.gaps])
    this.sources = sorted([...cut(this.sources, span), ...page.sources])
  }

  /** Take in the candles of an event. */
  apply(kind: CandleEventKind, nodes: readonly Candle[]): void {
    this.candles = merge(this.candles, nodes)
    const last = nodes.findLast(({ closed }) => closed)
    const [first] = nodes
    if (!first || !last || kind === 'CORRECTION') return
    const span = { since: first.timestamp, until: last.end }
    this.gaps = cut(this.gaps, span) // a snapshot has no gaps
    const live = this.sources.at(-1)
    const isNext = live?.source === 'LIVE' && live.until >= span.since
    this.sources = isNext
      ? [...this.sources.slice(0, -1), { ...live, until: Math.max(live.until, span.until) }]
      : [...cut(this.sources, span), { ...span, source: 'LIVE', fetchedAt: null }]
  }
}

/** Both lists as one, ascending; where both have a candle, the one of `more`. */
function merge(candles: readonly Candle[], more: readonly Candle[]): readonly Candle[] {
  const [first, last] = [more[0], candles.at(-1)]
  if (!first || !last) return first ? more : candles
  if (last.timestamp < first.timestamp) return [...candles, ...more]
  const at = candles.findLastIndex(({ timestamp }) => timestamp < first.timestamp) + 1
  const byTime = new Map([...candles.slice(at), ...more].map((candle) => [candle.timestamp, candle]))
  return [...candles.slice(0, at), ...[...byTime.values()].sort((a, b) => a.timestamp - b.timestamp)]
}

/** The spans without what lies within `span`. */
function cut<Part extends Span>(parts: readonly Part[], span: Span): Part[] {
  return parts.flatMap((part) => {
    if (part.until <= span.since || part.since >= span.until) return [part]
    const before = { ...part, until: span.since }
    const after = { ...part, since: span.until }
    return [before, after].filter(({ since, until }) => since < until)
  })
}

function sorted<Part extends Span>(parts: readonly Part[]): Part[] {
  return [...parts].sort((a, b) => a.since - b.since)
}
