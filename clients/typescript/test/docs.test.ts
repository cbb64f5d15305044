// The examples of the README and of docs/typescript-client.md run as they are written, one program a page.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { transform } from 'esbuild'
import { Server } from './server.js'

const root = join(dirname(fileURLToPath(import.meta.url)), '../..')
const server = new Server('server')

for (const page of ['README.md', '../../docs/typescript-client.md']) {
  test(`the examples of ${page} run`, async () => {
    const text = readFileSync(join(root, page), 'utf8')
    const blocks = [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code = '']) => code)
    assert.ok(blocks.length >= 2)
    const folder = join(root, 'dist/examples')
    mkdirSync(folder, { recursive: true })
    const imports = new Set(blocks.join('\n').match(/^import .*$/gm))
    const bodies = blocks.map((code) => `{\n${code.replace(/^import .*$/gm, '')}}\n`)
    const program = [
      `import './window.mjs'`, `import WebSocket from 'ws'`, ...imports,
      `globalThis.WebSocket ??= WebSocket`, ...bodies, `process.exit(0)`,
    ].join('\n').replaceAll('http://127.0.0.1:8000', server.endpoint.replace('/graphql', ''))
    const { code } = await transform(program, { loader: 'ts', target: 'node20' })
    const window = await transform(readFileSync(join(root, 'test/window.ts'), 'utf8'), { loader: 'ts' })
    writeFileSync(join(folder, 'window.mjs'), `${window.code}\ndocument.body.innerHTML = '<div id="chart"></div>'`)
    const file = join(folder, `${page.replaceAll(/\W/g, '-')}.mjs`)
    writeFileSync(file, code)
    await promisify(execFile)(process.execPath, [file], { timeout: 30_000 })
  })
}
