// Who is signed in, for every page: the access token in memory, the refresh token in localStorage, where tabs share it.
import { signal } from '@preact/signals'
import { type CandlegraphError, Client, Login, Logout, type LoginMutation, Me, Refresh } from '@candlegraph/client'

export type Account = LoginMutation['login']['user']

const KEY = 'candlegraph-session'
const LOCK = 'candlegraph-session' // one tab refreshes at a time: a refresh token is used up by its first use
const RETRY_MS = 5_000

/** The endpoint, under any path that a proxy puts before it. */
export const endpoint = new URL('graphql', location.href).href

/** The signed-in account; null for an anonymous caller. */
export const account = signal<Account | null>(null)

const anonymous = new Client(endpoint)
let token: string | null = null
let timer: ReturnType<typeof setTimeout> | undefined

/** Requests and subscriptions of the signed-in account. */
export const client = new Client(endpoint, { signIn: { token: () => restored.then(() => token), refresh } })

/** Sign in. CandlegraphError with the server's sentence. */
export async function signIn(username: string, password: string): Promise<void> {
  adopt((await anonymous.query(Login, { username, password })).login)
  client.reconnect()
}

/** Sign out here and in the other tabs. */
export async function signOut(): Promise<void> {
  const stored = localStorage.getItem(KEY)
  forget()
  client.reconnect()
  if (stored) await anonymous.execute(Logout, { token: stored }).catch(() => undefined)
}

/** Take over a session that another part of the page has opened, as an operation in GraphiQL. */
export function adopt({ token: next, refreshToken, user }: Pick<LoginMutation['login'], 'token' | 'refreshToken'> & { user?: Account }): void {
  token = next
  localStorage.setItem(KEY, refreshToken)
  if (user) account.value = user
  else void client.query(Me, {}).then(({ me }) => { account.value = me ?? null }, () => undefined) // an operation that selects no user
  clearTimeout(timer)
}

/** The Authorization header of a request; null for an anonymous one. */
export async function authorization(): Promise<string | null> {
  await restored
  return token === null ? null : `Bearer ${token}`
}

/** Replace a token that the server has refused: it decides by its own clock. False where there is no session any more. */
export function refresh(used: string | null): Promise<boolean> {
  return locked(async () => {
    if (token !== used) return token !== null // another request was faster
    const stored = localStorage.getItem(KEY) // what another tab has put there meanwhile
    if (!stored) {
      forget()
      return false
    }
    const answer = await anonymous.query(Refresh, { token: stored }).catch((error: unknown) => error as CandlegraphError)
    if (!(answer instanceof Error)) adopt(answer.refresh)
    else if (answer.code === 'UNAUTHENTICATED' && answer.reason !== 'TOKEN_USED') forget()
    else timer = setTimeout(() => { void refresh(used).then((isBack) => { if (isBack) client.reconnect() }) }, RETRY_MS)
    return !(answer instanceof Error)
  })
}

/** Only one tab at a time; without a secure context a browser has no locks, and the server sorts two uses out. */
function locked(work: () => Promise<boolean>): Promise<boolean> {
  const locks = navigator.locks as LockManager | undefined
  return locks ? locks.request(LOCK, work) : work()
}

function forget(): void {
  clearTimeout(timer)
  token = null
  account.value = null
  localStorage.removeItem(KEY)
}

addEventListener('storage', ({ key, newValue }) => {
  if (key !== KEY || (newValue !== null) === (token !== null)) return
  if (newValue === null) forget()
  else void refresh(token) // another tab has signed in
  client.reconnect()
})

/** The session of the last visit is back, or there is none. */
export const restored = localStorage.getItem(KEY) ? refresh(null) : Promise.resolve(false)
