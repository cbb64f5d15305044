import assert from 'node:assert/strict'
import { test } from 'node:test'

globalThis.localStorage = {}
Object.defineProperties(globalThis.localStorage, {
  getItem: { value: (key) => globalThis.localStorage[key] ?? null },
  setItem: { value: (key, value) => { globalThis.localStorage[key] = value } },
  removeItem: { value: (key) => { delete globalThis.localStorage[key] } },
})
const { storage } = await import('../src/storage.js')

const SECRET = 'correct horse'
const stored = () => JSON.stringify(globalThis.localStorage)
const tab = (query, variables) => JSON.stringify({ activeTabIndex: 0, tabs: [{ id: 'a', title: 'T', query, variables, headers: null }] })
const signIn = 'mutation SignIn($username: String!, $p: String!) { login(username: $username, password: $p) { token } }'

const secrets = {
  'a variable of any name': tab(signIn, JSON.stringify({ username: 'ada', p: SECRET })),
  'half-typed variables': tab(signIn, `{"username": "ada", "p": "${SECRET}`),
  'a literal': tab(`mutation { login(username: "ada", password: "${SECRET}") { token } }`, null),
  'a literal with a quote in it': tab(`mutation { login(username: "ada", password: "x\\"${SECRET}") { token } }`, null),
  'a block literal': tab(`mutation { login(username: "ada", password: """${SECRET}""") { token } }`, null),
  'a half-typed literal': tab(`mutation { login(username: "ada", password: "${SECRET}`, null),
  'a refresh token': tab(`mutation { refresh(token: "${SECRET}") { token } }`, null),
}
for (const [kind, text] of Object.entries(secrets)) {
  test(`${kind} never reaches the browser's storage`, () => {
    for (const key of ['graphiql:tabState', 'graphiql:queries', 'graphiql:favorites']) storage.setItem(key, text)
    assert.ok(!stored().includes(SECRET), stored())
  })
}

test('the second copy of the editors and the headers of the history are not stored', () => {
  for (const key of ['query', 'variables', 'headers']) storage.setItem(`graphiql:${key}`, SECRET)
  storage.setItem('graphiql:queries', JSON.stringify({ queries: [{ query: '{ me { id } }', headers: `{"Authorization": "${SECRET}"}` }] }))
  assert.ok(!stored().includes(SECRET), stored())
})

test('a tab that signs in keeps its text, the username and the names of its variables', () => {
  storage.setItem('graphiql:tabState', tab(signIn, JSON.stringify({ username: 'ada', p: SECRET })))
  const [kept] = JSON.parse(storage.getItem('graphiql:tabState')).tabs
  assert.equal(kept.query, signIn)
  assert.deepEqual(JSON.parse(kept.variables), { username: 'ada', p: '' })
})

test('any other tab is stored as it is', () => {
  const text = tab('query Q($symbol: String!) { candles(symbol: $symbol) { complete } }', '{"symbol": "BTC/USD"}')
  storage.setItem('graphiql:tabState', text)
  assert.equal(storage.getItem('graphiql:tabState'), text)
  storage.setItem('graphiql:theme', 'dark')
  assert.equal(storage.getItem('graphiql:theme'), 'dark')
})
