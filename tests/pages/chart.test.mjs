// node --test chart.test.mjs   the chart at /, in a browser, against servers that run; see test_pages.py.
import assert from 'node:assert/strict'
import { rmSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, test } from 'node:test'
import { Cable, findingsOf, launch, openPage } from './browser.mjs'
import { eventually, MINUTE_MS, Server } from './server.mjs'

const DESKTOP = { viewport: { width: 1440, height: 860 }, timezoneId: 'UTC', permissions: ['clipboard-read', 'clipboard-write'] }
const usual = new Server('usual')
const fast = new Server('fast')
const grows = { symbol: `GROWS${Date.now()}`, now: Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS }
grow(60) // now: the list of a provider that has been read is read again for a new symbol after a minute only
const browser = await launch()
const faults = []
const contexts = []
after(() => browser.close())
afterEach(async () => {
  await Promise.all(contexts.splice(0).map((context) => context.close()))
  assert.deepEqual(faults.splice(0), [])
})

async function visit(url, options = {}) {
  const context = await browser.newContext({ ...DESKTOP, ...options })
  contexts.push(context)
  return openPage(context, url, faults)
}

function fileOf(symbol) {
  return join(usual.FILES_DIR, `${symbol}_1m.csv`)
}

/** Candles from three hours ago up to so many minutes ago, in a file that was last written a minute ago: it is read at once. */
function grow(until) {
  const times = Array.from({ length: 180 - until }, (_, i) => grows.now - (180 - i) * MINUTE_MS)
  const file = fileOf(grows.symbol)
  writeFileSync(file, 'timestamp,open,high,low,close,volume\n' + times.map((at) => `${at},1,2,1,2,5\n`).join(''))
  utimesSync(file, Date.now() / 1_000 - 60, Date.now() / 1_000 - 60)
}

/** The table for screen readers: its caption, and [state, close] by time. */
async function tableOf(page, place = 0) {
  return page.locator('table.hidden').nth(place).evaluate((table) => ({
    caption: table.caption.textContent,
    rows: [...table.tBodies[0].rows].map((row) => [row.cells[0].textContent, row.cells[6].textContent, Number(row.cells[4].textContent.replaceAll(',', ''))]),
  }))
}

const titleOf = (page) => page.locator('.legend .title').first().innerText()
const text = (page, selector) => page.locator(selector).first().innerText()
const printed = (at) => new Date(at).toISOString().slice(11, 16)

test('the first visit shows the demo market as it moves, and leads to everything by the keyboard', async () => {
  const page = await visit(usual.url)
  await page.waitForSelector('.legend dl')
  assert.match(await titleOf(page), /BTC\/USD\s+1m\s+demo\/synthetic/)
  assert.match(await text(page, '.chip.forming'), /forming, closes in 0:\d\d/)
  assert.equal(await text(page, '.chip.complete'), 'complete')
  const first = (await tableOf(page)).rows[0]
  await eventually(async () => (await tableOf(page)).rows[0][2] !== first[2])

  await page.keyboard.press('/')
  await page.keyboard.type('ether')
  await page.waitForSelector('.choice >> text=ETH/USD')
  await page.keyboard.press('Enter')
  await eventually(async () => /ETH\/USD\s+1m/.test(await titleOf(page)))
  await page.keyboard.type('7m')
  await page.keyboard.press('Enter')
  await eventually(async () => /ETH\/USD\s+7m/.test(await titleOf(page)))
  await page.keyboard.press('z')
  await page.keyboard.type('new york')
  await page.keyboard.press('Enter')
  await eventually(async () => /New York/.test(await text(page, '.zone')))
  await page.keyboard.press('/')
  await page.waitForSelector('#choices h3 >> text=Recent')
  await page.keyboard.press('Escape')
  await page.keyboard.press('?')
  await page.waitForSelector('.keys')
  await page.keyboard.press('Escape')

  await page.waitForSelector('.welcome li >> nth=2')
  await page.getByLabel('Close the first steps').click()
  await page.reload()
  await page.waitForSelector('.legend dl')
  assert.match(await titleOf(page), /ETH\/USD\s+7m/)
  assert.equal(await page.locator('.welcome').count(), 0)
})

