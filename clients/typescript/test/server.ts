// The servers of these tests run outside; CANDLEGRAPH_TEST says where.
import { execFile } from 'node:child_process'
import { mkdtempSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Candles, Client, type Candle } from '@candlegraph/client'
import WebSocket from 'ws'

interface Described { url: string; python: string; environment: Record<string, string> }

export const MINUTE_MS = 60_000
export const HANG_MS = 20_000
export const BTC = { market: 'demo', provider: 'synthetic', symbol: 'BTC/USD', timeframe: '1m' }

export type Row = readonly [timestamp: number, open: number, high: number, low: number, close: number, volume: number]

/** A server that runs. */
export class Server {
  readonly endpoint: string
  readonly #described: Described

  constructor(name: 'server' | 'fast') {
    const all = JSON.parse(process.env['CANDLEGRAPH_TEST'] ?? '{}') as Record<string, Described>
    const described = all[name]
    if (!described) throw new Error('CANDLEGRAPH_TEST names no server: run the tests by pytest tests/clients/test_typescript_client.py')
    this.#described = described
    this.endpoint = `${described.url}/graphql`
  }

  client(endpoint = this.endpoint, options: ConstructorParameters<typeof Client>[1] = {}): Client {
    return new Client(endpoint, { webSocketImpl: WebSocket, ...options })
  }

  /** Run a program of the server to its end. */
  run(program: string, args: readonly string[], input = ''): Promise<void> {
    const { python, environment } = this.#described
    return new Promise((resolve, reject) => {
      const child = execFile(python, ['-m', program, ...args], { env: environment }, (error, _, stderr) => {
        if (error) reject(new Error(stderr))
        else resolve()
      })
      child.stdin?.end(input)
    })
  }

  /** Import candles. */
  async store(series: typeof BTC, rows: readonly Row[]): Promise<void> {
    const file = join(mkdtempSync(join(tmpdir(), 'candlegraph-')), 'rows.csv')
    writeFileSync(file, ['timestamp,open,high,low,close,volume', ...rows.map((row) => row.join(','))].join('\n') + '\n')
    const { market, provider, symbol, timeframe } = series
    const names = ['--market', market, '--provider', provider, '--symbol', symbol, '--timeframe', timeframe]
    await this.run('tests.clients.imports', [], JSON.stringify([[file, ...names]]))
  }

  /** The closed candles of a series in a span, as the server has them. */
  async closed(series: typeof BTC, since: number, until?: number): Promise<Candle[]> {
    const { candles } = await this.client().query(Candles, { ...series, since, until: until ?? null, limit: 5_000 })
    return candles?.nodes.filter(({ closed }) => closed) ?? []
  }

  /** The newest closed candle. */
  async newest(series = BTC): Promise<Candle> {
    const { candles } = await this.client().query(Candles, { ...series, limit: 3 })
    const newest = candles?.nodes.findLast(({ closed }) => closed)
    if (!newest) throw new Error('no candle has closed')
    return newest
  }
}

/** Wait until something holds. */
export async function eventually(holds: () => unknown): Promise<void> {
  const until = Date.now() + HANG_MS
  while (!(await holds())) {
    if (Date.now() > until) throw new Error(`never: ${holds.toString()}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
