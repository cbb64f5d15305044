// A graphql-ws client that reconnects without end, and continues each subscription after its last closed candle.
import { createClient } from 'graphql-ws'

const MAX_WAIT_MS = 5_000
const PONG_TIMEOUT_MS = 10_000

/** Connect to an address such as `ws://127.0.0.1:8000/graphql`; `options` are those of graphql-ws. */
export function connect(url, options) {
  let timer
  const client = createClient({
    url,
    shouldRetry: () => true, // by default a connection that failed is final
    retryAttempts: Infinity,
    retryWait: (retries) => new Promise((resolve) => setTimeout(resolve, backoff(retries))),
    keepAlive: 10_000, // finds a network that vanished without closing the connection
    on: {
      ping: (received) => { if (!received) timer = setTimeout(() => client.terminate(), PONG_TIMEOUT_MS) },
      pong: (received) => { if (received) clearTimeout(timer) },
      closed: () => clearTimeout(timer),
    },
    ...options,
  })
  return resuming(client)
}

/** How long to wait before a try (ms): doubled each time, capped, with jitter. */
export function backoff(retries) {
  return Math.min(1_000 * 2 ** retries, MAX_WAIT_MS) * (0.5 + Math.random() / 2)
}

/**
 * A client whose subscriptions renew their variables: `since` of `candles`, and each `since` of `series` for `candlesMany`.
 * The operation takes them from the variables `$since` and `$series`, and selects `kind seq caughtUp resyncFrom nodes { timestamp closed }`.
 * A candle that comes once more is in an event of its own, a CORRECTION.
 */
export function resuming(client) {
  return { ...client, subscribe: (payload, sink) => subscribe(client, payload, sink) }
}

function subscribe(client, payload, sink) {
  const variables = structuredClone(payload.variables)
  const states = new Map() // of each series
  let run = 0
  let stop
  let timer

  function start() {
    const mine = ++run // what an earlier run still says does not count
    const current = (act) => (value) => { if (mine === run) act(value) }
    // graphql-ws sends the payload anew whenever it reconnects, with what the variables hold by then.
    stop = client.subscribe({ ...payload, variables }, {
      next: current(next), error: current(error), complete: current(() => sink.complete()),
    })
  }

  function restart(series, since) {
    series.since = since
    stop()
    start()
  }

  function next(result) {
    const { candles, candlesMany } = result.data ?? {}
    const event = candles ?? candlesMany?.event
    if (!event) return sink.next(result)
    const series = candles ? variables : variables.series.find((one) => isOf(one, candlesMany))
    if (event.kind === 'RESYNC') return restart(series, event.resyncFrom)
    if (!states.has(series)) states.set(series, { since: series.since ?? event.nodes[0]?.timestamp, closed: -Infinity, counted: 0 })
    const state = states.get(series)
    const pass = (fields) => {
      const passed = { ...event, ...fields }
      sink.next({ ...result, data: candles ? { candles: passed } : { candlesMany: { ...candlesMany, event: passed } } })
    }
    const isAgain = ({ timestamp }) => event.kind === 'SNAPSHOT' && timestamp <= state.closed
    const again = event.nodes.filter(isAgain) // they may have changed
    if (again.length) pass({ kind: 'CORRECTION', caughtUp: false, nodes: again })
    const fresh = event.nodes.filter((node) => !isAgain(node))
    pass({ nodes: fresh })
    renew(series, state, event, fresh.filter(({ closed }) => closed))
  }

  /** Move `since` to the last closed candle; read all again where `seq` says that a correction was missed. */
  function renew(series, state, { kind, seq, caughtUp }, closed) {
    state.counted += closed.length
    state.closed = Math.max(state.closed, ...closed.map(({ timestamp }) => timestamp))
    series.since = state.closed > -Infinity ? state.closed : state.since
    if (kind === 'SNAPSHOT' && !caughtUp) return
    const missed = caughtUp && seq > state.seq + state.counted
    Object.assign(state, { seq, counted: 0 })
    if (missed) restart(series, state.since)
  }

  function error(errors) {
    const retryAfter = Array.isArray(errors) && errors[0].extensions?.retryAfter
    if (retryAfter) timer = setTimeout(start, retryAfter * 1_000)
    else sink.error(errors)
  }

  start()
  return () => {
    run++
    clearTimeout(timer)
    stop()
  }
}

function isOf(one, { market, symbol, timeframe, provider }) {
  return one.symbol === symbol && one.timeframe === timeframe && one.market === market
    && (one.provider === provider || one.provider === `${market}/${provider}`)
}
