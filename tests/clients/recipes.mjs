// node recipes.mjs http://127.0.0.1:8000 BEGIN   the recipes of examples/clients, in a copy of that folder beside this file.
// One JSON line for each candle; when the input ends, one for each recipe with what it holds.
import { CandlestickSeries, createChart } from 'lightweight-charts'
import WebSocket from 'ws'
import { createApollo, watch as watchApollo } from './apollo.mjs'
import { HISTORY, LIVE } from './candles.mjs'
import { draw } from './chart.mjs'
import { connectEvents } from './eventsource.mjs'
import { follow } from './graphql-ws.mjs'
import { createUrql } from './urql.mjs'
import { watch } from './watchlist.mjs'

globalThis.WebSocket ??= WebSocket // Node 20 has none

const url = new URL('/graphql', process.argv[2]).href
const socket = url.replace(/^http/, 'ws')
const series = { market: 'demo', provider: 'synthetic', symbol: 'BTC/USD', timeframe: '1m' }
const since = Number(process.argv[3])
const finals = {}
const say = (line) => console.log(JSON.stringify(line))

/** What a recipe was given one by one: final candles in the order in which they came, corrections in their place. */
function listener(recipe) {
  const got = finals[recipe] = []
  return {
    closed({ timestamp, close }) {
      got.push([timestamp, close])
      say({ recipe, timestamp })
    },
    corrected({ timestamp, close }) {
      const at = got.findIndex(([time]) => time === timestamp)
      if (at >= 0) got[at][1] = close
      say({ recipe, corrected: timestamp, close })
    },
  }
}

/** What a recipe keeps as one list; where it does not say which candles are final, two at most are not. */
function lister(recipe) {
  return (candles) => {
    const isFinal = ({ closed }, at) => closed ?? at < candles.length - 2
    const got = candles.filter(isFinal).map(({ timestamp, close }) => [timestamp, close])
    const before = finals[recipe] ?? []
    finals[recipe] = got
    if (got.length > before.length) say({ recipe, timestamp: got.at(-1)[0] })
    got.slice(0, before.length).forEach(([timestamp, close], at) => {
      if (before[at][1] !== close) say({ recipe, corrected: timestamp, close })
    })
  }
}

const recipes = {
  'graphql-ws'() {
    const { closed, corrected } = listener('graphql-ws')
    follow(socket, { ...series, since }, closed, corrected)
  },

  eventsource() {
    const { closed, corrected } = listener('eventsource')
    connectEvents(url).subscribe({ query: LIVE, variables: { ...series, since } }, {
      next({ data: { candles } }) {
        candles.nodes.filter((node) => node.closed).forEach(candles.kind === 'CORRECTION' ? corrected : closed)
      },
      error: fault,
      complete() {},
    })
  },

  async watchlist() {
    const listeners = Object.fromEntries(['BTC/USD', 'ETH/USD'].map((symbol) => [symbol, listener(`watchlist ${symbol}`)]))
    const { symbol: _, ...variables } = series
    await watch(url, { ...variables, symbols: Object.keys(listeners) }, (symbol, candle, kind) => {
      if (candle.closed && kind === 'CORRECTION') listeners[symbol].corrected(candle)
      else if (candle.closed && kind !== 'LATEST') listeners[symbol].closed(candle)
    })
  },

  async apollo() {
    const list = lister('apollo')
    const query = await watchApollo(createApollo(url), { ...series, limit: 20 })
    query.subscribe(({ data }) => list(data.candles.nodes))
  },

  async urql() {
    const list = lister('urql')
    const client = createUrql(url)
    const { data } = await client.query(HISTORY, { ...series, limit: 20 }).toPromise()
    client.query(HISTORY, { ...series, limit: 20 }).subscribe(({ data }) => list(data.candles.nodes))
    const since = data.candles.nodes.findLast(({ closed }) => closed).timestamp
    client.subscription(LIVE, { ...series, since }).subscribe(({ error }) => error && fault(error))
  },

  async chart() {
    const list = lister('chart')
    const chart = await page()
    const candles = chart.addSeries(CandlestickSeries)
    candles.subscribeDataChanged(() => list(candles.data().map(({ time, close }) => ({ timestamp: time * 1_000, close }))))
    draw(candles, socket, { ...series, since })
  },
}

/** The real library on a page without a screen: its canvas draws nothing. */
async function page() {
  const blank = new Proxy({}, { get: (_, name) => (name === 'measureText' ? () => ({ width: 10 }) : () => blank), set: () => true })
  window.HTMLCanvasElement.prototype.getContext = () => blank
  const box = window.document.createElement('div')
  window.document.body.append(box)
  return createChart(box, { width: 400, height: 300, layout: { colorParsers: [() => [0, 0, 0, 1]] } })
}

function fault(error) {
  say({ fault: error.stack ?? JSON.stringify(error) })
}

console.error = console.warn = (...all) => fault(all.map(String).join(' '))
process.on('uncaughtException', fault)
process.on('unhandledRejection', fault)
Object.values(recipes).forEach(async (start) => start())
process.stdin.on('end', () => {
  say({ finals })
  process.exit(0)
}).resume()
