// node screenshots.mjs FILE   the picture of the README: the chart of the demo market, dark, as a newcomer sees it.
import { launch, openPage } from './browser.mjs'

const { usual } = JSON.parse(process.env.CANDLEGRAPH_TEST)
const browser = await launch()
const context = await browser.newContext({ viewport: { width: 1280, height: 720 }, colorScheme: 'dark', timezoneId: 'UTC' })
await context.addInitScript(() => {
  const chart = { market: 'demo', provider: 'synthetic', symbol: 'BTC/USD', timeframe: '15m' }
  localStorage.setItem('candlegraph-layout', JSON.stringify({ charts: [chart], zone: 'UTC', welcomed: true }))
})
const faults = []
const page = await openPage(context, usual.url, faults)
await page.waitForSelector('.legend dl')
await page.waitForSelector('.row .last')
await page.waitForTimeout(1_500) // the ticks of the watchlist fade out
await page.screenshot({ path: process.argv[2] })
await browser.close()
if (faults.length) throw new Error(faults.join('\n'))
