import type { GraphQLFormattedError } from 'graphql'

/** Codes of this package, beside those of the API: the server cannot be reached, or what answers is no Candlegraph server. */
export type ClientCode = 'UNREACHABLE' | 'NOT_A_SERVER'

/** A request or a subscription that failed: one sentence, the `code` of the API, and what the code comes with. */
export class CandlegraphError extends Error {
  override readonly name = 'CandlegraphError'
  readonly code: string
  /** After how many seconds to try again; undefined where the server names no time. */
  readonly retryAfter: number | undefined
  /** The finer reason of some codes, such as TOKEN_USED. */
  readonly reason: string | undefined
  /** The field that failed, such as `['candles']`. */
  readonly path: readonly (string | number)[] | undefined

  constructor(message: string, code: string, { extensions = {}, path }: Partial<GraphQLFormattedError> = {}, cause?: unknown) {
    super(message, { cause })
    this.code = code
    this.retryAfter = typeof extensions['retryAfter'] === 'number' ? extensions['retryAfter'] : undefined
    this.reason = typeof extensions['reason'] === 'string' ? extensions['reason'] : undefined
    this.path = path
  }
}

/** The first of the errors of an answer. */
export function errorOf(errors: readonly GraphQLFormattedError[]): CandlegraphError {
  const [first] = errors
  const code = first?.extensions?.['code']
  return new CandlegraphError(
    first?.message ?? 'The server named no error.', typeof code === 'string' ? code : 'INTERNAL', first,
  )
}

/** The error of a connection that failed, or of a subscription that the server ended. */
export function connectionError(url: string, problem: unknown): CandlegraphError {
  if (problem instanceof CandlegraphError) return problem
  if (Array.isArray(problem)) return errorOf(problem as GraphQLFormattedError[])
  const { code, reason } = (problem ?? {}) as { code?: unknown; reason?: unknown }
  const detail = typeof code === 'number' ? `${code} ${String(reason)}`.trim() : problem instanceof Error ? problem.message : ''
  return new CandlegraphError(
    `The server at ${url} does not answer${detail && ` (${detail})`}.`, 'UNREACHABLE', {}, problem,
  )
}
