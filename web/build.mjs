// Bundles src/ into ../server/web/, which the server offers as static/ beside the pages. See README.md.
// node build.mjs --development DIR makes the chart and the console alone, readable and with the checks of their libraries.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = dirname(fileURLToPath(import.meta.url))
const [flag, folder] = process.argv.slice(2)
const isDevelopment = flag === '--development'
const outdir = isDevelopment ? folder : join(here, '../server/web')
const rule = `\n\n${'-'.repeat(80)}\n\n`

// graphiql/style.css carries these as data, without their terms.
const fonts = `Fonts in the style sheet
Roboto 2.137: Copyright 2011 Google Inc. Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0
Fira Code 5.002: Copyright 2014-2020 The Fira Code Project Authors (https://github.com/tonsky/FiraCode).
SIL Open Font License 1.1, https://openfontlicense.org
Codicons: Copyright Microsoft Corporation. CC BY 4.0, https://creativecommons.org/licenses/by/4.0/`

const shared = {
  absWorkingDir: here,
  outdir,
  entryNames: '[name]-[hash]',
  chunkNames: 'chunk-[hash]',
  bundle: true,
  minify: !isDevelopment,
  metafile: true,
  write: false, // everything is in memory until all of it has been built
  target: 'es2022',
  define: { 'process.env.NODE_ENV': isDevelopment ? '"development"' : '"production"' },
  conditions: isDevelopment ? ['development'] : [],
  legalComments: 'none', // third-party.txt has every licence in full
  logLevel: 'warning',
}

// The client's sources are bundled from their own folder, which may have packages of its own.
const modules = ['graphql', 'graphql-ws', 'lightweight-charts', '@graphql-typed-document-node/core']
const clientPackage = {
  '@candlegraph/client/lightweight-charts': '../clients/typescript/src/lightweight-charts.ts',
  '@candlegraph/client': '../clients/typescript/src/index.ts',
  ...Object.fromEntries(modules.map((name) => [name, `./node_modules/${name}`])),
}

const [door, doorPages] = await frontDoor()
const [editor, editorPages] = isDevelopment ? [[], []] : await graphiql()
const builds = [door, ...editor]
const files = new Map(builds.flatMap((one) => one.outputFiles).map((file) => [basename(file.path), file.contents]))
files.set('favicon.svg', readFileSync(join(here, 'src/favicon.svg')))
files.set('third-party.txt', licences(builds))
// Last: a page is there only when everything it names is.
for (const [name, html] of [...doorPages, ...editorPages]) files.set(name, html)

rmSync(outdir, { recursive: true, force: true })
mkdirSync(outdir, { recursive: true })
for (const [name, contents] of files) {
  writeFileSync(join(outdir, `${name}.part`), contents)
  renameSync(join(outdir, `${name}.part`), join(outdir, name))
}

/** The pages of the front door; what they share is a chunk of its own. */
async function frontDoor() {
  const made = await build({
    ...shared,
    format: 'esm',
    splitting: true,
    entryPoints: { index: 'src/chart/main.tsx', console: 'src/console/main.tsx' },
    alias: clientPackage,
  })
  const texts = {
    index: { name: 'chart', title: 'Candlegraph', description: 'Candles of every market of this server, live' },
    console: { name: 'console', title: 'Console · Candlegraph', description: 'Operate this server: coverage, gaps, backfills, files' },
  }
  return [made, Object.entries(texts).map(([name, text]) => page(name, [made, made], 'page', text))]
}

/** A page, once its scripts and styles are there. */
function page(name, [scripts, styles], template = name, texts = {}) {
  const values = { ...texts, style: nameOf(styles, `${name}-`, '.css'), script: nameOf(scripts, `${name}-`, '.js') }
  return [`${name}.html`, fill(readFileSync(join(here, `src/${template}.html`), 'utf8'), values)]
}

/** GraphiQL, with its workers. */
async function graphiql() {
  const workers = await build({
    ...shared,
    format: 'iife',
    entryPoints: {
      'editor.worker': 'monaco-editor/esm/vs/editor/editor.worker.js',
      'graphql.worker': 'monaco-graphql/esm/graphql.worker.js',
      'json.worker': 'monaco-editor/esm/vs/language/json/json.worker.js',
    },
  })
  const addresses = Object.fromEntries(
    ['editor', 'graphql', 'json'].map((label) => [label, nameOf(workers, `${label}.worker-`)]),
  )

  const styles = await build({ ...shared, entryPoints: ['src/graphiql.css'] })

  const scripts = await build({
    ...shared,
    format: 'esm',
    splitting: true, // Monaco and Prettier are loaded when they are needed
    entryPoints: ['src/graphiql.jsx'],
    tsconfigRaw: { compilerOptions: { jsx: 'react-jsx', jsxImportSource: 'react' } },
    // GraphiQL asks for the CommonJS editions, whose names a split chunk does not export: "Prettify" would fail.
    alias: {
      ...clientPackage,
      'prettier/parser-babel': 'prettier/plugins/babel',
      'prettier/parser-graphql': 'prettier/plugins/graphql',
    },
    // graphiql/style.css has Monaco's styles already, and the style sheet of a split chunk would never be loaded.
    loader: { '.css': 'empty' },
    define: { ...shared.define, WORKERS: JSON.stringify(addresses) },
  })
  return [[workers, styles, scripts], [page('graphiql', [scripts, styles])]]
}

function nameOf({ outputFiles }, start, end = '') {
  return outputFiles.map((file) => basename(file.path)).find((name) => name.startsWith(start) && name.endsWith(end))
}

function fill(template, values) {
  return template.replace(/\{\{(\w+)\}\}/g, (_, key) => values[key])
}

/** The licence of every package that has code in the bundle: their terms ask that it goes along. */
function licences(results) {
  const inputs = results.flatMap(({ metafile }) => Object.keys(metafile.inputs))
  const packages = new Set(inputs.flatMap((path) => path.match(/^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//)?.[1] ?? []))
  const texts = [...packages].sort().map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(here, folder, 'package.json'), 'utf8'))
    const terms = readdirSync(join(here, folder))
      .filter((file) => /^(licen[cs]e|notice|thirdpartynotices)/i.test(file))
      .map((file) => readFileSync(join(here, folder, file), 'utf8').trim())
    return [`${name} ${version} (${license})`, ...terms].join('\n\n')
  })
  return [fonts, ...texts].join(rule)
}
