// node --test console.test.mjs   the console at /console, in a browser, against servers that run; see test_console.py.
import assert from 'node:assert/strict'
import { after, afterEach, test } from 'node:test'
import { Cable, findingsOf, launch, openPage } from './browser.mjs'
import { eventually, MINUTE_MS, Server } from './server.mjs'

const DESKTOP = { viewport: { width: 1280, height: 860 }, timezoneId: 'Europe/Berlin' }
const PHONE = { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true }
const VIEWS = ['series', 'backfills', 'providers', 'storage', 'corrections', 'upload']
const HOSTILE = '<img src=x onerror=alert(1)>'
const T0 = Date.UTC(2024, 4, 1)

const open = new Server('open') // the owner of the machine is an operator
const closed = new Server('closed') // there are accounts
const PASSWORD = 'correct horse battery staple'
const [browser] = await Promise.all([launch(), ...[['ada', 'operator'], ['vera', 'viewer']].map(([name, role]) => (
  closed.run(['user', 'add', name, '--role', role], `${PASSWORD}\n`)
))])
const faults = []
const contexts = []
after(() => browser.close())
afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()))
  // A refused request is an answer here; the browser logs its status.
  assert.deepEqual(faults.splice(0).filter((fault) => !/status of 4\d\d/.test(fault)), [])
})

async function visit(server, view, options = DESKTOP) {
  const context = await browser.newContext(options)
  contexts.push(context)
  return openPage(context, `${server.url}console#${view}`, faults)
}

const text = async (page, selector) => (await page.locator(selector).first().innerText()).replaceAll('\u00a0', ' ')

function csv(minutes, close = 101) {
  return `timestamp,open,high,low,close,volume\n${minutes.map((i) => `${T0 + i * MINUTE_MS},100,${close + 1},99,${close},${1 + (i % 5)}\n`).join('')}`
}

const range = (since, until) => Array.from({ length: until - since }, (_, i) => since + i)

async function choose(page, name, content, symbol = 'A/B') {
  await page.locator('input[type=file]').setInputFiles({ name, mimeType: 'text/csv', buffer: Buffer.from(content) })
  for (const [field, value] of [['market', 'lab'], ['provider', 'mine'], ['symbol', symbol]]) await page.fill(`input[name=${field}]`, value)
  await page.getByRole('button', { name: 'Check the file' }).click()
}

test('an empty server says so in every view, and leads on', async () => {
  const page = await visit(open, 'series')
  await page.waitForSelector('.empty >> text=Nothing is stored yet')
  for (const [view, words] of [['backfills', 'No backfill yet'], ['storage', 'Nothing is stored yet'], ['corrections', 'No correction']]) {
    await page.locator('nav').getByRole('link', { name: view }).click()
    await page.waitForSelector(`.empty >> text=${words}`)
  }
})

test('a dropped file is checked, then imported; its gap, its correction and its name are shown as they are', async () => {
  const page = await visit(open, 'upload')
  await choose(page, 'May.csv', csv([...range(0, 600), ...range(10_000, 10_100)]), HOSTILE) // a hole of six days
  await page.waitForSelector('.outcome.seen')
  assert.ok((await text(page, '.outcome')).includes(`Nothing was stored, this is a dry run: 700 candles of 1m would go into ${HOSTILE}`))
  assert.match(await text(page, '.lines-of'), /Rows\s+700 of 1m, from 2024-05-01T00:00:00Z/)
  assert.deepEqual((await open.query('{ seriesList { nodes { rows } } }')).seriesList.nodes, [])
  await page.getByRole('button', { name: 'Import 700 rows' }).click()
  await page.waitForSelector('.outcome.done >> text=Imported 700 candles of 1m')

  await choose(page, 'bad.csv', csv(range(0, 20)).replace(',102,', ',1,'), HOSTILE)
  await page.waitForSelector('.outcome.refused')
  assert.match(await text(page, '.outcome'), /The importer refuses the file\s+bad\.csv:2: /)
  assert.match(await text(page, '.outcome'), /INVALID_CANDLES/)
  await choose(page, 'again.csv', csv(range(5, 8), 202), HOSTILE)
  await page.getByRole('button', { name: 'Import 3 rows' }).click()
  await page.waitForSelector('.outcome.done')

  await page.getByRole('link', { name: 'Series', exact: true }).click()
  const row = page.locator('.series', { hasText: 'lab/mine' })
  await row.getByRole('button').first().click()
  await row.locator('table.gaps').waitFor()
  const label = await row.locator('svg').first().getAttribute('aria-label')
  assert.equal(label, `${HOSTILE} 1m: covered from 01 May 2024, 00:00 to 08 May 2024, 00:20, 1 gap`)
  assert.match(await row.locator('table.gaps').innerText(), /01 May 2024, 10:00\s+07 May 2024, 22:40/)
  assert.match(await row.innerText(), /700 candles · 1 gap/)
  assert.equal(await row.locator('strong').first().innerText(), HOSTILE)
  assert.equal(await page.locator('main img').count(), 0)

  await row.getByRole('button', { name: 'Corrections' }).click()
  await page.waitForSelector('.versions del')
  assert.equal(await page.locator('.versions tbody tr').count(), 3)
  assert.match(await text(page, '.versions tbody tr'), /lab\/mine · 01 May 2024, 00:07[^]*101\.00\s+202\.00/)
  await page.getByRole('link', { name: 'Storage', exact: true }).click()
  await page.waitForSelector('.tiles dd >> text=700')
})

