// A timeline of one series: what is covered, missing, cannot be had, and being fetched, on the shared axis.
import type { GapFields, SpanFields } from './types.ts'
import { range, spanMs, ticks } from './axis.ts'
import { printSpan, printTime } from '../shared/format.ts'

const WIDTH = 1_000

export interface Spans {
  readonly covered: readonly SpanFields[]
  readonly gaps: readonly GapFields[]
  readonly fetching: readonly SpanFields[]
  /** Covered buckets without a trade, where they were looked up. */
  readonly quiet?: readonly SpanFields[]
}

export type GapKind = 'missing' | 'older' | 'failed' | 'never'

/** The kind of a gap, as its colour shows it: before what is covered it is not missed, only not fetched yet. */
export function kindOf({ reason, until }: GapFields, covered: readonly SpanFields[]): GapKind {
  if (reason === 'NOT_FETCHED' || reason === 'PENDING') return until <= (covered[0]?.since ?? Infinity) ? 'older' : 'missing'
  return reason === 'OUTAGE' || reason === 'REFUSED' ? 'failed' : 'never'
}

export function Timeline({ spans, label, tall = false }: { spans: Spans; label: string; tall?: boolean }) {
  const { since, until } = range.value
  const place = (span: SpanFields): { x: number; width: number } | null => {
    const from = Math.max(span.since, since)
    const to = Math.min(span.until, until)
    if (to <= from) return null
    const x = ((from - since) / (until - since)) * WIDTH
    return { x, width: Math.max(((to - from) / (until - since)) * WIDTH, 1.5) }
  }
  const bars = (kind: string, of: readonly SpanFields[]) => merged(of, (until - since) / WIDTH).map((span) => {
    const at = place(span)
    return at && <rect key={`${kind}${span.since}`} class={`bar ${kind}`} x={at.x} width={at.width} y="0" height="20" />
  })
  const gaps = (kind: GapKind): readonly SpanFields[] => spans.gaps.filter((gap) => kindOf(gap, spans.covered) === kind)
  return (
    <svg class={tall ? 'timeline tall' : 'timeline'} viewBox={`0 0 ${WIDTH} 20`} preserveAspectRatio="none" role="img" aria-label={`${label}: ${summary(spans)}`}>
      <rect class="bar ground" width={WIDTH} height="20" />
      {bars('never', gaps('never'))}
      {bars('older', gaps('older'))}
      {bars('covered', spans.covered)}
      {bars('quiet', spans.quiet ?? [])}
      {bars('missing', gaps('missing'))}
      {bars('failed', gaps('failed'))}
      {bars('fetching', spans.fetching)}
      {ticks.value.map(({ at }) => {
        const x = ((at - since) / (until - since)) * WIDTH
        return <line key={at} class="tick" x1={x} x2={x} y1="0" y2="20" />
      })}
    </svg>
  )
}

/** Spans that are less than a pixel apart are drawn as one. */
function merged(spans: readonly SpanFields[], pixelMs: number): readonly SpanFields[] {
  if (spans.length < 500) return spans
  const found: { since: number; until: number }[] = []
  for (const { since, until } of spans) {
    const last = found.at(-1)
    if (last && since - last.until < pixelMs) last.until = Math.max(last.until, until)
    else found.push({ since, until })
  }
  return found
}

/** How many gaps there are within what is covered, and at its end. */
export function holesOf(gaps: readonly GapFields[], covered: readonly SpanFields[]): number {
  return gaps.filter((gap) => ['missing', 'failed'].includes(kindOf(gap, covered))).length
}

/** The timeline in words, for screen readers. */
export function summary({ covered, gaps, fetching }: Spans): string {
  const missing = holesOf(gaps, covered)
  const first = covered[0]
  const last = covered.at(-1)
  const parts = [first && last ? `covered from ${printTime(first.since, 'UTC')} to ${printTime(last.until, 'UTC')}` : 'nothing covered']
  parts.push(missing ? `${missing} ${missing === 1 ? 'gap' : 'gaps'}` : 'no gap')
  if (fetching.length) parts.push('being fetched')
  return parts.join(', ')
}

/** The axis above the timelines. */
export function Axis() {
  const { since } = range.value
  return (
    <svg class="axis" viewBox={`0 0 ${WIDTH} 20`} preserveAspectRatio="none" aria-hidden="true">
      {ticks.value.map(({ at }) => {
        const x = ((at - since) / spanMs.value) * WIDTH
        return <line key={at} class="tick" x1={x} x2={x} y1="12" y2="20" />
      })}
    </svg>
  )
}

/** The labels of the axis: text must not be stretched, so they are no part of the drawing. */
export function AxisLabels() {
  const { since } = range.value
  return (
    <div class="axis-labels" aria-hidden="true">
      {ticks.value.map(({ at, label }) => (
        <span key={at} style={{ left: `${((at - since) / spanMs.value) * 100}%` }}>{label}</span>
      ))}
    </div>
  )
}

const KINDS: readonly (readonly [string, string])[] = [
  ['covered', 'covered'], ['quiet', 'covered, no trade'], ['missing', 'missing'], ['older', 'older, not fetched yet'], ['failed', 'failed'], ['never', 'cannot be had'], ['fetching', 'being fetched'],
]

export function Legend() {
  return (
    <ul class="legend" aria-label="Colours of the timelines">
      {KINDS.map(([kind, label]) => (
        <li key={kind}><svg viewBox="0 0 12 12" aria-hidden="true"><rect class={`bar ${kind}`} width="12" height="12" /></svg>{label}</li>
      ))}
    </ul>
  )
}

export const describeGap = (gap: GapFields): string => `${printSpan(gap.until - gap.since)} from ${printTime(gap.since, 'UTC')}`
