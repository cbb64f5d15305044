// node audits.mjs http://127.0.0.1:8000   the audits of GraphQL over HTTP by graphql-http, against a real server; one JSON line each.
import { auditServer } from 'graphql-http'

const results = await auditServer({ url: new URL('/graphql', process.argv[2]).href, fetchFn: fetch })
for (const { id, name, status, reason } of results) {
  console.log(JSON.stringify({ id, name, status, reason }))
}
