import type { TypedDocumentNode } from '@graphql-typed-document-node/core'
import type { FormattedExecutionResult } from 'graphql'
import { backoff } from './backoff.js'
import type { Client } from './client.js'
import type { CandleEventKind } from './documents.js'
import { type CandlegraphError, errorOf } from './errors.js'
import { reduce } from './timeframe.js'

/** What a candle must select. */
export interface LiveNode {
  readonly timestamp: number
  readonly closed: boolean
}

/** What an event must select. */
export interface LiveEvent {
  readonly kind: CandleEventKind
  readonly seq: number
  readonly caughtUp: boolean
  readonly resyncFrom?: number | null | undefined
  readonly nodes: readonly LiveNode[]
}

interface Names {
  readonly market: string
  readonly provider: string
  readonly symbol: string
  readonly timeframe?: string | null | undefined
}

/** The result of a subscription to `candles` or to `candlesMany`. */
export type LiveResult =
  | { readonly candles: LiveEvent }
  | { readonly candlesMany: Names & { readonly event?: LiveEvent | null | undefined } }

export interface LiveSink<Result> {
  next(result: Result): void
  /** The subscription has ended; of `candlesMany`, the series that `error` is about. */
  error(error: CandlegraphError, series?: Names): void
  /** A correction was missed while the connection was lost: it comes, unless its candle is older than the first one here. */
  missed?(series: Names): void
}

type Since = number | string | null | undefined
type Series = Names & { since?: Since }

/** How far a series has come (ms). */
interface Progress {
  first: Since
  closed: number
  /** The `seq` of the last event, and how many closed candles came since. */
  seq: number
  counted: number
  /** The closed candles that the caller has, as text, the newest MAX_DELIVERED. */
  readonly delivered: Map<number, string>
}

const MAX_DELIVERED = 20_000

/**
 * Live candles that survive every lost connection: each closed candle comes once and in order, from the `since` of the
 * variables on. It resumes from the last closed candle, tries without end, and follows RESYNC; the result ends it.
 *
 * A correction comes as CORRECTION, also one that was made while the connection was lost. The document takes `since` from
 * the variable `$since`, or `series` from `$series`, and selects `kind seq caughtUp resyncFrom nodes { timestamp closed }`.
 */
export function resumingSubscription<Result extends LiveResult, Given extends object>(
  client: Client, document: TypedDocumentNode<Result, Given>, variables: Given, sink: LiveSink<Result>,
): () => void {
  const resuming = new Resuming(client, document, variables, sink)
  resuming.start()
  return () => { resuming.stop() }
}

class Resuming<Result extends LiveResult, Given extends object> {
  readonly #client: Client
  readonly #document: TypedDocumentNode<Result, Given>
  readonly #variables: Given & { series?: Series[] }
  readonly #sink: LiveSink<Result>
  readonly #progress = new Map<object, Progress>()
  #run = 0
  #retries = 0
  #end = (): void => undefined
  #timer: ReturnType<typeof setTimeout> | undefined

  constructor(client: Client, document: TypedDocumentNode<Result, Given>, variables: Given, sink: LiveSink<Result>) {
    this.#client = client
    this.#document = document
    this.#variables = structuredClone(variables)
    this.#sink = sink
  }