test('a backfill is estimated, started, watched to its end, and a long one is cancelled', async () => {
  await open.query('{ symbols(market: "demo", provider: "synthetic") { totalCount } }')
  const page = await visit(open, 'backfills')
  const order = async (pattern, since) => {
    await page.selectOption('select', 'demo/synthetic')
    await page.getByLabel('Symbols').fill(pattern)
    await page.getByLabel('From, UTC').fill(since)
    await page.getByRole('button', { name: 'Estimate' }).click()
  }
  await order('NOPE*', '2026-01-01T00:00')
  await page.waitForSelector('.failure')
  assert.match(await text(page, '.failure'), /No symbol of demo\/synthetic matches 'NOPE\*'\.\s+BAD_USER_INPUT/)

  const since = new Date(Date.now() - 2 * 86_400_000).toISOString().slice(0, 10) + 'T00:00'
  await order('BTC/USD', since)
  await page.waitForSelector('.tiles')
  assert.match(await text(page, '.tiles'), /Symbols\s+1\s+Calls\s+\d/)
  await page.getByRole('button', { name: /^Start/ }).click()
  await page.waitForSelector('.job .pill.done')
  assert.match(await text(page, '.job'), /BTC\/USD 1m done/)

  await order('*', '2015-01-01T00:00')
  await page.getByRole('button', { name: /^Start/ }).click()
  await page.getByRole('button', { name: 'Cancel' }).click()
  await page.waitForSelector('.job .pill.cancelled')
})

test('a series is tracked and let go, the axis goes from years to minutes, and providers show their budget', async () => {
  const page = await visit(open, 'series')
  const row = page.locator('.series', { hasText: 'demo/synthetic' }).first()
  await row.getByRole('button').first().click()
  await row.getByRole('button', { name: 'Track', exact: true }).click()
  await page.waitForSelector('.chip.tracked')
  await row.getByRole('button', { name: 'Stop tracking' }).click()
  await page.waitForSelector('.chip.tracked', { state: 'detached' })

  const labels = () => page.locator('.axis-labels').innerText()
  await page.getByRole('button', { name: '1H' }).click()
  await eventually(async () => /^\d\d:\d\d/.test(await labels()))
  for (const key of ['-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-', '-']) await page.keyboard.press(key)
  await eventually(async () => /^(19|20)\d\d/.test(await labels()))
  await page.keyboard.press('a')
  await eventually(async () => await page.getByRole('button', { name: 'All' }).getAttribute('aria-pressed') === 'true')

  await page.getByRole('link', { name: 'Providers', exact: true }).click()
  const card = page.locator('.provider', { hasText: 'demo/synthetic' })
  await card.waitFor()
  assert.match(await card.innerText(), /ready/)
  assert.match(await card.innerText(), /Rate budget[\s\d,]+of 1,000 in 1 s/)
  assert.match(await card.innerText(), /calls pass/)
})

test('a viewer learns what is missing, an operator gets in, and signing out shuts the door', async () => {
  const page = await visit(closed, 'series')
  const enter = async (name) => {
    await page.waitForSelector('.gate input[name=username]')
    await page.fill('.gate input[name=username]', name)
    await page.fill('.gate input[name=password]', PASSWORD)
    await page.keyboard.press('Enter')
  }
  await enter('nobody')
  await page.waitForSelector('.failure >> text=The user name or the password is wrong.')
  await enter('vera')
  await page.waitForSelector('.gate >> text=Not for this account')
  assert.match(await text(page, '.gate'), /This needs the role OPERATOR\.\s+vera is viewer\. FORBIDDEN/)
  await page.getByRole('button', { name: 'Use another account' }).click()
  await enter('ada')
  await page.waitForSelector('.empty')
  await page.reload()
  await page.waitForSelector('.empty')
  await page.getByRole('link', { name: 'Upload', exact: true }).click()
  await choose(page, 'a.csv', csv(range(0, 50)))
  await page.waitForSelector('.outcome.seen')
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByRole('link', { name: 'Storage', exact: true }).click()
  await page.waitForSelector('.gate input[name=username]')
})

test('a server that is away is an error with its way on, and comes back', async () => {
  const cable = await new Cable(open.url).mend()
  const page = await visit({ url: cable.url }, 'storage')
  await page.waitForSelector('.tiles')
  await cable.cut()
  await page.getByRole('link', { name: 'Corrections', exact: true }).click()
  await page.waitForSelector('.failure')
  assert.match(await text(page, '.failure'), /does not answer.*UNREACHABLE/s)
  await cable.mend()
  await page.getByRole('button', { name: 'Try again' }).click()
  await page.waitForSelector('.versions')
  await page.close()
  await cable.cut()
})

test('every view is reached by the keyboard, fits a phone, and axe finds nothing serious in dark and light', async () => {
  const page = await visit(open, 'series', { ...PHONE, colorScheme: 'dark' })
  await page.waitForSelector('.series')
  await page.keyboard.press('Tab')
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'Skip to the content')
  await page.keyboard.press('Enter')
  assert.equal(await page.evaluate(() => document.activeElement.id), 'content')
  for (const view of VIEWS) {
    await page.evaluate((name) => { location.hash = name }, view)
    await page.waitForSelector(`#${view}-title`)
    await page.waitForSelector('.skeleton', { state: 'detached' })
    const wide = await page.evaluate(() => [document.documentElement, document.querySelector('main')].map((one) => one.scrollWidth - one.clientWidth))
    assert.deepEqual(wide, [0, 0], `${view} is wider than a phone`)
    assert.deepEqual(await findingsOf(page), [], view)
  }
})
