import type { FormattedExecutionResult } from 'graphql'
import { type Client as Transport, createClient } from 'graphql-ws'
import { backoff } from './backoff.js'
import { CandlegraphError, connectionError } from './errors.js'
import type { ClientOptions, SignIn, Sink } from './options.js'

/** `idle` without a subscription; `lost` from the loss of a connection until the next one is accepted. */
export type SocketState = 'idle' | 'connecting' | 'connected' | 'lost'

const KEEP_ALIVE_MS = 10_000
const PONG_TIMEOUT_MS = 10_000
const LINGER_MS = 3_000 // without a subscription, so that the next one finds the connection open
const FORBIDDEN = 4403

/** The WebSocket of a client: opened by the first subscription, and reconnected without end. */
export class Socket {
  readonly #url: string
  readonly #transport: Transport
  readonly #signIn: SignIn | undefined
  readonly #listeners = new Set<(state: SocketState) => void>()
  #state: SocketState = 'idle'
  #token: string | null = null
  #isRefused = false
  #heardAt = 0
  #pongTimer: ReturnType<typeof setTimeout> | undefined
  #endWait = (): void => undefined

  constructor(url: string, { signIn, webSocketImpl }: ClientOptions) {
    this.#url = url
    this.#signIn = signIn
    this.#transport = createClient({
      url,
      webSocketImpl,
      connectionParams: () => this.#identify(),
      shouldRetry: (problem) => !(problem instanceof CandlegraphError), // by default a connection that failed is final
      retryAttempts: Infinity,
      retryWait: (retries) => this.#wait(backoff(retries)),
      keepAlive: KEEP_ALIVE_MS,
      lazyCloseTimeout: LINGER_MS,
      connectionAckWaitTimeout: PONG_TIMEOUT_MS,
      on: {
        connecting: () => { this.#change(this.#state === 'lost' ? 'lost' : 'connecting') },
        connected: () => { this.#change('connected') },
        message: () => { this.#heardAt = Date.now() },
        ping: (received) => { if (!received) this.#expectPong() },
        pong: (received) => { if (received) clearTimeout(this.#pongTimer) },
        closed: (event) => { this.#closed(event) },
      },
    })
    if (typeof document === 'undefined') return
    addEventListener('online', this.#wake)
    document.addEventListener('visibilitychange', this.#wake)
  }

  get state(): SocketState {
    return this.#state
  }

  onState(listener: (state: SocketState) => void): () => void {
    this.#listeners.add(listener)
    return () => this.#listeners.delete(listener)
  }

  subscribe<Result>(payload: { query: string; variables: Record<string, unknown> }, sink: Sink<Result>): () => void {
    return this.#transport.subscribe<Result>(payload, {
      next: (result) => { sink.next(result as FormattedExecutionResult<Result>) },
      error: (problem) => { sink.error(connectionError(this.#url, problem)) },
      complete: () => { sink.complete() },
    })
  }

  reconnect(): void {
    if (this.#state === 'connected') this.#transport.terminate()
    else this.#endWait()
  }

  dispose(): void {
    if (typeof document !== 'undefined') {
      removeEventListener('online', this.#wake)
      document.removeEventListener('visibilitychange', this.#wake)
    }
    clearTimeout(this.#pongTimer)
    this.#endWait()
    void this.#transport.dispose()
  }

  /** The payload of `connection_init`. A refused token is replaced first; without another one the subscriptions fail. */
  async #identify(): Promise<Record<string, unknown>> {
    if (this.#isRefused && this.#token !== null && this.#signIn && !(await this.#signIn.refresh(this.#token))) {
      this.#isRefused = false
      throw new CandlegraphError('The server does not accept the token: sign in again.', 'UNAUTHENTICATED')
    }
    this.#isRefused = false
    this.#token = (await this.#signIn?.token()) ?? null
    return this.#token === null ? {} : { Authorization: `Bearer ${this.#token}` }
  }

  #closed(event: unknown): void {
    clearTimeout(this.#pongTimer)
    const { code, wasClean } = event as { code?: number; wasClean?: boolean }
    this.#isRefused ||= code === FORBIDDEN
    this.#change(code === 1000 && wasClean ? 'idle' : 'lost')
  }

  #expectPong(): void {
    clearTimeout(this.#pongTimer)
    this.#pongTimer = setTimeout(() => { this.#transport.terminate() }, PONG_TIMEOUT_MS)
  }

  #wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms)
      this.#endWait = () => {
        clearTimeout(timer)
        resolve()
      }
    })
  }

  /** A page that slept, or a network that is back: connect now, and trust no connection that has been silent. */
  readonly #wake = (): void => {
    if (document.visibilityState === 'hidden') return
    const isSilent = Date.now() - this.#heardAt > KEEP_ALIVE_MS + PONG_TIMEOUT_MS
    if (this.#state === 'lost' || (this.#state === 'connected' && isSilent)) this.reconnect()
  }

  #change(state: SocketState): void {
    if (state === this.#state) return
    this.#state = state
    this.#listeners.forEach((listener) => { listener(state) })
  }
}
