// Runs the tests: node test/run.mjs. CANDLEGRAPH_TEST describes the servers, as tests/clients/test_typescript_client.py does.
import { build } from 'esbuild'
import { spawnSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const here = dirname(fileURLToPath(import.meta.url))
const outdir = join(here, '../dist/test') // inside the package, so that its own name and its packages are found
const only = process.argv[2] ?? '' // a part of a file's name
const files = readdirSync(here).filter((file) => file.endsWith('.test.ts') && file.includes(only))
await build({
  entryPoints: files.map((file) => join(here, file)), outdir, outExtension: { '.js': '.mjs' },
  bundle: true, packages: 'external', platform: 'node', format: 'esm', target: 'node20', ignoreAnnotations: true,
})
const built = files.map((file) => join(outdir, file.replace('.ts', '.mjs')))
const { status } = spawnSync(
  process.execPath, ['--conditions', 'development', '--test', '--test-reporter', 'spec', '--test-timeout', '240000', '--test-force-exit', '--test-concurrency', '3', ...built], { stdio: 'inherit' },
)
process.exit(status ?? 1)
