import { Kind, parse } from 'graphql'
import { createClient } from 'graphql-ws'

import { adopt, authorization, refresh } from './session.ts'

const FORBIDDEN = 4403

/**
 * A GraphiQL fetcher for `path`: queries and mutations by HTTP POST, subscriptions over graphql-transport-ws.
 * `onAnswer` gets the data of each query and mutation.
 */
export function createFetcher(path, { onAnswer }) {
  const url = new URL(path, location.href)
  const clientFor = createSocket(url)
  return async (params, { headers } = {}) => {
    const { request, isSubscription } = settle(params)
    const signed = await withAuthorization(headers)
    if (isSubscription) return listen(clientFor(signed), request)
    const answer = await postAgain(url, request, signed)
    const opened = Object.values(answer.data ?? {}).find((value) => typeof value?.refreshToken === 'string')
    if (opened?.token && opened.expiresAt) adopt(opened) // `login` or `refresh`, under any alias
    onAnswer(answer.data)
    return answer
  }
}

/** Post; once more where the token of the session has expired. */
async function postAgain(url, request, headers) {
  const used = headers.get('authorization')
  const answer = await post(url, request, headers)
  const isRefused = answer.errors?.some(({ extensions }) => extensions?.code === 'UNAUTHENTICATED')
  if (!isRefused || used === null || used !== await authorization() || !(await refresh(used.replace('Bearer ', '')))) return answer
  headers.set('authorization', await authorization())
  return post(url, request, headers)
}

/** A tab's own Authorization header counts; a tab without one uses the session of the page. */
async function withAuthorization(headers) {
  const merged = new Headers(headers ?? {})
  if (!merged.has('authorization')) {
    const value = await authorization()
    if (value) merged.set('authorization', value)
  }
  return merged
}

/**
 * Decide from the text itself what runs. GraphiQL's own syntax tree and operation name are debounced: just after an
 * edit or a change of tab they still describe the text before it, and a subscription would be sent by POST.
 */
export function settle({ query, variables, operationName }) {
  const operations = operationsOf(query)
  const operation = operations.find((one) => one.name?.value === operationName)
    ?? (operations.length === 1 ? operations[0] : undefined)
  return {
    request: { query, variables, operationName: operation?.name?.value },
    isSubscription: (operation ?? operations[0])?.operation === 'subscription',
  }
}

function operationsOf(query) {
  try {
    return parse(query).definitions.filter((one) => one.kind === Kind.OPERATION_DEFINITION)
  } catch {
    return [] // the server words the syntax error
  }
}

async function post(url, request, headers) {
  const merged = new Headers({
    'content-type': 'application/json',
    accept: 'application/graphql-response+json, application/json;q=0.9',
  })
  for (const [name, value] of headers ?? []) merged.set(name, value)
  try {
    const response = await fetch(url, { method: 'POST', headers: merged, body: JSON.stringify(request) })
    const text = await response.text()
    try {
      return JSON.parse(text)
    } catch {
      return failure(`HTTP ${response.status} ${response.statusText}: ${text.slice(0, 500)}`)
    }
  } catch (error) {
    return failure(`No answer from ${url}: ${error.message}`)
  }
}

/** One lazy client, made anew when the Authorization header changes: the server reads it only when a socket opens. */
function createSocket(httpUrl) {
  const url = new URL(httpUrl)
  url.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:'
  let client
  let current
  return (headers) => {
    const wanted = headers.get('authorization')
    if (client && wanted === current) return client
    client?.dispose()
    current = wanted
    let reached = false
    client = createClient({
      url: url.href,
      lazy: true,
      connectionParams: wanted === null ? undefined : { Authorization: wanted },
      // Reconnect what once worked; a refused first attempt is reported at once instead of after half a minute of retries.
      shouldRetry: (event) => reached && event instanceof CloseEvent && event.code !== FORBIDDEN,
      on: { connected: () => { reached = true } },
    })
    return client
  }
}

function listen(client, request) {
  return {
    subscribe(sink) {
      let open = true // a complete that arrives after Stop must not end the next run
      const close = () => {
        if (open) sink.complete()
        open = false
      }
      const stop = client.subscribe(request, {
        next: (result) => open && sink.next(result),
        error: (problem) => {
          if (open) sink.next(Array.isArray(problem) ? { errors: problem } : failure(describe(problem)))
          close()
        },
        complete: close,
      })
      return {
        unsubscribe() {
          open = false
          stop()
        },
      }
    },
  }
}

function describe(problem) {
  if (problem instanceof CloseEvent) return `The socket was closed: ${problem.code} ${problem.reason}`.trim()
  return problem?.message ?? 'The socket could not be opened.'
}

function failure(message) {
  return { errors: [{ message }] }
}
