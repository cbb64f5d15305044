// The charts of the page: which there are, and what they do together.
import { signal } from '@preact/signals'
import type { Chart } from './chart.ts'

/** By their place; a place is empty while its chart is being made. */
export const charts = signal<readonly (Chart | undefined)[]>([])
export const isMeasuring = signal(false)
export type Dialog = 'search' | 'timeframe' | 'zone' | 'sign-in' | 'help' | null
export const dialog = signal<Dialog>(null)
/** What was typed to open a dialog. */
export const typed = signal('')
export const isWatchlistOpen = signal(false)

export function open(next: Dialog, text = ''): void {
  typed.value = text
  dialog.value = next
}

export function register(place: number, chart: Chart | undefined): void {
  const next = [...charts.value]
  next[place] = chart
  charts.value = next
}

/** Let the other charts show the crosshair of one. */
export function link(chart: Chart): void {
  chart.api.subscribeCrosshairMove(({ time, sourceEvent, point }) => {
    if (!sourceEvent && point) return // not of the pointer
    const at = time === undefined ? null : Number(time) * 1_000
    for (const other of charts.value) if (other && other !== chart) other.point(at)
  })
}
