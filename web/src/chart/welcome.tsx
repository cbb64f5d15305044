// What to do first: shown until it is closed.
import { markets, say } from '../shared/connection.ts'
import { Icon } from '../shared/icons.tsx'
import { change, layout } from './state.ts'

const STEPS = [
  { title: 'A real exchange', command: 'CCXT_EXCHANGES=binance,kraken,okx make run', text: 'Binance, Kraken and Coinbase are here: press / and type BTC. This names others.' },
  { title: 'Your own file', command: '.venv/bin/candlegraph import candles.csv --market mine --provider files --symbol BTC/USD', text: 'CSV or Parquet; or FILES_DIR=folder make run serves a whole folder.' },
  { title: 'An account', command: '.venv/bin/candlegraph user add ada --role operator', text: 'Then layout and watchlist are kept on the server.' },
] as const

export function Welcome() {
  if (layout.value.welcomed || !markets.value) return null
  const copy = async (command: string): Promise<void> => {
    try {
      await navigator.clipboard.writeText(command)
      say('Copied.')
    } catch { // no clipboard without a secure context
      say('Select the line and copy it.')
    }
  }
  return (
    <aside class="welcome" aria-label="First steps">
      <header>
        <h2>This is the demo market: its prices are made up. Three steps to your own:</h2>
        <button type="button" onClick={() => change({ welcomed: true })} aria-label="Close the first steps"><Icon name="close" /></button>
      </header>
      <ol>
        {STEPS.map(({ title, command, text }, i) => (
          <li key={title}>
            <h3><span class="step">{i + 1}</span>{title}</h3>
            <p class="muted">{text}</p>
            <div class="command"><code tabIndex={0}>{command}</code><button type="button" onClick={() => void copy(command)} aria-label={`Copy the command for: ${title}`}>Copy</button></div>
          </li>
        ))}
      </ol>
    </aside>
  )
}
