import type { TypedDocumentNode } from '@graphql-typed-document-node/core'
import { type FormattedExecutionResult, print } from 'graphql'
import { CandlegraphError, connectionError, errorOf } from './errors.js'
import type { ClientOptions, Sink } from './options.js'
import { Socket, type SocketState } from './socket.js'

/** Requests to one server over HTTP, and its subscriptions over one WebSocket, which reconnects without end. */
export class Client {
  readonly url: string
  readonly #options: ClientOptions
  readonly #socket: Socket

  /** `url` is the endpoint, such as `http://127.0.0.1:8000/graphql`. */
  constructor(url: string, options: ClientOptions = {}) {
    this.url = url
    this.#options = options
    this.#socket = new Socket(url.replace(/^http/, 'ws'), options)
  }

  /** The data of a query or a mutation. CandlegraphError if any of its fields failed. */
  async query<Result, Given extends object>(
    document: TypedDocumentNode<Result, Given>, variables: Given, signal?: AbortSignal,
  ): Promise<Result> {
    const { data, errors } = await this.execute(document, variables, signal)
    if (errors?.length || !data) throw errorOf(errors ?? [])
    return data
  }

  /** The answer to a query or a mutation: some fields may have failed, with an error each. */
  async execute<Result, Given extends object>(
    document: TypedDocumentNode<Result, Given>, variables: Given, signal?: AbortSignal,
  ): Promise<FormattedExecutionResult<Result>> {
    const { signIn } = this.#options
    const token = (await signIn?.token()) ?? null
    const answer = await this.#post<Result>({ query: textOf(document), variables }, token, signal)
    const refused = answer.errors?.some(({ extensions }) => extensions?.['code'] === 'UNAUTHENTICATED')
    if (!refused || token === null || !(await signIn?.refresh(token))) return answer
    return this.#post<Result>({ query: textOf(document), variables }, (await signIn?.token()) ?? null, signal)
  }

  /**
   * A subscription; the result ends it. After a lost connection it is sent anew, with what `variables` hold by then.
   * For candles use `resumingSubscription`, which renews `since`.
   */
  subscribe<Result, Given extends object>(
    document: TypedDocumentNode<Result, Given>, variables: Given, sink: Sink<Result>,
  ): () => void {
    const payload = { query: textOf(document), variables: variables as Record<string, unknown> }
    return this.#socket.subscribe<Result>(payload, sink)
  }

  /** The state of the WebSocket. */
  get state(): SocketState {
    return this.#socket.state
  }

  /** Call `listener` with each new state of the WebSocket; the result ends it. */
  onState(listener: (state: SocketState) => void): () => void {
    return this.#socket.onState(listener)
  }

  /** Reconnect with the present token, as after a sign-in; subscriptions continue. */
  reconnect(): void {
    this.#socket.reconnect()
  }

  /** End all subscriptions and close the WebSocket. */
  dispose(): void {
    this.#socket.dispose()
  }

  async #post<Result>(body: object, token: string | null, signal?: AbortSignal): Promise<FormattedExecutionResult<Result>> {
    const post = this.#options.fetch ?? fetch
    const headers = {
      'content-type': 'application/json',
      accept: 'application/graphql-response+json, application/json;q=0.9',
      ...(token === null ? {} : { authorization: `Bearer ${token}` }),
    }
    let response: Response
    try {
      response = await post(this.url, { method: 'POST', headers, body: JSON.stringify(body), signal: signal ?? null })
    } catch (error) {
      if (signal?.aborted) throw error
      throw connectionError(this.url, error)
    }
    const answer = await response.json().catch(() => null) as FormattedExecutionResult<Result> | null
    if (answer && (answer.data !== undefined || Array.isArray(answer.errors))) return answer
    throw new CandlegraphError(
      `${this.url} answered with status ${response.status}: is it the endpoint of a Candlegraph server?`, 'NOT_A_SERVER',
    )
  }
}

const texts = new WeakMap<object, string>()

function textOf(document: TypedDocumentNode<unknown, never>): string {
  let text = texts.get(document)
  if (text === undefined) texts.set(document, text = print(document))
  return text
}
