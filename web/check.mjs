// Validates every example of src/examples.js against a schema file: node check.mjs [../schema.graphql]
import { readFileSync } from 'node:fs'
import { buildSchema, getVariableValues, parse, validate } from 'graphql'
import { examples } from './src/examples.js'

const schema = buildSchema(readFileSync(process.argv[2] ?? new URL('../schema.graphql', import.meta.url), 'utf8'))

const problems = examples.flatMap(({ query, variables }) => {
  const document = parse(query)
  const [operation] = document.definitions
  const { errors = [] } = getVariableValues(schema, operation.variableDefinitions, JSON.parse(variables ?? '{}'))
  return [...validate(schema, document), ...errors].map(({ message }) => `${operation.name.value}: ${message}`)
})

if (problems.length) {
  console.error(problems.join('\n'))
  process.exit(1)
}
console.log(`${examples.length} examples are valid`)
