// The time that the timelines show: one axis for all series, from years to minutes.
import { computed, signal } from '@preact/signals'
import { serverNow } from '../shared/clock.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const MIN_SPAN = 30 * MINUTE
const MAX_SPAN = 60 * 365 * DAY

export const PRESETS: readonly (readonly [string, number])[] = [
  ['1H', HOUR], ['6H', 6 * HOUR], ['1D', DAY], ['1W', 7 * DAY], ['1M', 30 * DAY], ['1Y', 365 * DAY], ['5Y', 5 * 365 * DAY],
]

interface Range { readonly since: number; readonly until: number }

/** Null: all of what is stored. */
const chosen = signal<Range | null>(null)
/** The oldest instant of the series that are shown. */
export const oldest = signal(Date.now() - 365 * DAY)

export const isAll = computed(() => chosen.value === null)
export const range = computed<Range>(() => chosen.value ?? { since: oldest.value, until: round(serverNow.value) })
export const spanMs = computed(() => range.value.until - range.value.since)

const round = (now: number): number => Math.ceil((now + 1) / MINUTE) * MINUTE

export function showAll(): void {
  chosen.value = null
}

/** The last `ms` up to now, or around the middle of what is shown. */
export function showLast(ms: number): void {
  const until = round(serverNow.value)
  chosen.value = { since: until - ms, until }
}

export function showSpan(since: number, until: number): void {
  const margin = Math.max((until - since) * 0.2, 5 * MINUTE)
  chosen.value = { since: since - margin, until: until + margin }
}

/** Zoom by a factor around a part (0 to 1) of the width. */
export function zoom(factor: number, at = 0.5): void {
  const { since } = range.value
  const length = Math.min(MAX_SPAN, Math.max(MIN_SPAN, spanMs.value * factor))
  const centre = since + spanMs.value * at
  chosen.value = { since: centre - length * at, until: centre + length * (1 - at) }
}

/** Move by a part of the width. */
export function pan(part: number): void {
  const by = spanMs.value * part
  const until = Math.min(range.value.until + by, round(serverNow.value) + spanMs.value * 0.1)
  chosen.value = { since: until - spanMs.value, until }
}

const STEPS: readonly [number, Intl.DateTimeFormatOptions][] = [
  [5 * MINUTE, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }],
  [15 * MINUTE, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }],
  [HOUR, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }],
  [6 * HOUR, { weekday: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }],
  [DAY, { day: 'numeric', month: 'short' }],
  [7 * DAY, { day: 'numeric', month: 'short' }],
]

export interface Tick { readonly at: number; readonly label: string }

/** About eight ticks of round times, in UTC. */
export const ticks = computed<readonly Tick[]>(() => {
  const { since, until } = range.value
  const step = STEPS.find(([ms]) => (until - since) / ms <= 9)
  if (step) {
    const [ms, options] = step
    const format = new Intl.DateTimeFormat('en-GB', { timeZone: 'UTC', ...options })
    const first = Math.ceil(since / ms) * ms
    return Array.from({ length: Math.max(0, Math.ceil((until - first) / ms)) }, (_, i) => ({ at: first + i * ms, label: format.format(first + i * ms) }))
  }
  return monthTicks(since, until)
})

function monthTicks(since: number, until: number): Tick[] {
  const months = (until - since) / (30.4 * DAY)
  const step = [1, 3, 6, 12, 24, 60, 120].find((one) => months / one <= 9) ?? 240
  const format = new Intl.DateTimeFormat('en-GB', { timeZone: 'UTC', year: 'numeric', ...(step < 12 ? { month: 'short' } : {}) })
  const start = new Date(since)
  const found: Tick[] = []
  for (let month = Math.floor((start.getUTCFullYear() * 12) / step) * step; ; month += step) {
    const at = Date.UTC(Math.floor(month / 12), month % 12)
    if (at >= until) return found
    if (at >= since) found.push({ at, label: format.format(at) })
  }
}
