// node fanout.mjs   The same subscription on graphql-ws, ws and graphql-js, as their documentation puts them together; prints its
// port. The packages are those of tests/clients.
import { createServer } from 'node:http'
import { createRequire } from 'node:module'

const require = createRequire(new URL('../tests/clients/package.json', import.meta.url))
const { buildSchema } = require('graphql')
const { useServer } = require('graphql-ws/use/ws')
const { WebSocketServer } = require('ws')

const schema = buildSchema(`
  scalar Timestamp
  scalar Timeframe
  type Query { ok: Boolean }
  type Subscription { candles(market: ID!, provider: ID!, symbol: String!, timeframe: Timeframe! = "1m", since: Timestamp): CandleEvent! }
  type CandleEvent { kind: Kind!  seq: Int!  nodes: [Candle!]!  caughtUp: Boolean!  resyncFrom: Timestamp }
  enum Kind { SNAPSHOT CLOSE }
  type Candle { timestamp: Timestamp!  open: Float!  high: Float!  low: Float!  close: Float!  volume: Float!  closed: Boolean! }
`)
const listeners = new Set()
let seq = 0

async function* candles() {
  const queue = []
  let wake
  const listener = (event) => { queue.push(event); wake?.() }
  listeners.add(listener)
  try {
    yield { candles: { kind: 'SNAPSHOT', seq, nodes: [], caughtUp: true } }
    for (;;) {
      while (queue.length) yield { candles: queue.shift() }
      await new Promise((resolve) => { wake = resolve })
    }
  } finally {
    listeners.delete(listener)
  }
}
schema.getSubscriptionType().getFields().candles.subscribe = candles

const server = createServer((request, response) => {
  for (let left = Number(new URL(request.url, 'http://x').searchParams.get('events')); left > 0; left--) {
    seq++
    const timestamp = 1_700_000_040_000 + seq * 60_000
    const nodes = [{ timestamp, open: 30_000.5, high: 30_003, low: 29_997, close: 30_001, volume: 1.25, closed: true }]
    const event = { kind: 'CLOSE', seq, nodes, caughtUp: false }
    for (const listener of listeners) listener(event)
  }
  response.end()
})
useServer({ schema }, new WebSocketServer({ server, path: '/graphql' }))
server.listen(0, '127.0.0.1', () => console.log(server.address().port))
