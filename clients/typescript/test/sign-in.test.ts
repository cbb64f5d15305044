import assert from 'node:assert/strict'
import { after, test } from 'node:test'
import { type CandlegraphError, LiveCandles, Login, Me, Refresh, resumingSubscription } from '@candlegraph/client'
import { BTC, eventually, Server } from './server.js'

const NAME = `ada-${Date.now()}`
const PASSWORD = 'correct horse battery'
const server = new Server('fast')
await server.run('server.cli.main', ['user', 'add', NAME, '--role', 'viewer'], `${PASSWORD}\n`)
const anonymous = server.client()
after(() => { anonymous.dispose() })

/** A sign-in whose access token is replaced by `refresh`, as a page keeps it. */
function signIn(token: string, refreshToken: string): { token: () => string; refresh: (refused: string) => Promise<boolean>; refused: string[] } {
  const refused: string[] = []
  return {
    refused,
    token: () => token,
    async refresh(old) {
      refused.push(old)
      const answer = await anonymous.execute(Refresh, { token: refreshToken })
      if (answer.data) ({ token, refreshToken } = answer.data.refresh)
      return Boolean(answer.data)
    },
  }
}

test('a token that is refused is refreshed once, and the request and the stream go on', async () => {
  const { login } = await anonymous.query(Login, { username: NAME, password: PASSWORD })
  const account = signIn('not.a.token', login.refreshToken)
  const client = server.client(server.endpoint, { signIn: account })
  const seen: number[] = []
  const stop = resumingSubscription(client, LiveCandles, { ...BTC, closedOnly: true }, {
    next: ({ candles: { nodes } }) => seen.push(...nodes.map(({ timestamp }) => timestamp)),
    error: (error) => { throw error },
  })
  await eventually(() => seen.length > 1)
  assert.equal((await client.query(Me, {})).me?.username, NAME)
  assert.deepEqual(account.refused, ['not.a.token'])
  stop()
  client.dispose()
})

test('a token that cannot be refreshed is an error, with the code of the API', async () => {
  const client = server.client(server.endpoint, { signIn: signIn('not.a.token', 'unknown') })
  const failed = await new Promise<CandlegraphError>((resolve, reject) => {
    resumingSubscription(client, LiveCandles, { ...BTC, closedOnly: true }, { next: reject, error: resolve })
  })
  assert.equal(failed.code, 'UNAUTHENTICATED')
  await assert.rejects(client.query(Me, {}), { code: 'UNAUTHENTICATED' })
  client.dispose()
})

test('an error has the code of the API and one sentence', async () => {
  await assert.rejects(anonymous.query(Login, { username: NAME, password: 'wrong password' }), { code: 'UNAUTHENTICATED' })
  const nowhere = server.client('http://127.0.0.1:1/graphql')
  await assert.rejects(nowhere.query(Me, {}), { code: 'UNREACHABLE', message: /127\.0\.0\.1:1/ })
  const page = server.client(server.endpoint.replace('/graphql', '/healthz'))
  await assert.rejects(page.query(Me, {}), { code: 'NOT_A_SERVER' })
})
