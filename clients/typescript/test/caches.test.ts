import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ApolloClient, gql, HttpLink, InMemoryCache, type TypedDocumentNode } from '@apollo/client'
import { FindSymbols, Markets } from '@candlegraph/client'
import { possibleTypes, typePolicies } from '@candlegraph/client/apollo'
import { keys } from '@candlegraph/client/graphcache'
import { Client, fetchExchange } from '@urql/core'
import { cacheExchange } from '@urql/exchange-graphcache'
import { BTC, Server } from './server.js'

const { endpoint } = new Server('server')
const RANGE = 'market: "demo", provider: "synthetic", symbol: "BTC/USD", timeframe: "1h", until: "2024-05-01T00:00:00Z", limit: 24'
const SELECTIONS = ['symbol nodes { timestamp close } sources { since }', 'complete gaps { since reason } columns { timestamp }']
  .map((fields, i) => `query Q${i} { candles(${RANGE}) { ${fields} } }`)

/** `fetch`, and how often it was called. */
function counted(): { fetch: typeof fetch; count: () => number } {
  let count = 0
  return { fetch: (...all) => { count++; return fetch(...all) }, count: () => count }
}

test('Apollo: two selections of one range ask twice, and pages become one list', async () => {
  const requests = counted()
  const client = new ApolloClient({
    cache: new InMemoryCache({ typePolicies, possibleTypes }), link: new HttpLink({ uri: endpoint, fetch: requests.fetch }),
  })
  const watched = SELECTIONS.map((query) => new Promise((resolve) => {
    client.watchQuery({ query: gql(query) }).subscribe(({ data, loading }) => { if (data && !loading) resolve(data) })
  }))
  await Promise.all(watched)
  assert.equal(requests.count(), 2)

  const list = client.watchQuery({ query: FindSymbols, variables: { market: 'demo', provider: 'synthetic', first: 4 } })
  const { data } = await list.refetch()
  await list.fetchMore({ variables: { after: data?.symbols?.pageInfo.endCursor ?? null } })
  const all = list.getCurrentResult().data as typeof data
  assert.equal(all?.symbols?.nodes.length, all?.symbols?.totalCount)
})

test('Apollo: a fragment on the interface matches its types', async () => {
  const client = new ApolloClient({ cache: new InMemoryCache({ typePolicies, possibleTypes }), link: new HttpLink({ uri: endpoint }) })
  const query: TypedDocumentNode<{ node: { id: string } }> = gql`{ node(id: "demo/synthetic/BTC/USD") { ...on Node { id } } }`
  assert.equal((await client.query({ query })).data?.node.id, 'demo/synthetic/BTC/USD')
})

test('graphcache: a range is cached, and nothing warns', async () => {
  const warnings: unknown[] = []
  console.warn = console.error = (...all: unknown[]) => { warnings.push(all) }
  const requests = counted()
  const client = new Client({
    url: endpoint, preferGetMethod: false, fetch: requests.fetch, exchanges: [cacheExchange({ keys }), fetchExchange],
  })
  for (const query of [...SELECTIONS, ...SELECTIONS]) assert.equal((await client.query(query, {}).toPromise()).error, undefined)
  assert.equal(requests.count(), 2)
  const { data } = await client.query(Markets, {}).toPromise()
  assert.ok(data?.markets.some(({ id }) => id === BTC.market))
  assert.deepEqual(warnings, [])
})
