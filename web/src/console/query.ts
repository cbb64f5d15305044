// Queries of the page: loaded, loaded again after a while, and failed with the server's sentence and code.
import type { TypedDocumentNode } from '@graphql-typed-document-node/core'
import { useEffect, useState } from 'preact/hooks'
import { CandlegraphError } from '@candlegraph/client'
import { account, client } from '../session.ts'

export interface Loaded<Result> {
  readonly data: Result | undefined
  readonly error: CandlegraphError | undefined
  readonly isLoading: boolean
  readonly reload: () => void
}

/** The data of a query; `everyMs` loads it again as long as the page is visible. Null `variables`: not yet. */
export function useQuery<Result, Given extends object>(
  document: TypedDocumentNode<Result, Given>, variables: Given | null, everyMs = 0,
): Loaded<Result> {
  const [state, setState] = useState<{ data?: Result; error?: CandlegraphError; isLoading: boolean }>({ isLoading: true })
  const [count, setCount] = useState(0)
  const key = `${JSON.stringify(variables)} ${account.value?.username ?? ''}`
  useEffect(() => {
    if (variables === null) return
    const aborted = new AbortController()
    let retry: ReturnType<typeof setTimeout> | undefined
    const load = (): void => {
      clearTimeout(retry)
      setState((before) => ({ ...before, isLoading: true }))
      client.query(document, variables, aborted.signal)
        .then((data) => setState({ data, isLoading: false }))
        .catch((problem: unknown) => {
          if (aborted.signal.aborted) return
          const error = asError(problem)
          setState((before) => ({ ...before, error, isLoading: false }))
          if (error.retryAfter !== undefined) retry = setTimeout(load, error.retryAfter * 1_000) // as `Failure` says
        })
    }
    load()
    const timer = everyMs ? setInterval(() => { if (!window.document.hidden) load() }, everyMs) : 0
    return () => {
      clearInterval(timer)
      clearTimeout(retry)
      aborted.abort()
    }
  }, [key, count, everyMs])
  return { data: state.data, error: state.error, isLoading: state.isLoading, reload: () => setCount(count + 1) }
}

export function asError(error: unknown): CandlegraphError {
  return error instanceof CandlegraphError ? error : new CandlegraphError(error instanceof Error ? error.message : String(error), 'INTERNAL')
}

/** An action of a button: whether it runs, and its error. */
export function useAction<Given extends unknown[]>(act: (...given: Given) => Promise<void>): {
  run: (...given: Given) => void
  isRunning: boolean
  error: CandlegraphError | undefined
  clear: () => void
} {
  const [error, setError] = useState<CandlegraphError>()
  const [isRunning, setRunning] = useState(false)
  const run = (...given: Given): void => {
    setRunning(true)
    setError(undefined)
    act(...given)
      .catch((problem: unknown) => setError(asError(problem)))
      .finally(() => setRunning(false))
  }
  return { run, isRunning, error, clear: () => setError(undefined) }
}
