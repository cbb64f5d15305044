// A real browser for the scenarios: it resolves no name, and reports whatever a page should not do.
import chromiumOfNpm from '@sparticuz/chromium'
import axe from 'axe-core'
import { existsSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { chromium } from 'playwright-core'
import { HANG_MS } from './server.mjs'

const DEBIAN = '/usr/bin/chromium'
const ARGS = ['--no-sandbox', '--disable-dev-shm-usage', '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1']

/** Debian's Chromium where it is installed, else that of npm, which brings its libraries along. */
export async function launch() {
  if (existsSync(DEBIAN)) return chromium.launch({ executablePath: DEBIAN, args: ARGS })
  // Without the arguments that its package suggests: with one process for everything, the first page that is closed ends it.
  return chromium.launch({ executablePath: await chromiumOfNpm.executablePath(), args: ARGS })
}

/** A page that collects its faults: console errors, exceptions, breaches of the policy, and requests of other hosts. */
export async function openPage(context, url, faults) {
  const page = await context.newPage()
  page.setDefaultTimeout(HANG_MS)
  const { origin } = new URL(url)
  await page.addInitScript(() => {
    addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) => console.error(`policy: ${violatedDirective} ${blockedURI}`))
  })
  page.on('pageerror', (error) => faults.push(error.stack ?? error.message))
  page.on('console', (message) => {
    const isLost = /ERR_CONNECTION|WebSocket connection to/.test(message.text()) // a cut, which the browser logs itself
    if (['error', 'warning'].includes(message.type()) && !isLost) faults.push(message.text())
  })
  page.on('request', (request) => {
    if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== origin) faults.push(`another host: ${request.url()}`)
  })
  await page.goto(url)
  return page
}

/** The serious and critical findings of axe about a part of the page, in dark and in light, each with its elements. */
export async function findingsOf(page, part = 'body') {
  await page.evaluate(axe.source)
  const found = []
  for (const [colorScheme, rules] of [['dark', {}], ['light', { runOnly: ['color-contrast'] }]]) {
    await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' })
    const { violations } = await page.evaluate(([selector, given]) => window.axe.run(selector, { resultTypes: ['violations'], ...given }), [part, rules])
    for (const { id, impact, nodes } of violations) {
      if (!['serious', 'critical'].includes(impact)) continue
      found.push(...nodes.map(({ html, any }) => `${colorScheme}: ${id}: ${html.slice(0, 120)} ${any[0]?.message ?? ''}`))
    }
  }
  return found
}

/** A way to a server that can be cut. */
export class Cable {
  #sockets = new Set()
  #port = 0

  constructor(url) {
    this.target = new URL(url)
  }

  get url() {
    return `http://127.0.0.1:${this.#port}${this.target.pathname}`
  }

  async mend() {
    this.server = createServer((near) => {
      const far = connect(Number(this.target.port), '127.0.0.1')
      for (const [from, to] of [[near, far], [far, near]]) {
        this.#sockets.add(from)
        from.pipe(to)
        from.on('error', () => to.destroy())
        from.on('close', () => {
          this.#sockets.delete(from)
          to.destroy()
        })
      }
    })
    await new Promise((resolve) => this.server.listen(this.#port, '127.0.0.1', resolve))
    this.#port = this.server.address().port
    return this
  }

  async cut() {
    const closed = new Promise((resolve) => this.server.close(resolve))
    for (const socket of this.#sockets) socket.resetAndDestroy()
    await closed
  }
}
