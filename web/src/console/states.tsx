// What a view shows before, instead of and beside its data: loading, empty, an error, no permission.
import type { ComponentChildren } from 'preact'
import { useState } from 'preact/hooks'
import type { CandlegraphError } from '@candlegraph/client'
import { account, signIn, signOut } from '../session.ts'
import { type Loaded, useAction } from './query.ts'

/** The data of a query, or its state. Data that are there stay while they are loaded again. */
export function Show<Result>({ of, children, rows = 4 }: {
  of: Loaded<Result>
  children: (data: Result) => ComponentChildren
  rows?: number
}) {
  const { data, error, isLoading, reload } = of
  if (error && isRefusal(error)) return <Refused error={error} />
  if (data === undefined) return error ? <Failure error={error} retry={reload} /> : <Loading rows={rows} />
  return (
    <>
      {error && <Failure error={error} retry={reload} />}
      <div class="data" aria-busy={isLoading}>{children(data)}</div>
    </>
  )
}

const isRefusal = ({ code }: CandlegraphError): boolean => code === 'UNAUTHENTICATED' || code === 'FORBIDDEN'

export function Failure({ error, retry }: { error: CandlegraphError; retry?: () => void }) {
  return (
    <div class="notice failure" role="alert">
      <div>
        <p>{error.message}</p>
        <p class="muted"><code>{error.code}</code>{error.retryAfter !== undefined && ` · again in ${Math.ceil(error.retryAfter)} s`}</p>
      </div>
      {retry && <button class="quiet" onClick={retry}>Try again</button>}
    </div>
  )
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <svg viewBox="0 0 48 32" aria-hidden="true"><path d="M8 6v20M5 11h6v9H5zM24 3v26M21 8h6v14h-6zM40 9v18M37 14h6v8h-6z" /></svg>
      <h3>{title}</h3>
      {children && <p class="muted">{children}</p>}
    </div>
  )
}

function Loading({ rows }: { rows: number }) {
  return (
    <div role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, at) => <div key={at} class="skeleton row-skeleton" />)}
    </div>
  )
}

/** The console is for operators: how to become one. */
function Refused({ error }: { error: CandlegraphError }) {
  const user = account.value
  if (!user) return <SignIn message={error.code === 'UNAUTHENTICATED' ? 'The console is for operators.' : error.message} />
  return (
    <div class="card gate" role="alert">
      <h2>Not for this account</h2>
      <p>{error.message}</p>
      <p class="muted"><strong>{user.username}</strong> is {user.roles.map((role) => role.toLowerCase()).join(', ') || 'without a role'}. <code>{error.code}</code></p>
      <button class="primary" onClick={() => void signOut()}>Use another account</button>
    </div>
  )
}

export function SignIn({ message }: { message: string }) {
  const [username, setUsername] = useState('')
  const [password, setPassword] = useState('')
  const entering = useAction(() => signIn(username, password))
  return (
    <form class="card gate" onSubmit={(event) => { event.preventDefault(); entering.run() }}>
      <h2>Sign in</h2>
      <p class="muted">{message}</p>
      <label>User name<input name="username" autocomplete="username" required value={username} onInput={(event) => setUsername(event.currentTarget.value)} /></label>
      <label>Password<input name="password" type="password" autocomplete="current-password" required value={password} onInput={(event) => setPassword(event.currentTarget.value)} /></label>
      {entering.error && <Failure error={entering.error} />}
      <button class="primary" disabled={entering.isRunning}>{entering.isRunning ? 'Signing in…' : 'Sign in'}</button>
    </form>
  )
}

export function More({ page, load, isLoading }: { page: { hasNextPage: boolean; endCursor?: string | null | undefined }; load: (after: string) => void; isLoading: boolean }) {
  const cursor = page.endCursor
  if (!page.hasNextPage || !cursor) return null
  return <button class="quiet more" disabled={isLoading} onClick={() => load(cursor)}>{isLoading ? 'Loading…' : 'Show more'}</button>
}
