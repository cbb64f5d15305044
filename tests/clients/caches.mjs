// node caches.mjs http://127.0.0.1:8000 schema.graphql   what normalising caches make of the answers; one JSON line.
import { gql } from '@apollo/client'
import { buildSchema, isObjectType } from 'graphql'
import { readFileSync } from 'node:fs'
import relay from 'relay-runtime'
import WebSocket from 'ws'
import { createApollo } from './apollo.mjs'
import { createUrql, keys } from './urql.mjs'

globalThis.WebSocket ??= WebSocket

const url = new URL('/graphql', process.argv[2]).href
const warnings = []
console.warn = console.error = (...all) => warnings.push(all.map(String).join(' '))

const MARKETS = 'query Markets { markets { id name providers { id provider market live description } } }'
const SERIES = 'market: "demo", provider: "synthetic", symbol: "BTC/USD", timeframe: "1h", until: "2024-05-01T00:00:00Z"'
const A = `query A { candles(${SERIES}, limit: 24) { symbol nodes { timestamp close } sources { since source } } }`
const B = `query B { candles(${SERIES}, limit: 24) { complete gaps { since reason } columns { timestamp volume } } }`
// A query for each kind of object that the cache can meet without an account.
const MANY = `query Many {
  symbols(market: "demo", provider: "synthetic", first: 2) { nodes { id symbol } edges { cursor } pageInfo { endCursor } }
  latest(market: "demo", provider: "synthetic", symbols: ["BTC/USD"]) { nodes { symbol { id } candle { close } } missing }
  coverage(market: "demo", provider: "synthetic", symbol: "BTC/USD") { covered { since } holes { reason } lastFetches { rows } }
  tracked { nodes { since } edges { cursor } pageInfo { endCursor } }
  backfills { nodes { id } edges { cursor } pageInfo { endCursor } }
}`

/** The providers as the cache holds them, by market. */
const named = ({ markets }) => Object.fromEntries(markets.map(({ id, providers }) => [
  id, providers.map(({ id, provider, market, live }) => [id, provider, market, live]),
]))

let asked = 0
const { fetch } = globalThis
globalThis.fetch = (...all) => {
  asked++
  return fetch(...all)
}

/** How many requests two components with different selections of one range make, until both have their data. */
async function requests(watchBoth) {
  const before = asked
  await watchBoth()
  for (let turn = 0; turn < 5; turn++) await new Promise(setImmediate) // a cache asks again at once or never
  return asked - before
}

async function apollo() {
  const client = createApollo(url)
  const once = (query) => new Promise((resolve) => {
    client.watchQuery({ query: gql(query) }).subscribe(({ data, loading }) => data && !loading && resolve(data))
  })
  return {
    requests: await requests(() => Promise.all([once(A), once(B)])),
    providers: named((await client.query({ query: gql(MARKETS) })).data) && named(client.readQuery({ query: gql(MARKETS) })),
  }
}

async function urql() {
  const client = createUrql(url)
  const once = (query) => new Promise((resolve) => {
    client.query(query, {}).subscribe(({ data, stale }) => data && !stale && resolve(data))
  })
  const counted = await requests(() => Promise.all([once(A), once(B)]))
  const many = await client.query(MANY, {}).toPromise()
  await client.query(MARKETS, {}).toPromise()
  const { data } = await client.query(MARKETS, {}, { requestPolicy: 'cache-only' }).toPromise()
  return { requests: counted, error: many.error?.message, providers: named(data) }
}

async function inRelay() {
  const { Environment, fetchQuery, Network, RecordSource, Store } = relay
  const scalar = (name) => ({ alias: null, args: null, kind: 'ScalarField', name, storageKey: null })
  const list = (name, concreteType, selections) => ({
    alias: null, args: null, concreteType, kind: 'LinkedField', name, plural: true, selections, storageKey: null,
  })
  const providers = list('providers', 'Provider', ['id', 'provider', 'market', 'live', 'description'].map(scalar))
  const selections = [list('markets', 'Market', [scalar('id'), scalar('name'), providers])]
  const query = { // what relay-compiler makes of MARKETS
    kind: 'Request',
    fragment: { argumentDefinitions: [], kind: 'Fragment', metadata: null, name: 'Markets', selections, type: 'Query', abstractKey: null },
    operation: { argumentDefinitions: [], kind: 'Operation', name: 'Markets', selections },
    params: { cacheID: 'markets', id: null, metadata: {}, name: 'Markets', operationKind: 'query', text: MARKETS },
  }
  const network = Network.create(async ({ text }, variables) => {
    const body = JSON.stringify({ query: text, variables })
    return (await fetch(url, { method: 'POST', headers: { 'content-type': 'application/json' }, body })).json()
  })
  const environment = new Environment({ network, store: new Store(new RecordSource()) })
  return { providers: named(await fetchQuery(environment, query, {}).toPromise()) }
}

const types = Object.values(buildSchema(readFileSync(process.argv[3], 'utf8')).getTypeMap())
const embedded = types.filter((type) => isObjectType(type) && !type.name.startsWith('__') && !type.getFields().id)
  .map(({ name }) => name).filter((name) => !['Query', 'Mutation', 'Subscription'].includes(name))
const answers = { apollo: await apollo(), urql: await urql(), relay: await inRelay() }
console.log(JSON.stringify({ ...answers, warnings, keys: Object.keys(keys).sort(), embedded: embedded.sort() }))
process.exit(0)
