// node figures.mjs   how fast the chart is, with its libraries as they are shipped; run by hand: python -m tests.pages.figures.
import { connect, createServer } from 'node:net'
import { launch } from './browser.mjs'

const RUNS = 11
const CPU_S = 30
const { usual } = JSON.parse(process.env.CANDLEGRAPH_TEST)
const browser = await launch()

function quantiles(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))]?.toFixed(0)
  return `median ${at(0.5)} ms, p95 ${at(0.95)} ms, longest ${at(1)} ms, of ${sorted.length}`
}

async function open(url, layout = {}, script = () => undefined) {
  const context = await browser.newContext({ viewport: { width: 1440, height: 860 } })
  await context.addInitScript((kept) => { localStorage.setItem('candlegraph-layout', JSON.stringify({ welcomed: true, zone: 'UTC', ...kept })) }, layout)
  await context.addInitScript(script)
  const page = await context.newPage()
  await page.goto(url)
  await page.waitForSelector('.legend dl')
  return page
}

async function firstCandle() {
  const times = []
  for (let run = 0; run < RUNS; run++) {
    const page = await open(usual.url, {}, () => {
      const look = () => {
        if (!document.querySelector('.legend dl')) requestAnimationFrame(look)
        else requestAnimationFrame(() => setTimeout(() => { window.shownAt = performance.now() })) // after the frame that draws it
      }
      requestAnimationFrame(look)
    })
    await page.waitForFunction(() => window.shownAt)
    times.push(await page.evaluate(() => window.shownAt))
    await page.context().close()
  }
  console.log(`first candle on screen, from the request, an empty cache each: ${quantiles(times)}`)
}

/** From the moment at which the server's bytes leave its socket to the end of the frame that draws them. */
async function updateToPixel() {
  const sent = []
  const target = new URL(usual.url)
  const proxy = createServer((near) => {
    const far = connect(Number(target.port), '127.0.0.1')
    near.on('data', (data) => far.write(data.includes('Upgrade: websocket') ? Buffer.from(data.toString('latin1').replace('Sec-WebSocket-Extensions', 'X-Without-Compression--'), 'latin1') : data))
    far.on('data', (data) => {
      sent.push([performance.timeOrigin + performance.now(), data.toString('latin1')])
      near.write(data)
    })
    for (const [one, other] of [[near, far], [far, near]]) one.on('close', () => other.destroy()).on('error', () => other.destroy())
  })
  await new Promise((resolve) => proxy.listen(0, '127.0.0.1', resolve))
  const page = await open(`http://127.0.0.1:${proxy.address().port}/`, {}, () => {
    window.events = []
    const now = () => performance.timeOrigin + performance.now()
    window.WebSocket = class extends WebSocket {
      constructor(...given) {
        super(...given)
        this.addEventListener('message', ({ data }) => {
          if (!data.includes('"candles":')) return
          const receivedAt = now()
          requestAnimationFrame(() => setTimeout(() => window.events.push({ data: data.slice(0, 400), receivedAt, paintedAt: now() })))
        })
      }
    }
  })
  await page.waitForTimeout(20_000)
  const events = await page.evaluate(() => window.events)
  const found = events.flatMap(({ data, paintedAt, receivedAt }) => {
    const [sentAt] = sent.find(([, bytes]) => bytes.includes(data)) ?? []
    return sentAt ? [{ all: paintedAt - sentAt, page: paintedAt - receivedAt }] : []
  })
  console.log(`update to pixel, from the server's socket: ${quantiles(found.map(({ all }) => all))}`)
  console.log(`  of that in the page: ${quantiles(found.map(({ page }) => page))}`)
  await page.context().close()
  proxy.close()
}

async function cpu() {
  const of = (symbol, timeframe = '1m') => ({ market: 'demo', provider: 'synthetic', symbol, timeframe })
  const watchlist = Array.from({ length: 50 }, (_, i) => of(`M${String(i).padStart(2, '0')}/USD`))
  const page = await open(usual.url, { charts: ['BTC/USD', 'ETH/USD', 'SOL/USD', 'EUR/USD'].map((symbol) => of(symbol)), watchlist })
  await page.waitForFunction(() => document.querySelectorAll('.row .last').length === 50)
  await page.waitForTimeout(5_000)
  const session = await browser.newBrowserCDPSession()
  const read = async () => (await session.send('SystemInfo.getProcessInfo')).processInfo
  const before = new Map((await read()).map(({ id, cpuTime }) => [id, cpuTime]))
  await page.waitForTimeout(CPU_S * 1_000)
  const used = new Map()
  for (const { id, type, cpuTime } of await read()) used.set(type, (used.get(type) ?? 0) + cpuTime - (before.get(id) ?? 0))
  const part = (seconds) => `${((seconds / CPU_S) * 100).toFixed(1)} %`
  const all = [...used.values()].reduce((sum, one) => sum + one, 0)
  console.log(`four charts and 50 watched symbols: ${part(all)} of a core (${[...used].map(([type, seconds]) => `${type} ${part(seconds)}`).join(', ')})`)
  await page.context().close()
}

async function scrolling() {
  const page = await open(usual.url)
  const count = () => page.locator('table.hidden caption').evaluate((caption) => Number(/of ([\d,]+)/.exec(caption.textContent)[1].replaceAll(',', '')))
  await page.mouse.move(600, 300)
  let loaded = await count()
  for (; loaded < 50_000; loaded = await count()) {
    for (let i = 0; i < 10; i++) await page.keyboard.press('ArrowDown') // zoom out: the left edge comes into view
    await page.mouse.wheel(-3_000, 0)
  }
  for (let i = 0; i < 20; i++) await page.keyboard.press('ArrowUp')
  await page.evaluate(() => {
    window.frames_ = []
    let last = performance.now()
    const frame = (now) => {
      window.frames_.push(now - last)
      last = now
      requestAnimationFrame(frame)
    }
    requestAnimationFrame(frame)
  })
  for (let i = 0; i < 150; i++) await page.mouse.wheel(i % 30 < 15 ? -120 : 120, 0)
  for (let i = 0; i < 150; i++) await page.mouse.wheel(0, i % 30 < 15 ? 120 : -120)
  const frames = await page.evaluate(() => window.frames_.slice(1))
  console.log(`${loaded.toLocaleString('en-US')} candles, frames while scrolling and zooming: ${quantiles(frames)}`)
  await page.context().close()
}

const parts = { firstCandle, updateToPixel, cpu, scrolling }
for (const name of process.argv.length > 2 ? process.argv.slice(2) : Object.keys(parts)) await parts[name]()
await browser.close()
