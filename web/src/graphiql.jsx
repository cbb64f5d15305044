import { useGraphiQL, useGraphiQLActions } from '@graphiql/react'
import { GraphiQL } from 'graphiql'
import { useEffect } from 'react'
import { createRoot } from 'react-dom/client'

import { examples } from './examples.js'
import { createFetcher } from './fetcher.js'
import { storage } from './storage.js'

// WORKERS is put in by build.mjs: { editor, graphql, json } and the addresses of their files.
self.MonacoEnvironment = {
  getWorker: (_id, label) => new Worker(WORKERS[label] ?? WORKERS.editor, { name: label }),
}

// Without these the variables pane marks an object given for a JSON scalar as an error.
const scalars = {
  DateTime: { type: 'string' },
  JSON: { type: ['object', 'array', 'string', 'number', 'boolean', 'null'] },
  Timeframe: { type: 'string' },
  Timestamp: { type: ['integer', 'string'] },
}

const fetcher = createFetcher('/graphql')

/** GraphiQL asks for the system's theme once: a system that turns dark later would leave dark text on dark panes. */
function FollowSystemTheme() {
  const theme = useGraphiQL((state) => state.theme)
  const { setTheme } = useGraphiQLActions()
  useEffect(() => {
    const system = matchMedia('(prefers-color-scheme: dark)')
    const follow = () => setTheme(theme)
    system.addEventListener('change', follow)
    return () => system.removeEventListener('change', follow)
  }, [theme, setTheme])
  return null
}

createRoot(document.getElementById('graphiql')).render(
  <GraphiQL
    fetcher={fetcher}
    storage={storage}
    defaultTabs={examples}
    defaultEditorToolsVisibility="variables"
    customScalarSchemas={scalars}
  >
    <GraphiQL.Logo>
      <a className="graphiql-logo-link candlegraph-logo" href="/graphql">
        <img src="/static/favicon.svg" alt="" />
        Candlegraph
      </a>
    </GraphiQL.Logo>
    <FollowSystemTheme />
  </GraphiQL>,
)
