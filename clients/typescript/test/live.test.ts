import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { type Candle, LiveCandles, LiveCandlesMany, resumingSubscription } from '@candlegraph/client'
import WebSocket from 'ws'
import { Cable } from './cable.js'
import { BTC, eventually, MINUTE_MS, Server } from './server.js'

const CUTS = 20
const ETH = { ...BTC, symbol: 'ETH/USD' }
const CORRECTION = 2
const fast = new Server('fast')
const cable = await new Cable(fast.endpoint).mend()
const resumed: number[] = [] // the `since` of each subscription that has been sent

class Recorded extends WebSocket {
  override send(data: string): void {
    const { payload } = JSON.parse(data) as { payload?: { variables?: { since?: number } } }
    if (payload?.variables?.since) resumed.push(payload.variables.since)
    super.send(data)
  }
}

const client = fast.client(cable.endpoint, { webSocketImpl: Recorded })
after(async () => {
  client.dispose()
  await cable.cut({ down: true })
})

/** What came, in its order: the closed candles and the corrections. */
class Listener {
  readonly closed: Candle[] = []
  readonly corrected: Candle[] = []

  take(kind: string, nodes: readonly Candle[]): void {
    const closed = nodes.filter((node) => node.closed)
    if (kind === 'CORRECTION') this.corrected.push(...closed)
    else this.closed.push(...closed)
  }

  get last(): number {
    return this.closed.at(-1)?.timestamp ?? 0
  }
}

function fail(error: Error): void {
  throw error
}

test('twenty cuts: no closed candle is missing, none comes twice, and a missed correction comes', async () => {
  const since = (await fast.newest()).timestamp - 5 * MINUTE_MS
  const [one, many, other] = [new Listener(), new Listener(), new Listener()]
  const stops = [
    resumingSubscription(client, LiveCandles, { ...BTC, since, closedOnly: false }, {
      next: ({ candles: { kind, nodes } }) => { one.take(kind, nodes) }, error: fail,
    }),
    resumingSubscription(client, LiveCandlesMany, { series: [{ ...BTC, since }, { ...ETH, timeframe: '1m', since }], closedOnly: true }, {
      next({ candlesMany: { symbol, event } }) {
        if (event) (symbol === BTC.symbol ? many : other).take(event.kind, event.nodes)
      },
      error: fail,
    }),
  ]
  const listeners = [one, many, other]
  await eventually(() => listeners.every(({ last }) => last > 0))
  for (let i = 0; i < CUTS; i++) {
    const before = listeners.map(({ last }) => last)
    const down = i === CUTS / 2 // once, candles close and one is corrected meanwhile
    await cable.cut({ down })
    if (down) {
      await fast.store(BTC, [[since, 1, 3, 1, CORRECTION, 7]])
      const { timestamp } = await fast.newest()
      await eventually(async () => (await fast.newest()).timestamp > timestamp)
      await cable.mend()
    }
    await eventually(() => listeners.every(({ last }, at) => last > (before[at] ?? 0)))
  }
  await eventually(() => [one, many].every(({ corrected }) => corrected.length > 0))
  for (const stop of stops) stop()

  for (const [listener, series] of [[one, BTC], [many, BTC], [other, ETH]] as const) {
    const truth = await fast.closed(series, since, listener.last + 1)
    assert.deepEqual(listener.closed.slice(1), truth.slice(1))
    assert.equal(listener.closed[0]?.timestamp, since)
  }
  for (const { corrected } of [one, many]) {
    assert.deepEqual(corrected.map(({ timestamp, close }) => [timestamp, close]), [[since, CORRECTION]])
  }
  assert.deepEqual(other.corrected, [])
  assert.ok(cable.connections > CUTS)
  assert.ok(Math.max(...resumed) >= one.last - 5 * MINUTE_MS, 'the last subscription repeats the whole history')
})

test('a history of several snapshots comes once, and without `since` the first candle is the forming one', async () => {
  const newest = await fast.newest(ETH)
  const since = newest.timestamp - 2_500 * MINUTE_MS
  const [long, short] = [new Listener(), new Listener()]
  const first: Candle[] = []
  const stops = [
    resumingSubscription(client, LiveCandles, { ...ETH, since, closedOnly: false }, {
      next: ({ candles: { kind, nodes } }) => { long.take(kind, nodes) }, error: fail,
    }),
    resumingSubscription(client, LiveCandles, { ...ETH, closedOnly: false }, {
      next({ candles: { kind, nodes } }) { first.push(...nodes); short.take(kind, nodes) }, error: fail,
    }),
  ]
  await eventually(() => long.closed.length > 1)
  await cable.cut() // within the snapshots, or just behind them
  await eventually(() => long.last > newest.timestamp && short.closed.length > 2)
  for (const stop of stops) stop()
  assert.deepEqual(long.closed, await fast.closed(ETH, since, long.last + 1))
  assert.equal(first[0]?.closed, false)
  assert.deepEqual(short.closed, await fast.closed(ETH, short.closed[0]?.timestamp ?? 0, short.last + 1))
})

test('a series that does not exist ends with its error, and the others continue', async () => {
  const seen = new Listener()
  const errors: [string, string | undefined][] = []
  const series = [{ ...BTC, symbol: 'NO/SUCH' }, BTC]
  const stop = resumingSubscription(client, LiveCandlesMany, { series, closedOnly: false }, {
    next: ({ candlesMany: { event } }) => { if (event) seen.take(event.kind, event.nodes) },
    error: ({ code }, one) => { errors.push([code, one?.symbol]) },
  })
  await eventually(() => seen.closed.length > 0)
  await cable.cut()
  const count = seen.closed.length
  await eventually(() => seen.closed.length > count)
  stop()
  assert.deepEqual(errors, [['NOT_FOUND', 'NO/SUCH']])
})

test('the state says that the connection is lost, and that it is back', async () => {
  const states: string[] = []
  const off = client.onState((state) => states.push(state))
  const stop = resumingSubscription(client, LiveCandles, { ...BTC, closedOnly: false }, { next: () => undefined, error: fail })
  await eventually(() => client.state === 'connected')
  await cable.cut({ down: true })
  await eventually(() => client.state === 'lost')
  await cable.mend()
  await eventually(() => client.state === 'connected')
  stop()
  off()
  assert.deepEqual(states.slice(-2), ['lost', 'connected'])
})
