import { useGraphiQL, useGraphiQLActions } from '@graphiql/react'
import { GraphiQL } from 'graphiql'
import { useEffect, useSyncExternalStore } from 'react'
import { createRoot } from 'react-dom/client'

import { examples } from './examples.js'
import { createFetcher } from './fetcher.js'
import { account, signOut } from './session.ts'
import { storage } from './storage.js'

// The server may be mounted under any path: files lie beside this one, the API is at the page's own address.
const file = (name) => new URL(name, import.meta.url).href

// WORKERS is put in by build.mjs: { editor, graphql, json } and the names of their files.
self.MonacoEnvironment = {
  getWorker: (_id, label) => new Worker(file(WORKERS[label] ?? WORKERS.editor), { name: label }),
}

// Without these the variables pane marks an object given for a JSON scalar as an error.
const scalars = {
  DateTime: { type: 'string' },
  JSON: { type: ['object', 'array', 'string', 'number', 'boolean', 'null'] },
  Timeframe: { type: 'string' },
  Timestamp: { type: ['integer', 'string'] },
}

let followBackfill = () => {} // set by the component below, which has the editor
const fetcher = createFetcher(location.pathname, { onAnswer: (data) => followBackfill(data?.startBackfill) })

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

/** Put the id of the backfill that a tab has just started into that tab's variables, for `FollowBackfill`. */
function FollowStartedBackfill() {
  const editor = useGraphiQL((state) => state.variableEditor)
  useEffect(() => {
    followBackfill = (job) => {
      if (!job?.id || !editor) return
      const variables = JSON.parse(editor.getValue() || '{}')
      editor.setValue(JSON.stringify({ ...variables, id: job.id }, null, 2))
    }
  }, [editor])
  return null
}

function Session() {
  const name = useSyncExternalStore((listener) => account.subscribe(listener), () => account.value?.username ?? null)
  return name && (
    <span className="candlegraph-session">
      {name} <button type="button" className="graphiql-un-styled" onClick={() => { void signOut() }}>Sign out</button>
    </span>
  )
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
      <a className="graphiql-logo-link candlegraph-logo" href={location.pathname}>
        <img src={file('favicon.svg')} alt="" />
        Candlegraph
      </a>
      <a className="candlegraph-chart" href="./">Chart</a>
      <Session />
    </GraphiQL.Logo>
    <FollowSystemTheme />
    <FollowStartedBackfill />
  </GraphiQL>,
)
