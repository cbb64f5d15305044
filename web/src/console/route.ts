// The view that the address names: `#backfills?market=crypto`.
import { computed, signal } from '@preact/signals'

export const VIEWS = ['series', 'backfills', 'providers', 'storage', 'corrections', 'upload'] as const
export type View = typeof VIEWS[number]

const hash = signal(location.hash)
addEventListener('hashchange', () => { hash.value = location.hash })

const parts = computed(() => hash.value.slice(1).split('?'))
export const view = computed<View>(() => VIEWS.find((one) => one === parts.value[0]) ?? 'series')
/** The arguments of the view. */
export const given = computed(() => new URLSearchParams(parts.value[1] ?? ''))

export function go(to: View, fields: Record<string, string> = {}): void {
  const text = new URLSearchParams(fields).toString()
  location.hash = text ? `${to}?${text}` : to
}
