import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'

import { authorization, observe, signOut, username } from '../src/session.js'

const in_ = (ms) => new Date(Date.now() + ms).toISOString()
const payload = (token, expiresAt) => ({ token, expiresAt, refreshToken: `refresh-${token}`, user: { username: 'ada' } })

beforeEach(signOut)

test('no user is signed in at first, and requests carry no header', async () => {
  assert.equal(await authorization(() => assert.fail('asked')), null)
  assert.equal(username(), null)
})

test('the answer of login, under any alias, signs every later request', async () => {
  observe({ me: null, anything: payload('first', in_(600_000)) })
  assert.equal(await authorization(() => assert.fail('asked')), 'Bearer first')
  assert.equal(username(), 'ada')
})

test('simultaneous requests renew a token that is about to expire once', async () => {
  observe({ login: payload('old', in_(1_000)) })
  const asked = []
  const post = async ({ variables }) => {
    asked.push(variables.token)
    return { data: { refresh: payload('new', in_(600_000)) } }
  }
  assert.deepEqual(await Promise.all([authorization(post), authorization(post)]), ['Bearer new', 'Bearer new'])
  assert.deepEqual(asked, ['refresh-old'])
})

test('a refresh token that is refused signs out', async () => {
  observe({ login: payload('old', in_(-1_000)) })
  assert.equal(await authorization(async () => ({ errors: [{ extensions: { code: 'UNAUTHENTICATED' } }], data: null })), null)
  assert.equal(username(), null)
})

test('a server that does not answer ends no session', async () => {
  observe({ login: payload('old', in_(1_000)) })
  assert.equal(await authorization(async () => ({ errors: [{ message: 'No answer' }] })), 'Bearer old')
})