test('scrolling to the left loads older candles, and dark and light follow the system', async () => {
  const page = await visit(usual.url, { colorScheme: 'dark' })
  await page.waitForSelector('.legend dl')
  const loaded = async () => Number(/of ([\d,]+) candles/.exec((await tableOf(page)).caption)[1].replace(',', ''))
  assert.ok(await loaded() >= 500)
  await eventually(async () => {
    await page.keyboard.press('ArrowLeft')
    return await loaded() >= 1_000
  }, 'an older page')
  const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor)
  const dark = await background()
  await page.emulateMedia({ colorScheme: 'light' })
  assert.notEqual(await background(), dark)
})

test('candles close, a correction is applied and shown, and a cut leaves nothing out, under a path of a proxy', async () => {
  const cable = await new Cable(fast.url).mend()
  const page = await visit(cable.url)
  await page.waitForSelector('.legend dl')
  const newest = async () => (await fast.candles('BTC/USD', 3)).findLast(({ closed }) => closed).timestamp
  const isShown = async (at) => (await tableOf(page)).rows.some(([time, state]) => time.endsWith(printed(at)) && state === 'closed')
  const closing = await newest() + MINUTE_MS
  await eventually(() => isShown(closing))

  await fast.correct('BTC/USD', closing, 12_345.67)
  await page.waitForSelector('.chip.corrected')
  await eventually(async () => (await tableOf(page)).rows.some(([, , close]) => close === 12_345.67))

  await cable.cut()
  await page.waitForSelector('.lost-banner')
  assert.match(await text(page, '.lost-banner'), /Connection lost/)
  const before = await newest()
  await eventually(async () => await newest() > before + 2 * MINUTE_MS)
  await cable.mend()
  await page.waitForSelector('.lost-banner', { state: 'detached' })
  await eventually(() => isShown(before + 2 * MINUTE_MS))

  const session = await page.context().newCDPSession(page)
  await session.send('Page.setWebLifecycleState', { state: 'frozen' }) // a tab that sleeps
  const asleep = await newest()
  await eventually(async () => await newest() > asleep + 3 * MINUTE_MS)
  await session.send('Page.setWebLifecycleState', { state: 'active' })
  await eventually(() => isShown(asleep + 3 * MINUTE_MS))

  const { rows } = await tableOf(page)
  const shown = rows.filter(([, state]) => state === 'closed').map(([time, , close]) => [time.slice(-5), close]).reverse()
  const truth = new Map((await fast.candles('BTC/USD', 60)).map(({ timestamp, close }) => [printed(timestamp), close]))
  assert.deepEqual(shown, shown.map(([time]) => [time, truth.get(time)]))
  assert.ok(shown.length > 15)
  await page.close()
  await cable.cut()
})

test('a gap is named with its reason, and an operator fills it and sees it filled', async () => {
  const { symbol, now } = grows
  const page = await visit(`${usual.url}#chart=files/files/${symbol}@1m`)
  await page.waitForSelector('.chip.gaps')
  assert.match((await tableOf(page)).caption, /of 120 candles/)
  await page.keyboard.press('g')
  const card = await text(page, '.gap-card')
  assert.match(card, /Not available[^]*The provider does not have it[^]*Fill this gap/)
  assert.ok(card.includes(`${printed(now - 60 * MINUTE_MS)} –`), card)

  await page.getByRole('button', { name: 'Fill this gap' }).click()
  await page.waitForSelector('.gap-card .progress') // the backfill is watched, whatever it finds
  grow(0)
  await eventually(async () => {
    const button = page.getByRole('button', { name: 'Fill this gap' })
    if (await button.count()) await button.click({ timeout: 1_000 }).catch(() => undefined)
    return /of 180 candles/.test((await tableOf(page)).caption)
  }, 'the gap is filled')

  await usual.run(['import', fileOf(symbol), '--market', 'mine', '--provider', 'own', '--symbol', symbol, '--timeframe', '1m', '--until', new Date(now - 90 * MINUTE_MS).toISOString()])
  const imported = await visit(`${usual.url}#chart=mine/own/${symbol}@1m`)
  await imported.waitForSelector('.chip.gaps')
  await imported.keyboard.press('g')
  assert.match(await text(imported, '.gap-card'), /Not fetched/)
  assert.equal(await imported.getByRole('button', { name: 'Fill this gap' }).count(), 0)
  rmSync(fileOf(symbol))
})