  start(): void {
    this.#end()
    clearTimeout(this.#timer)
    this.#timer = undefined
    const run = ++this.#run // an earlier run does not count
    const isCurrent = (): boolean => run === this.#run
    this.#end = this.#client.subscribe(this.#document, this.#variables, {
      next: (result) => { if (isCurrent()) this.#next(result) },
      error: (error) => { if (isCurrent()) this.#failed(error) },
      complete: () => { if (isCurrent()) this.#again(0) }, // the server is stopping, or all series have ended in RESYNC
    })
  }

  stop(): void {
    this.#run++
    clearTimeout(this.#timer)
    this.#end()
  }

  #failed(error: CandlegraphError, series?: Series): void {
    if (error.retryAfter !== undefined) {
      this.#again(error.retryAfter * 1_000)
      return
    }
    const others = series && this.#variables.series?.filter((one) => one !== series)
    if (others) this.#variables.series = others
    this.#sink.error(error, series)
  }

  #again(afterMs: number): void {
    this.#timer ??= setTimeout(() => { this.start() }, afterMs + backoff(this.#retries++))
  }

  #next({ data, errors }: FormattedExecutionResult<Result>): void {
    if (!data) {
      this.#failed(errorOf(errors ?? []))
      return
    }
    const series = this.#seriesOf(data)
    const event = 'candles' in data ? data.candles : data.candlesMany.event
    if (!series) return
    if (!event) {
      this.#failed(errorOf(errors ?? []), series)
      return
    }
    if (event.kind === 'RESYNC') {
      this.#restart(series, event.resyncFrom ?? series.since)
      return
    }
    this.#retries = 0
    const missed = this.#take(this.#progressOf(series, event), event, (fields) => {
      this.#sink.next(withEvent(data, { ...event, ...fields }))
    })
    const { first, closed, delivered } = this.#progressOf(series, event)
    series.since = closed > -Infinity ? closed : first
    if (!missed) return
    this.#sink.missed?.(series)
    this.#restart(series, delivered.size < MAX_DELIVERED ? first : delivered.keys().next().value)
  }

  /** Pass on what the caller lacks of an event. True where `seq` shows a correction that was missed: read all again. */
  #take(progress: Progress, event: LiveEvent, pass: (fields: Partial<LiveEvent>) => void): boolean {
    const { kind, seq, caughtUp, nodes } = event
    const isKnown = ({ timestamp }: LiveNode): boolean => timestamp <= progress.closed
    const isNew = (node: LiveNode): boolean => progress.delivered.get(node.timestamp) !== JSON.stringify(node)
    const corrected = nodes.filter((node) => isKnown(node) && node.closed && isNew(node))
    const fresh = nodes.filter((node) => !isKnown(node))
    for (const node of [...corrected, ...fresh]) if (node.closed) remember(progress, node)
    const closed = fresh.filter((node) => node.closed).length
    if (corrected.length) pass({ kind: 'CORRECTION', caughtUp: false, nodes: corrected })
    if (fresh.length || caughtUp || kind === 'HEARTBEAT') pass({ nodes: fresh })
    progress.counted += closed
    if (kind === 'SNAPSHOT' && !caughtUp) return false
    const missed = caughtUp && seq > progress.seq + progress.counted
    progress.seq = seq
    progress.counted = 0
    return missed
  }

  #progressOf(series: Series, event: LiveEvent): Progress {
    let progress = this.#progress.get(series)
    if (!progress) {
      progress = { first: series.since, closed: -Infinity, seq: Infinity, counted: 0, delivered: new Map() }
      this.#progress.set(series, progress)
    }
    progress.first ??= event.nodes[0]?.timestamp
    return progress
  }

  #restart(series: Series, since: Since): void {
    series.since = since
    this.start()
  }

  #seriesOf(data: LiveResult): Series | undefined {
    if ('candles' in data) return this.#variables as unknown as Series
    const { market, provider, symbol, timeframe } = data.candlesMany
    return this.#variables.series?.find((one) => (
      one.symbol === symbol && reduce(one.timeframe ?? '1m') === timeframe && one.market === market
      && (one.provider === provider || one.provider === `${market}/${provider}`)
    ))
  }
}

function remember(progress: Progress, node: LiveNode): void {
  progress.closed = Math.max(progress.closed, node.timestamp)
  progress.delivered.set(node.timestamp, JSON.stringify(node))
  if (progress.delivered.size > MAX_DELIVERED) {
    const [oldest] = progress.delivered.keys()
    if (oldest !== undefined) progress.delivered.delete(oldest)
  }
}

function withEvent<Result extends LiveResult>(data: Result, event: LiveEvent): Result {
  return ('candles' in data ? { ...data, candles: event } : { ...data, candlesMany: { ...data.candlesMany, event } })
}
