// node clients.mjs http://127.0.0.1:8000   the clients that people use, against a real server; one JSON line a check.
import { ApolloClient, gql, HttpLink, InMemoryCache, split } from '@apollo/client'
import { CombinedGraphQLErrors } from '@apollo/client/errors'
import { GraphQLWsLink } from '@apollo/client/link/subscriptions'
import { getMainDefinition } from '@apollo/client/utilities'
import { Client as UrqlClient, fetchExchange, subscriptionExchange } from '@urql/core'
import assert from 'node:assert/strict'
import { createClient as createStreamClient } from 'graphql-sse'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'

globalThis.WebSocket ??= WebSocket // Node 20 has none, and Apollo's link compares with its constants

const address = new URL('/graphql', process.argv[2])
const PATIENCE_MS = 15_000
const HOUR = 3_600_000
const FIVE_MINUTES = 300_000

const HISTORY = `query History($limit: Int) {
  candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", timeframe: "1h", limit: $limit) {
    nodes { timestamp time open high low close volume closed synthetic } complete
  }
}`
const LIVE = `subscription Live($symbol: String!, $timeframe: Timeframe!, $since: Timestamp) {
  candles(market: "demo", provider: "synthetic", symbol: $symbol, timeframe: $timeframe, since: $since) {
    kind seq caughtUp nodes { timestamp open high low close volume closed }
  }
}`
const WRONG_FIELD = 'query Wrong { marketz { id } }'
const WRONG_VALUE = 'query Wrong { candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", limit: 0) { complete } }'
const WRONG_SYNTAX = 'subscription {'

/** A graphql-ws client that keeps its socket until it is disposed of, and a record of every socket and frame of it. */
function connect() {
  const sockets = []
  class Recorded extends WebSocket {
    sent = []
    received = []
    closed = new Promise((resolve) => this.once('close', (code, reason) => resolve({ code, reason: `${reason}` })))

    constructor(...args) {
      super(...args)
      sockets.push(this)
      this.on('message', (data, isBinary) => this.received.push({ isBinary, ...JSON.parse(data) }))
    }

    send(data, ...rest) {
      this.sent.push(JSON.parse(data))
      super.send(data, ...rest)
    }
  }
  const url = address.href.replace(/^http/, 'ws')
  return { sockets, ws: createClient({ url, webSocketImpl: Recorded, lazyCloseTimeout: PATIENCE_MS, retryAttempts: 0 }) }
}

// Each stack is made alike: query(text, variables) resolves to data or rejects with a list of GraphQL errors;
// subscribe(text, variables, sink) calls sink.next(data), sink.error(errors), sink.complete(), and returns the way out.

/** The stack of a client that has nothing but `subscribe`. */
function plain(client) {
  const subscribe = (query, variables, sink) => client.subscribe({ query, variables }, {
    next: ({ data, errors }) => (errors ? sink.error(errors) : sink.next(data)),
    error: sink.error,
    complete: sink.complete,
  })
  const query = (text, variables) => new Promise((resolve, reject) => {
    subscribe(text, variables, { next: resolve, error: reject, complete: () => reject(new Error('no answer')) })
  })
  return { query, subscribe }
}

const stacks = {
  'graphql-ws'({ ws }) {
    return plain(ws)
  },

  // No socket: a request for each operation.
  'graphql-sse'() {
    return plain(createStreamClient({ url: address.href, retryAttempts: 0 }))
  },

  apollo({ ws }) {
    const link = split(
      ({ query }) => getMainDefinition(query).operation === 'subscription',
      new GraphQLWsLink(ws),
      new HttpLink({ uri: address.href }),
    )
    const client = new ApolloClient({ link, cache: new InMemoryCache() })
    const errorsOf = (error) => (CombinedGraphQLErrors.is(error) ? error.errors : [error])
    return {
      async query(text, variables) {
        try {
          return (await client.query({ query: gql(text), variables })).data
        } catch (error) {
          throw errorsOf(error)
        }
      },
      subscribe(text, variables, sink) {
        const subscription = client.subscribe({ query: gql(text), variables }).subscribe({
          next: ({ data, error }) => (error ? sink.error(errorsOf(error)) : sink.next(data)),
          error: sink.error,
          complete: sink.complete,
        })
        return () => subscription.unsubscribe()
      },
    }
  },

  urql({ ws }) {
    const forwardSubscription = ({ query, variables }) => ({
      subscribe: (sink) => ({ unsubscribe: ws.subscribe({ query, variables }, sink) }),
    })
    const client = new UrqlClient({
      url: address.href,
      preferGetMethod: false,
      exchanges: [fetchExchange, subscriptionExchange({ forwardSubscription })],
    })
    const errorsOf = ({ networkError, graphQLErrors }) => (networkError ? [networkError].flat() : graphQLErrors)
    return {
      async query(text, variables) {
        const { data, error } = await client.query(text, variables)
        if (error) throw errorsOf(error)
        return data
      },
      subscribe(text, variables, sink) {
        const { unsubscribe } = client.subscription(text, variables).subscribe(({ data, error }) => {
          if (error) sink.error(errorsOf(error))
          else sink.next(data)
        })
        return unsubscribe
      },
    }
  },
}

