// The bar at the top: symbol, timeframe, zone, layout, tools, account.
import { account, signOut } from '../session.ts'
import { say } from '../shared/connection.ts'
import { Icon } from '../shared/icons.tsx'
import { charts, isMeasuring, isWatchlistOpen, open } from './panes.ts'
import { active, activeView, change, layout, linkTo, setChartCount, show, type Theme } from './state.ts'

export const TIMEFRAMES = ['1m', '5m', '15m', '1h', '4h', '1d', '1w'] as const
const LAYOUTS = [[1, 'one'], [2, 'two'], [4, 'four']] as const
const THEMES: Readonly<Record<Theme, { next: Theme; title: string }>> = {
  system: { next: 'dark', title: 'Colours of the system' },
  dark: { next: 'light', title: 'Dark' },
  light: { next: 'system', title: 'Light' },
}

export async function saveSnapshot(): Promise<void> {
  const chart = charts.value[active.value]
  const blob = await chart?.snapshot()
  if (!chart || !blob) return
  const { symbol, timeframe } = chart.view
  const anchor = document.createElement('a')
  anchor.href = URL.createObjectURL(blob)
  anchor.download = `${symbol}-${timeframe}.png`.replaceAll('/', '-')
  anchor.click()
  setTimeout(() => { URL.revokeObjectURL(anchor.href) }, 10_000)
}

export async function copyLink(): Promise<void> {
  const url = linkTo(charts.value[0]?.visible() ?? null)
  history.replaceState(null, '', url)
  try {
    await navigator.clipboard.writeText(url)
    say('The link to this view is copied.')
  } catch {
    say('The link to this view is in the address bar.')
  }
}

export function Toolbar() {
  const { symbol, timeframe } = activeView.value
  const { zone, theme } = layout.value
  const isOther = !TIMEFRAMES.some((one) => one === timeframe)
  return (
    <header class="toolbar" aria-label="Chart">
      <a class="brand" href="./" aria-label="Candlegraph"><img src="static/favicon.svg" alt="" width="22" height="22" /><span>Candlegraph</span></a>
      <button type="button" class="symbol" onClick={() => open('search')} title="Find a symbol (/)" aria-keyshortcuts="/"><b>{symbol}</b><kbd>/</kbd></button>
      <div class="segmented" role="group" aria-label="Timeframe">
        {TIMEFRAMES.map((one) => (
          <button key={one} type="button" aria-pressed={one === timeframe} onClick={() => show({ timeframe: one })}>{one}</button>
        ))}
        <button type="button" aria-pressed={isOther} onClick={() => open('timeframe')} title="Another timeframe (T)">{isOther ? timeframe : '…'}</button>
      </div>
      <button type="button" class="zone" onClick={() => open('zone')} title="Time zone (Z)">{zone.split('/').at(-1)?.replaceAll('_', ' ')}</button>
      <span class="spring" />
      <div class="segmented layouts" role="group" aria-label="Charts">
        {LAYOUTS.map(([count, name]) => (
          <button key={count} type="button" aria-pressed={layout.value.charts.length === count} aria-label={`${count} ${count === 1 ? 'chart' : 'charts'}`} onClick={() => setChartCount(count)}><Icon name={name} /></button>
        ))}
      </div>
      <div class="tools">
        <button type="button" aria-pressed={isMeasuring.value} onClick={() => { isMeasuring.value = !isMeasuring.value }} title="Measure (M)" aria-label="Measure"><Icon name="measure" /></button>
        <button type="button" onClick={() => void saveSnapshot()} title="Save a picture (S)" aria-label="Save a picture"><Icon name="picture" /></button>
        <button type="button" onClick={() => void copyLink()} title="Copy a link to this view (L)" aria-label="Copy a link to this view"><Icon name="link" /></button>
      </div>
      <button type="button" class="theme" onClick={() => change({ theme: THEMES[theme].next })} title={THEMES[theme].title} aria-label={`Theme: ${THEMES[theme].title}`}><Icon name={theme} /></button>
      <button type="button" class="only-phone" onClick={() => { isWatchlistOpen.value = true }} aria-label="Watchlist"><Icon name="list" /></button>
      <Account />
    </header>
  )
}

function Account() {
  const user = account.value
  if (!user) return <button type="button" class="account" onClick={() => open('sign-in')}>Sign in</button>
  return (
    <span class="account"><span class="muted" title={user.roles.join(', ').toLowerCase()}>{user.username}</span> <button type="button" onClick={() => void signOut()}>Sign out</button></span>
  )
}
