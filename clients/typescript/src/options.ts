import type { FormattedExecutionResult } from 'graphql'
import type { CandlegraphError } from './errors.js'

/** How the caller is signed in; the package stores no token. */
export interface SignIn {
  /** The access token of the next request or connection; null for an anonymous one. */
  token(): string | null | Promise<string | null>
  /** The server has refused `token`: get another one. False where there is none; the request then fails with UNAUTHENTICATED. */
  refresh(token: string): boolean | Promise<boolean>
}

export interface ClientOptions {
  signIn?: SignIn
  /** For a Node without a WebSocket of its own (before 22): that of the package `ws`. */
  webSocketImpl?: unknown
  fetch?: typeof fetch
}

export interface Sink<Result> {
  next(result: FormattedExecutionResult<Result>): void
  error(error: CandlegraphError): void
  complete(): void
}