/** What a subscription says, awaited one by one. */
class Listening {
  events = []
  errors = undefined
  completed = false
  #wake = () => {}

  constructor(stack, variables, text = LIVE) {
    this.stop = stack.subscribe(text, variables, {
      next: ({ candles }) => this.#note(() => this.events.push(candles)),
      error: (errors) => this.#note(() => { this.errors = errors }),
      complete: () => this.#note(() => { this.completed = true }),
    })
  }

  #note(change) {
    change()
    this.#wake()
  }

  async until(what) {
    await within(async () => {
      while (!what(this)) await new Promise((resolve) => { this.#wake = resolve })
    }, () => `waited for ${what}, had ${JSON.stringify(this.events).slice(-500)} ${JSON.stringify(this.errors)}`)
    return this
  }

  updates(count) {
    return this.until(({ events, errors }) => errors || updatesOf(events).length >= count)
  }
}

const updatesOf = (events) => events.filter(({ kind }) => kind === 'UPDATE')

async function within(work, explain) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${explain()} within ${PATIENCE_MS} ms`)), PATIENCE_MS)
  })
  try {
    return await Promise.race([work(), late])
  } finally {
    clearTimeout(timer)
  }
}

async function codesOf(promise) {
  try {
    await within(() => promise, () => 'no answer')
  } catch (errors) {
    if (Array.isArray(errors)) return errors.map((error) => error.extensions?.code)
    throw errors
  }
  return 'no error'
}

/** A round trip on the socket itself: what the server sent before is here, every command before it is done. */
async function roundTrip(socket) {
  const pongs = () => socket.received.filter(({ type }) => type === 'pong').length
  const before = pongs()
  socket.send(JSON.stringify({ type: 'ping' }))
  await within(async () => {
    while (pongs() === before) await new Promise((resolve) => setTimeout(resolve, 5))
  }, () => 'no pong')
}

function ascends(nodes, step) {
  nodes.slice(1).forEach(({ timestamp }, at) => assert.equal(timestamp - nodes[at].timestamp, step))
}

function isCandle({ open, high, low, close, volume }) {
  assert.ok(low <= Math.min(open, close) && high >= Math.max(open, close) && low > 0 && volume >= 0)
}

/** What is left says nothing any more; that the server let go of it, the server's own tests know. */
async function leavesItsStream({ stack }, left) {
  left.stop()
  const seen = left.events.length
  const other = await new Listening(stack, { symbol: 'BTC/USD', timeframe: '1m' }).updates(2)
  other.stop()
  assert.equal(left.events.length, seen, 'heard from after leaving')
  assert.equal(left.errors, undefined)
}

const checks = {
  async 'history: 24 hourly candles, ascending, unique, the last one open'({ stack }) {
    const { candles } = await within(() => stack.query(HISTORY, { limit: 24 }), () => 'no answer')
    assert.equal(candles.nodes.length, 24)
    ascends(candles.nodes, HOUR)
    candles.nodes.forEach(isCandle)
    assert.deepEqual(candles.nodes.map(({ closed }) => closed), [...Array(23).fill(true), false])
    assert.ok(candles.nodes.every(({ timestamp, time }) => Date.parse(time) === timestamp))
    assert.equal(candles.complete, true)
  },

  async 'live: history since two hours ago, caughtUp once, then updates without a seam'({ stack }) {
    const since = Date.now() - 2 * HOUR
    const { events, errors, stop } = await new Listening(stack, { symbol: 'BTC/USD', timeframe: '5m', since }).updates(3)
    stop()
    assert.equal(errors, undefined)
    const last = events.findIndex(({ caughtUp }) => caughtUp)
    const snapshots = events.slice(0, last + 1)
    assert.ok(last >= 0 && snapshots.every(({ kind }) => kind === 'SNAPSHOT'))
    assert.ok(events.slice(last + 1).every(({ kind, caughtUp }) => kind !== 'SNAPSHOT' && !caughtUp))
    const history = snapshots.flatMap(({ nodes }) => nodes)
    assert.equal(history[0].timestamp, Math.ceil(since / FIVE_MINUTES) * FIVE_MINUTES)
    assert.ok(history.slice(0, -1).every(({ closed }) => closed))
    ascends(history, FIVE_MINUTES)
    let open = history.at(-1).timestamp
    for (const { kind, nodes } of events.slice(last + 1)) {
      nodes.forEach(isCandle)
      assert.equal(nodes.at(-1).closed, kind !== 'UPDATE')
      assert.ok([open, open + FIVE_MINUTES].includes(nodes[0].timestamp), 'a candle is missing')
      open = nodes.at(-1).timestamp
    }
  },

  async 'leaving: complete is sent, nothing follows it, and the socket closes with 1000'(own) {
    const left = await new Listening(own.stack, { symbol: 'BTC/USD', timeframe: '1m' }).updates(1)
    if (!own.sockets) return leavesItsStream(own, left)
    const [socket] = own.sockets
    const { id } = socket.sent.findLast(({ type }) => type === 'subscribe')
    left.stop()
    await within(async () => {
      while (!socket.sent.some((message) => message.type === 'complete' && message.id === id)) await roundTrip(socket)
    }, () => 'complete was not sent')
    await roundTrip(socket)
    const seen = socket.received.length
    const other = await new Listening(own.stack, { symbol: 'BTC/USD', timeframe: '1m' }).updates(2)
    other.stop()
    assert.ok(socket.received.slice(seen).every((message) => message.id !== id), 'heard from after leaving')
    assert.equal(left.errors, undefined)
    await own.ws.dispose()
    assert.equal((await within(() => socket.closed, () => 'not closed')).code, 1000)
    assert.equal(own.sockets.length, 1)
  },

  async 'unknown symbol: NOT_FOUND, and the socket serves on'({ stack, sockets }) {
    const good = await new Listening(stack, { symbol: 'ETH/USD', timeframe: '1m' }).updates(1)
    const bad = await new Listening(stack, { symbol: 'NO/SUCH', timeframe: '1m' }).until(({ errors }) => errors)
    assert.deepEqual(bad.errors.map(({ extensions }) => extensions?.code), ['NOT_FOUND'])
    assert.match(bad.errors[0].message, /NO\/SUCH/)
    await good.updates(updatesOf(good.events).length + 2)
    const next = await new Listening(stack, { symbol: 'ETH/USD', timeframe: '1m' }).updates(1)
    for (const one of [good, next]) {
      assert.equal(one.errors, undefined)
      one.stop()
    }
    assert.equal(sockets?.length ?? 1, 1)
  },

  async 'syntax error: it ends its own operation alone'({ stack, sockets, ws }) {
    const good = await new Listening(stack, { symbol: 'ETH/USD', timeframe: '1m' }).updates(1)
    // Apollo and urql parse before they send: what is wrong is put on their socket past them.
    const codes = await codesOf((ws ? plain(ws) : stack).query(WRONG_SYNTAX))
    assert.deepEqual(codes, ['GRAPHQL_PARSE_FAILED'])
    await good.updates(updatesOf(good.events).length + 2)
    assert.equal(good.errors, undefined)
    good.stop()
    assert.equal(sockets?.length ?? 1, 1)
  },

  async 'parallel: six subscriptions share one socket, each with its own candles'({ stack, sockets }) {
    const asked = ['BTC/USD', 'ETH/USD'].flatMap((symbol) => ['1m', '5m', '1h'].map((timeframe) => ({ symbol, timeframe })))
    const all = await Promise.all(asked.map((variables) => new Listening(stack, variables).updates(2)))
    const price = (one) => one.events.at(-1).nodes.at(-1).close
    all.forEach((one) => assert.equal(one.errors, undefined))
    all.slice(0, 3).forEach((one, at) => assert.ok(price(one) / price(all[at + 3]) > 2, 'Bitcoin at the price of Ether'))
    all.forEach((one) => one.stop())
    assert.equal(sockets?.length ?? 1, 1)
    assert.ok(sockets?.[0].received.every(({ isBinary }) => !isBinary) ?? true, 'a binary frame')
  },

  async 'codes: the errors of queries and subscriptions carry theirs'({ stack }) {
    assert.deepEqual(await codesOf(stack.query(WRONG_FIELD)), ['GRAPHQL_VALIDATION_FAILED'])
    assert.deepEqual(await codesOf(stack.query(WRONG_VALUE)), ['BAD_USER_INPUT'])
    assert.deepEqual(await codesOf(stack.query(HISTORY, { limit: 'many' })), ['BAD_USER_INPUT'])
    const wrong = await new Listening(stack, {}, 'subscription { candlez { kind } }').until(({ errors }) => errors)
    assert.deepEqual(wrong.errors.map(({ extensions }) => extensions?.code), ['GRAPHQL_VALIDATION_FAILED'])
  },
}

async function check(client, name, run) {
  const began = performance.now()
  const connection = client === 'graphql-sse' ? {} : connect()
  let problem
  try {
    await run({ ...connection, stack: stacks[client](connection) })
  } catch (error) {
    problem = error instanceof Error ? error.stack : JSON.stringify(error)
  }
  await connection.ws?.dispose()
  connection.sockets?.forEach((socket) => socket.terminate())
  const seconds = Math.round(performance.now() - began) / 1000
  console.log(JSON.stringify({ check: `${client}: ${name}`, ok: problem === undefined, seconds, problem }))
  return problem === undefined
}

process.on('unhandledRejection', (error) => { // a client's own promise: it is a failure too
  console.error(error)
  process.exitCode = 1
})
const passed = await Promise.all(
  Object.keys(stacks).flatMap((client) => Object.entries(checks).map(([name, run]) => check(client, name, run))),
)
process.exit(passed.every(Boolean) ? process.exitCode : 1) // at once: the clients' timers are still running
