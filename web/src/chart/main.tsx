// The chart: the front door.
import '../shared/base.css'
import './chart.css'
import { render } from 'preact'
import { useEffect } from 'preact/hooks'
import { loadMarkets } from '../shared/connection.ts'
import { Dialogs } from './dialogs.tsx'
import { listenToKeys } from './keys.ts'
import { Pane } from './pane.tsx'
import { followWatchlist } from './quotes.ts'
import { layout } from './state.ts'
import { Lost, Status } from './status.tsx'
import { keepLayout } from './sync.ts'
import { Toolbar } from './toolbar.tsx'
import { Watchlist } from './watchlist.tsx'
import { Welcome } from './welcome.tsx'

function App() {
  useEffect(() => {
    listenToKeys()
    keepLayout()
    void loadMarkets()
    return followWatchlist()
  }, [])
  const { charts } = layout.value
  return (
    <>
      <Toolbar />
      <Lost />
      <div class="body">
        <main class={`charts of${charts.length}`}>{charts.map((view, place) => <Pane key={place} view={view} place={place} />)}</main>
        <Watchlist />
      </div>
      <Welcome />
      <Status />
      <Dialogs />
    </>
  )
}

const app = document.getElementById('app')
if (app) {
  app.replaceChildren()
  render(<App />, app)
}
