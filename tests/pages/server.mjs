// The servers of these scenarios run outside; CANDLEGRAPH_TEST says where.
import { execFile } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

export const MINUTE_MS = 60_000
export const HANG_MS = 120_000 // only a guard against a hang: nothing that works takes this long anywhere
const described = JSON.parse(process.env.CANDLEGRAPH_TEST)

/** Wait until something holds; what it answered. */
export async function eventually(holds, hint = holds) {
  const until = Date.now() + HANG_MS
  for (;;) {
    const answer = await holds()
    if (answer) return answer
    if (Date.now() > until) throw new Error(`never: ${hint}`)
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

export class Server {
  constructor(name) {
    Object.assign(this, described[name])
  }

  run(args, input = '') {
    const done = promisify(execFile)(this.python, ['-m', 'server.cli.main', ...args], { env: this.environment })
    done.child.stdin.end(input)
    return done
  }

  async query(query, variables = {}) {
    const response = await fetch(`${this.url}graphql`, {
      method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ query, variables }),
    })
    const { data, errors } = await response.json()
    if (errors) throw new Error(JSON.stringify(errors))
    return data
  }

  /** The newest candles of 1m of the demo market. */
  async candles(symbol, limit = 20) {
    const { candles } = await this.query(`query ($symbol: String!, $limit: Int!) {
      candles(market: "demo", provider: "synthetic", symbol: $symbol, timeframe: "1m", limit: $limit) { nodes { timestamp close closed } } }`, { symbol, limit })
    return candles.nodes
  }

  /** Import another candle in place of a closed one. */
  async correct(symbol, timestamp, close) {
    const file = join(mkdtempSync(join(tmpdir(), 'candlegraph-')), 'correction.csv')
    writeFileSync(file, `timestamp,open,high,low,close,volume\n${timestamp},${close},${close},${close},${close},7\n`)
    await this.run(['import', file, '--market', 'demo', '--provider', 'synthetic', '--symbol', symbol, '--timeframe', '1m'])
  }
}
