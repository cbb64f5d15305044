// The watched symbols with their last price and the change since the close of the day before.
import { decimalsOf, printPercent, printPrice } from '../shared/format.ts'
import { Icon } from '../shared/icons.tsx'
import { isWatchlistOpen, open } from './panes.ts'
import { quotes } from './quotes.ts'
import { activeView, type Instrument, isSame, keyOf, layout, show, toggleWatched } from './state.ts'

export function Watchlist() {
  return (
    <aside class={isWatchlistOpen.value ? 'watchlist open' : 'watchlist'} aria-label="Watchlist">
      <header>
        <h2>Watchlist</h2>
        <button type="button" onClick={() => open('search')} aria-label="Add a symbol" title="Add a symbol (/)"><Icon name="plus" /></button>
        <button type="button" class="close" onClick={() => { isWatchlistOpen.value = false }} aria-label="Close the watchlist"><Icon name="close" /></button>
      </header>
      {layout.value.watchlist.length === 0 && <p class="empty">Press ★ beside a symbol in the search to watch it.</p>}
      <ul>{layout.value.watchlist.map((one) => <Row key={keyOf(one)} instrument={one} />)}</ul>
    </aside>
  )
}

function Row({ instrument }: { instrument: Instrument }) {
  const quote = quotes.value.get(keyOf(instrument))
  const { candle, previousClose, symbol, problem } = quote ?? {}
  const base = previousClose ?? candle?.open
  const part = candle && base ? candle.close / base - 1 : NaN
  const direction = part > 0 ? 'up' : part < 0 ? 'down' : 'muted'
  return (
    <li class={isSame(instrument, activeView.value) ? 'row current' : 'row'}>
      <button type="button" class="quote" onClick={() => { show({ ...instrument }); isWatchlistOpen.value = false }} title={problem ?? `${instrument.market}/${instrument.provider}`}>
        <span class="name"><b>{instrument.symbol}</b><small class="muted">{problem ?? `${instrument.market}/${instrument.provider}`}</small></span>
        {quote ? (
          <span class="price">
            {candle ? <span key={candle.close} class="last">{printPrice(candle.close, decimalsOf(symbol?.priceIncrement, candle.close))}</span> : '–'}
            <small class={direction}>{printPercent(part)}</small>
          </span>
        ) : <span class="skeleton price" />}
      </button>
      <button type="button" class="remove" onClick={() => toggleWatched(instrument)} aria-label={`Stop watching ${instrument.symbol}`}><Icon name="close" /></button>
    </li>
  )
}