test('the watchlist moves; an account keeps layout and watchlist, and the newer one wins', async () => {
  const name = `ada${Date.now()}`
  await usual.run(['user', 'add', name, '--role', 'operator'], 'correct horse battery\n')
  const page = await visit(usual.url)
  await page.waitForSelector('.row .last')
  const price = await text(page, '.row .last')
  await eventually(async () => await text(page, '.row .last') !== price)

  const signIn = async (page, password) => {
    await page.getByRole('button', { name: 'Sign in' }).first().click()
    await page.getByLabel('Name').fill(name)
    await page.getByLabel('Password').fill(password)
    await page.locator('dialog').getByRole('button', { name: 'Sign in' }).click()
  }
  await signIn(page, 'a wrong one')
  await page.waitForSelector('dialog .problem >> text=UNAUTHENTICATED')
  await page.keyboard.press('Escape')
  await signIn(page, 'correct horse battery')
  await page.waitForSelector('.account >> text=Sign out')
  await page.getByLabel('Stop watching SOL/USD').click()
  const stored = async () => (await page.evaluate(() => localStorage.getItem('candlegraph-session')))
  assert.ok(!(await page.evaluate(() => JSON.stringify(localStorage))).includes('eyJ'), 'an access token is stored')

  const other = await visit(usual.url)
  await eventually(async () => {
    await other.waitForSelector('.row .last')
    return true
  })
  await signIn(other, 'correct horse battery')
  await other.waitForSelector('.account >> text=Sign out')
  await eventually(async () => await other.locator('.row').count() === 3)
  const saved = other.waitForResponse((response) => response.request().postData()?.includes('SaveConfig'))
  await other.getByLabel('Stop watching EUR/USD').click()
  await saved
  await page.getByRole('button', { name: '15m' }).click()
  await page.waitForSelector('.notice >> text=newer')
  await eventually(async () => await page.locator('.row').count() === 2)

  const twin = await openPage(page.context(), usual.url, faults)
  await twin.waitForSelector('.account >> text=Sign out') // two tabs wake up at once
  await Promise.all([page.reload(), twin.reload()])
  await Promise.all([page, twin].map((one) => one.waitForSelector('.account >> text=Sign out')))
  assert.ok(await stored())
  const editor = await openPage(page.context(), new URL('graphql', usual.url).href, faults)
  await editor.waitForSelector(`.candlegraph-session >> text=${name}`)
  await twin.bringToFront()
  await twin.getByRole('button', { name: 'Sign out' }).click()
  await page.waitForSelector('.account >> text=Sign in')
  assert.equal(await stored(), null)
})

test('errors say the sentence and the code of the server, and names are text', async () => {
  const page = await visit(`${usual.url}#chart=demo/synthetic/NO/SUCH@1m`)
  await page.waitForSelector('.state.card')
  assert.match(await text(page, '.state.card'), /NO\/SUCH[^]*NOT_FOUND/)
  const evil = '<img src=x onerror=alert(1)>'
  const other = await visit(`${usual.url}#chart=demo/synthetic/${encodeURIComponent(evil)}@1m`)
  await other.waitForSelector('.state.card')
  assert.ok((await titleOf(other)).includes(evil))
  assert.equal(await other.locator('img[src="x"]').count(), 0)
  await other.keyboard.press('/')
  await other.waitForSelector('#choices .problem') // a provider without a key says so
  assert.match(await text(other, '#choices'), /ALPACA|key/i)
})

