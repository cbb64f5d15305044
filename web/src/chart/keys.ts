// The keyboard: every action of the page without a pointer.
import { charts, dialog, isMeasuring, isWatchlistOpen, open } from './panes.ts'
import { active } from './state.ts'
import { copyLink, saveSnapshot } from './toolbar.tsx'

const SCROLL_BARS = 10
const ZOOM = 1.25

const actions: Readonly<Record<string, () => void>> = {
  '/': () => open('search'),
  t: () => open('timeframe'),
  z: () => open('zone'),
  '?': () => open('help'),
  g: () => { charts.value[active.value]?.nextGap() },
  m: () => { isMeasuring.value = !isMeasuring.value },
  s: () => { void saveSnapshot() },
  l: () => { void copyLink() },
  w: () => { isWatchlistOpen.value = !isWatchlistOpen.value },
  ArrowLeft: () => charts.value[active.value]?.scroll(-SCROLL_BARS),
  ArrowRight: () => charts.value[active.value]?.scroll(SCROLL_BARS),
  ArrowUp: () => charts.value[active.value]?.zoom(1 / ZOOM),
  ArrowDown: () => charts.value[active.value]?.zoom(ZOOM),
  End: () => charts.value[active.value]?.toNewest(),
  Escape: () => {
    isMeasuring.value = false
    charts.value[active.value]?.select(null)
  },
}

export function listenToKeys(): void {
  addEventListener('keydown', (event) => {
    const { key, ctrlKey, metaKey, altKey, target } = event
    const isTyping = target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement || target instanceof HTMLSelectElement
    if (isTyping || dialog.value !== null) return
    const isSearch = (ctrlKey || metaKey) && key === 'k'
    const action = isSearch ? actions['/'] : ctrlKey || metaKey || altKey ? undefined : actions[key.length === 1 ? key.toLowerCase() : key]
    if (action) {
      event.preventDefault()
      action()
    } else if (/^[1-9]$/.test(key) && !ctrlKey && !metaKey && !altKey) {
      event.preventDefault()
      open('timeframe', key)
    }
  })
}
