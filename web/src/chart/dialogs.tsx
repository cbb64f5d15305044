// The small dialogs: timeframe, time zone, sign-in, help.
import { useSignal } from '@preact/signals'
import { CandlegraphError } from '@candlegraph/client'
import { signIn } from '../session.ts'
import { Modal } from './modal.tsx'
import { dialog, open, typed } from './panes.ts'
import { Search } from './search.tsx'
import { change, isTimeframe, isZone, show } from './state.ts'

const close = (): void => open(null)

export function Dialogs() {
  switch (dialog.value) {
    case 'search': return <Search />
    case 'timeframe': return <TimeframeDialog />
    case 'zone': return <ZoneDialog />
    case 'sign-in': return <SignInDialog />
    case 'help': return <HelpDialog />
    case null: return null
  }
}

function TimeframeDialog() {
  const text = useSignal(typed.value)
  const isValid = isTimeframe(text.value)
  const submit = (event: Event): void => {
    event.preventDefault()
    if (!isValid) return
    show({ timeframe: text.value })
    close()
  }
  return (
    <Modal title="Timeframe" className="small" onClose={close}>
      <form onSubmit={submit}>
        <h2>Timeframe</h2>
        <input autofocus aria-label="Timeframe" placeholder="7m, 45m, 2h, 3d, 6mon" value={text.value} aria-invalid={text.value !== '' && !isValid} onInput={({ currentTarget }) => { text.value = currentTarget.value.trim() }} />
        <p class="muted">A count and m, h, d, w, mon or y; any count up to ten years.</p>
        <button class="primary" disabled={!isValid}>Show {isValid ? text.value : ''}</button>
      </form>
    </Modal>
  )
}

function ZoneDialog() {
  const text = useSignal('')
  const own = Intl.DateTimeFormat().resolvedOptions().timeZone
  const zones = ['UTC', own, ...Intl.supportedValuesOf('timeZone')]
  const found = [...new Set(zones)].filter((zone) => zone.toLowerCase().replaceAll('_', ' ').includes(text.value.toLowerCase())).slice(0, 60)
  const choose = (zone: string | undefined): void => {
    if (!isZone(zone)) return
    change({ zone })
    close()
  }
  return (
    <Modal title="Time zone" className="small" onClose={close}>
      <form onSubmit={(event) => { event.preventDefault(); choose(found[0]) }}>
        <h2>Time zone</h2>
        <input autofocus type="search" aria-label="Time zone" placeholder="Berlin, New York, UTC" value={text.value} onInput={({ currentTarget }) => { text.value = currentTarget.value }} />
        <ul class="zones">{found.map((zone) => <li key={zone}><button type="button" onClick={() => choose(zone)}>{zone.replaceAll('_', ' ')}</button></li>)}</ul>
      </form>
    </Modal>
  )
}

function SignInDialog() {
  const error = useSignal<CandlegraphError | null>(null)
  const isBusy = useSignal(false)
  const submit = async (event: SubmitEvent): Promise<void> => {
    event.preventDefault()
    const data = new FormData(event.currentTarget as HTMLFormElement)
    const textOf = (name: string): string => data.get(name) as string
    isBusy.value = true
    try {
      await signIn(textOf('username'), textOf('password'))
      close()
    } catch (problem) {
      if (!(problem instanceof CandlegraphError)) throw problem
      error.value = problem
    } finally {
      isBusy.value = false
    }
  }
  return (
    <Modal title="Sign in" className="small" onClose={close}>
      <form onSubmit={(event) => void submit(event)}>
        <h2>Sign in</h2>
        <label>Name <input name="username" autofocus required autocomplete="username" /></label>
        <label>Password <input name="password" type="password" required autocomplete="current-password" /></label>
        {error.value && <p class="problem" role="alert">{error.value.message} <code>{error.value.code}</code></p>}
        <button class="primary" disabled={isBusy.value}>Sign in</button>
        <p class="muted">The server's administrator makes accounts, by <code>candlegraph user add</code>.</p>
      </form>
    </Modal>
  )
}

const KEYS = [
  ['/', 'find a symbol; Shift-Enter there watches it'], ['1 … 9', 'type a timeframe'], ['T', 'timeframe'], ['Z', 'time zone'], ['← →', 'scroll'], ['↑ ↓', 'zoom'],
  ['End', 'the newest candle'], ['G', 'the next gap, with its reason'], ['M', 'measure: drag, or ← → (Shift: ten candles), Enter starts anew'], ['S', 'save a picture'], ['L', 'copy a link to the view'],
  ['W', 'watchlist'], ['Tab', 'the next chart'], ['Esc', 'close'],
] as const

function HelpDialog() {
  return (
    <Modal title="Keys" className="small" onClose={close}>
      <h2>Keys</h2>
      <dl class="keys">{KEYS.map(([key, action]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{action}</dd></div>)}</dl>
      <p class="muted">Charts by <a href="https://www.tradingview.com/" rel="noreferrer noopener" target="_blank">TradingView Lightweight Charts™</a>, Copyright © 2025 TradingView, Inc. <a href="static/third-party.txt">All licences</a></p>
      <button type="button" class="primary" autofocus onClick={close}>Close</button>
    </Modal>
  )
}
