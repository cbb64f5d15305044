// Who is signed in on this page, in memory only: a reload forgets it.

const RENEW_BEFORE_MS = 30_000
const REFRESH = 'mutation Refresh($token: String!) { refresh(token: $token) { token expiresAt refreshToken user { username } } }'

let session = null
let renewal = null
const listeners = new Set()

export const subscribe = (listener) => {
  listeners.add(listener)
  return () => listeners.delete(listener)
}

/** The username, or null. */
export const username = () => session && (session.user?.username ?? 'signed in')

export function signOut() {
  change(null)
}

/** Notice in an answer that somebody signed in, as `login` and `refresh` answer it, or out. */
export function observe(data) {
  const payload = Object.values(data ?? {}).find((value) => typeof value?.token === 'string')
  if (payload) change({ ...payload, user: payload.user ?? session?.user })
}

/** The Authorization header of a request without one of its own, renewed by `post` when it is about to expire. */
export async function authorization(post) {
  if (!session) return null
  const expiresAt = Date.parse(session.expiresAt ?? '')
  if (session.refreshToken && expiresAt - Date.now() < RENEW_BEFORE_MS) {
    // A refresh token is used up by its first use, so simultaneous requests share one renewal.
    renewal ??= renew(post).finally(() => { renewal = null })
    await renewal
  }
  return session && `Bearer ${session.token}`
}

async function renew(post) {
  const { data, errors } = await post({ query: REFRESH, variables: { token: session.refreshToken } })
  if (data?.refresh) observe(data)
  else if (errors?.some(({ extensions }) => extensions?.code === 'UNAUTHENTICATED')) signOut()
}

function change(next) {
  session = next
  listeners.forEach((listener) => listener())
}
