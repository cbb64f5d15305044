// node apollo_http.mjs http://127.0.0.1:8000   Apollo's own protocols beside GraphQL over HTTP; one JSON line a check.
import { ApolloClient, ApolloLink, gql, HttpLink, InMemoryCache } from '@apollo/client'
import { CombinedGraphQLErrors } from '@apollo/client/errors'
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries'
import { GraphQLWsLink } from '@apollo/client/link/subscriptions'
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { createClient } from 'graphql-ws'
import WebSocket from 'ws'

globalThis.WebSocket ??= WebSocket

const uri = new URL('/graphql', process.argv[2]).href
const sha256 = (text) => createHash('sha256').update(text).digest('hex')
const history = (name) => gql`query ${name}($limit: Int) {
  candles(market: "demo", provider: "synthetic", symbol: "BTC/USD", timeframe: "1h", limit: $limit) { nodes { timestamp close } }
}`
const live = (name, symbol = 'BTC/USD') => gql`subscription ${name} {
  candles(market: "demo", provider: "synthetic", symbol: "${symbol}", timeframe: "1m") { kind nodes { timestamp close } }
}`

/** An HttpLink, and a record of the requests it has made. */
function recorded() {
  const requests = []
  const link = new HttpLink({
    uri,
    fetch: async (url, options) => {
      const { searchParams } = new URL(url)
      const hasQuery = options.method === 'GET' ? searchParams.has('query') : 'query' in JSON.parse(options.body)
      const response = await fetch(url, options)
      requests.push({ method: options.method, hasQuery, status: response.status, type: response.headers.get('content-type') })
      return response
    },
  })
  return { link, requests }
}

const clientOf = (link) => new ApolloClient({ link, cache: new InMemoryCache() })

/** The first payloads of a subscription. */
function listen(client, query, count) {
  const found = []
  return new Promise((resolve, reject) => {
    const subscription = client.subscribe({ query }).subscribe({
      next: ({ data, error }) => {
        if (error) reject(error)
        else if (found.push(data.candles) === count) {
          subscription.unsubscribe()
          resolve(found)
        }
      },
      error: reject,
      complete: () => reject(new Error(`completed after ${found.length}`)),
    })
  })
}

async function persisted(options, name) {
  const { link, requests } = recorded()
  const query = history(name)
  for (const limit of [2, 3]) {
    // A client of its own each time: what one has learnt, another does not know.
    const client = clientOf(ApolloLink.from([new PersistedQueryLink({ sha256, ...options }), link]))
    const { data } = await client.query({ query, variables: { limit } })
    assert.equal(data.candles.nodes.length, limit)
  }
  return requests.map(({ method, hasQuery, status }) => `${method} ${hasQuery} ${status}`)
}

const checks = {
  async 'persisted: the hash, then the document, then the hash alone'() {
    assert.deepEqual(await persisted({}, 'A'), ['POST false 200', 'POST true 200', 'POST false 200'])
  },

  async 'persisted: hashes by GET'() {
    assert.deepEqual(await persisted({ useGETForHashedQueries: true }, 'B'), ['GET false 200', 'POST true 200', 'GET false 200'])
  },

  async 'persisted: over a WebSocket, and by its hash elsewhere'() {
    const ws = createClient({ url: uri.replace(/^http/, 'ws'), webSocketImpl: WebSocket, retryAttempts: 0 })
    const query = history('C')
    const { data } = await clientOf(ApolloLink.from([new PersistedQueryLink({ sha256 }), new GraphQLWsLink(ws)]))
      .query({ query, variables: { limit: 2 } })
    assert.equal(data.candles.nodes.length, 2)
    await ws.dispose()
    const { link, requests } = recorded()
    await clientOf(ApolloLink.from([new PersistedQueryLink({ sha256 }), link])).query({ query, variables: { limit: 2 } })
    assert.deepEqual(requests.map(({ hasQuery }) => hasQuery), [false])
  },

  async 'multipart: live candles through HttpLink'() {
    const { link, requests } = recorded()
    const events = await listen(clientOf(link), live('Live'), 4)
    assert.equal(events[0].kind, 'SNAPSHOT')
    assert.ok(events.slice(1).every(({ kind, nodes }) => ['UPDATE', 'CLOSE'].includes(kind) && nodes.length > 0))
    assert.match(requests[0].type, /^multipart\/mixed;/)
  },

  async 'multipart: a persisted subscription'() {
    const { link, requests } = recorded()
    for (let times = 0; times < 2; times++) {
      const client = clientOf(ApolloLink.from([new PersistedQueryLink({ sha256 }), link]))
      assert.equal((await listen(client, live('Persisted'), 2)).length, 2)
    }
    assert.deepEqual(requests.map(({ hasQuery }) => hasQuery), [false, true, false])
  },

  async 'multipart: an error has its code'() {
    const failure = await listen(clientOf(recorded().link), live('Bad', 'NO/SUCH'), 1).catch((error) => error)
    assert.ok(CombinedGraphQLErrors.is(failure), `${failure}`)
    assert.deepEqual(failure.errors.map(({ extensions }) => extensions.code), ['NOT_FOUND'])
  },
}

for (const [check, run] of Object.entries(checks)) {
  let problem
  try {
    await run()
  } catch (error) {
    problem = error instanceof Error ? error.stack : JSON.stringify(error)
  }
  console.log(JSON.stringify({ check, ok: problem === undefined, problem }))
}
process.exit()