test('four charts share one socket and a crosshair; measure, picture and link', async () => {
  const sockets = []
  const context = await browser.newContext(DESKTOP)
  contexts.push(context)
  context.on('page', (page) => page.on('websocket', (socket) => sockets.push(socket.url())))
  const page = await openPage(context, usual.url, faults)
  await page.waitForSelector('.legend dl')
  await page.getByLabel('4 charts').click()
  await eventually(async () => await page.locator('.legend dl').count() === 4)
  assert.equal(sockets.length, 1)
  await page.mouse.move(200, 250)
  await eventually(async () => await page.locator('.facts .chip', { hasText: /^closed$/ }).count() === 4, 'each chart shows the candle of the crosshair')

  await page.getByLabel('1 chart', { exact: true }).click()
  await page.keyboard.press('m')
  await page.mouse.move(300, 250)
  await page.mouse.down()
  await page.mouse.move(500, 400)
  await page.mouse.up()
  assert.match(await text(page, '.measure output'), /%\)[^]*bars/)
  await page.keyboard.press('Escape')
  await page.keyboard.press('m')
  await page.waitForSelector('.measure:focus')
  await page.keyboard.press('Shift+ArrowLeft')
  await page.keyboard.press('ArrowRight')
  assert.match(await text(page, '.measure output'), /%\)[^]*9 bars, 9 minutes/)
  await page.keyboard.press('Escape')
  const downloading = page.waitForEvent('download')
  await page.keyboard.press('s')
  assert.match((await downloading).suggestedFilename(), /^BTC-USD-1m\.png$/)
  await page.getByRole('button', { name: '1h', exact: true }).click()
  await page.waitForSelector('.legend .frame >> text=1h')
  await page.waitForSelector('.chip.complete')
  await page.keyboard.press('l')
  await page.waitForSelector('.notice')
  const linked = await visit(page.url())
  await linked.waitForSelector('.legend dl')
  assert.match(await titleOf(linked), /BTC\/USD\s+1h/)
})

test('charts that were left before their answers came are left alone', async () => {
  const page = await visit(usual.url)
  await page.waitForSelector('.legend dl')
  const late = []
  await page.route('**/graphql', (route) => { late.push(route) })
  for (const timeframe of ['5m', '1h', '1d', '5m', '1m', '15m']) {
    const before = late.length
    await page.getByRole('button', { name: timeframe, exact: true }).click()
    await eventually(() => late.length >= before + 2) // the candles, which the page cancels, and the symbol
  }
  await Promise.all(late.map((route) => route.continue().catch(() => undefined)))
  await page.unroute('**/graphql')
  await page.waitForSelector('.legend dl')
  assert.match(await titleOf(page), /BTC\/USD\s+15m/)
  await page.getByRole('button', { name: '1m', exact: true }).click()
  await page.waitForSelector('.chip.forming')
})

test('a phone has everything in its width, and axe finds nothing serious, on it and on a desktop', async () => {
  const phone = await visit(usual.url, { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true })
  await phone.waitForSelector('.legend dl')
  assert.deepEqual(await findingsOf(phone), [])
  await phone.getByRole('button', { name: 'Watchlist' }).tap()
  await phone.waitForSelector('.watchlist.open .last')
  assert.ok(await phone.evaluate(() => document.documentElement.scrollWidth <= innerWidth))
  assert.deepEqual(await findingsOf(phone, '.watchlist'), [])

  const page = await visit(`${usual.url}#chart=demo/synthetic/BTC/USD@1m&chart=demo/synthetic/NO/SUCH@1m`)
  await page.waitForSelector('.legend dl')
  await page.waitForSelector('.state.card')
  assert.deepEqual(await findingsOf(page), [])
  for (const [key, selector] of [['/', '.choice'], ['t', 'dialog form'], ['z', '.zones'], ['?', '.keys']]) {
    await page.keyboard.press(key)
    await page.waitForSelector(selector)
    assert.deepEqual(await findingsOf(page, 'dialog'), [], `the dialog of ${key}`)
    await page.keyboard.press('Escape')
  }
  await page.getByRole('button', { name: 'Sign in' }).first().click()
  await page.waitForSelector('dialog input[type=password]')
  assert.deepEqual(await findingsOf(page, 'dialog'), [])
})
