// The line at the bottom: the connection, the server's clock, and what the colours of the ribbon mean. Above all: a lost connection.
import { useSignal } from '@preact/signals'
import { useEffect } from 'preact/hooks'
import { connection, marketsError, notice } from '../shared/connection.ts'
import { serverNow } from '../shared/clock.ts'
import { active, layout } from './state.ts'
import { charts, open } from './panes.ts'

const SOURCES = [['LIVE', 'live'], ['CACHE', 'cache'], ['AGGREGATE', 'aggregate'], ['STORE', 'store'], ['PROVIDER', 'provider']] as const
const LOST_AFTER_MS = 600 // a quicker reconnect is not worth a word

export function Lost() {
  const isShown = useSignal(false)
  const since = useSignal(0)
  const isLost = connection.value === 'lost'
  useEffect(() => {
    if (!isLost) {
      isShown.value = false
      return
    }
    since.value = serverNow.peek()
    const timer = setTimeout(() => { isShown.value = true }, LOST_AFTER_MS)
    return () => clearTimeout(timer)
  }, [isLost])
  if (!isShown.value) return null
  const seconds = Math.max(1, Math.round((serverNow.value - since.value) / 1_000))
  return (
    <div class="lost-banner" role="alert">
      <span class="dot" /> Connection lost {seconds} s ago. Trying again; nothing will be missing.
    </div>
  )
}

export function Status() {
  const state = connection.value
  const timeline = charts.value[active.value]?.timeline.value?.of
  const words = { idle: 'connecting', connecting: 'connecting', connected: 'live', lost: 'connection lost' }[state]
  const time = new Intl.DateTimeFormat('en-GB', { timeZone: layout.value.zone, timeStyle: 'medium' }).format(serverNow.value)
  return (
    <footer class="status">
      <span class={`connection ${state}`} role="status"><span class="dot" />{words}</span>
      <span class="muted" title={`Time in ${layout.value.zone}, by the server's clock`}>{time}</span>
      <span class="sources" aria-label="The ribbon below the candles: where each part came from">
        {SOURCES.map(([source, name]) => (
          <span key={source} class={timeline?.sources.some((one) => one.source === source) ? `source ${name}` : `source ${name} unused`}><i />{name}</span>
        ))}
      </span>
      <span class="spring" />
      {(notice.value ?? marketsError.value) && <span class="notice" role="status">{notice.value ?? marketsError.value?.message}</span>}
      <button type="button" onClick={() => open('help')} title="Keys (?)">Keys</button>
      <a href="console">Console</a>
      <a href="graphql">GraphQL</a>
    </footer>
  )
}
