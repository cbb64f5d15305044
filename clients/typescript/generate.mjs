// Writes src/documents.ts from src/documents.graphql and the server's schema; with --check it only compares.
import { codegen } from '@graphql-codegen/core'
import * as typedDocumentNode from '@graphql-codegen/typed-document-node'
import * as operations from '@graphql-codegen/typescript-operations'
import { readFileSync, writeFileSync } from 'node:fs'
import { buildSchema, isInterfaceType, isObjectType, parse } from 'graphql'

const read = (path) => readFileSync(new URL(path, import.meta.url), 'utf8')
const target = new URL('src/documents.ts', import.meta.url)
const text = read('../../schema.graphql')
const schema = buildSchema(text)
const document = parse(read('src/documents.graphql'))
const types = Object.values(schema.getTypeMap()).filter(({ name }) => !name.startsWith('__'))
const roots = [schema.getQueryType(), schema.getMutationType(), schema.getSubscriptionType()]

/** What caches need to know of the types: those without an `id`, and those of each interface. */
const caches = {
  plugin: () => {
    const embedded = types.filter((type) => isObjectType(type) && !type.getFields().id && !roots.includes(type))
    const interfaces = types.filter(isInterfaceType).map((type) => [
      type.name, schema.getPossibleTypes(type).map(({ name }) => name).sort(),
    ])
    return [
      '/** The types without an `id`. */',
      `export const embeddedTypes = ${JSON.stringify(embedded.map(({ name }) => name).sort())} as const`,
      '/** The types of each interface. */',
      `export const possibleTypes = ${JSON.stringify(Object.fromEntries(interfaces))}`,
      '',
    ].join('\n')
  },
}

const config = {
  scalars: {
    DateTime: 'string', JSON: 'unknown', Timeframe: 'string', Timestamp: { input: 'number | string', output: 'number' }, ID: 'string',
  },
  strictScalars: true,
  useTypeImports: true,
  enumsAsTypes: true,
  enumType: 'string-literal',
  skipTypename: true,
  immutableTypes: true,
  arrayInputCoercion: false,
  inputMaybeValue: 'T | null | undefined',
  documentVariableSuffix: '',
  fragmentVariableSuffix: 'Document',
  optimizeDocumentNode: true,
}
const generated = await codegen({
  filename: 'documents.ts',
  schema: parse(text),
  documents: [{ location: 'documents.graphql', document }],
  config,
  pluginMap: { operations, typedDocumentNode, caches },
  plugins: [{ operations: {} }, { typedDocumentNode: {} }, { caches: {} }],
})
const made = `// Written by generate.mjs.\n${generated}`
if (!process.argv.includes('--check')) writeFileSync(target, made)
else if (readFileSync(target, 'utf8') !== made) {
  console.error('src/documents.ts is not of the present schema: run `npm run generate`')
  process.exit(1)
}
