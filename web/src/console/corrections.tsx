// Corrections of final candles: what they were and what they became.
import { useState } from 'preact/hooks'
import { Corrections, type CorrectionsQuery } from '@candlegraph/client'
import { decimalsOf, printPrice, printTime, printVolume } from '../shared/format.ts'
import { given } from './route.ts'
import { useQuery } from './query.ts'
import { Empty, More, Show } from './states.tsx'

type Correction = NonNullable<CorrectionsQuery['corrections']>['nodes'][number]
type Version = NonNullable<Correction['old']>

const NAMES = ['open', 'high', 'low', 'close', 'volume'] as const

export function CorrectionsView() {
  const linked = given.value
  const [symbol, setSymbol] = useState(linked.get('symbol') ?? '')
  const [cursors, setCursors] = useState<readonly (string | null)[]>([null])
  const filter = { market: linked.get('market'), provider: linked.get('provider'), symbol: symbol || null }
  return (
    <section aria-labelledby="corrections-title">
      <header class="view-head">
        <h1 id="corrections-title">Corrections</h1>
        <input type="search" placeholder="One symbol, such as BTC/USDT" aria-label="Only of this symbol" value={symbol} onChange={(event) => { setSymbol(event.currentTarget.value.trim()); setCursors([null]) }} />
      </header>
      <p class="muted lead">Final candles that a provider or an import changed, the newest first.</p>
      {cursors.map((after, at) => (
        <Page key={`${symbol} ${after}`} filter={filter} after={after} onMore={at === cursors.length - 1 ? (cursor) => setCursors([...cursors, cursor]) : undefined} />
      ))}
    </section>
  )
}

function Page({ filter, after, onMore }: {
  filter: { market: string | null; provider: string | null; symbol: string | null }
  after: string | null
  onMore: ((cursor: string) => void) | undefined
}) {
  const loaded = useQuery(Corrections, { ...filter, first: 50, after })
  return (
    <Show of={loaded} rows={5}>
      {({ corrections }) => !corrections?.nodes.length && after === null
        ? <Empty title="No correction">{filter.symbol ? 'No final candle of this symbol was changed.' : 'No final candle was changed.'}</Empty>
        : (
          <>
            <div class="scroll card" tabIndex={0} role="region" aria-label="Corrections">
              <table class="versions">
                <thead><tr><th scope="col">Candle</th>{NAMES.map((name) => <th scope="col" key={name} class="number">{name}</th>)}<th scope="col" class="number">corrected</th></tr></thead>
                <tbody>{corrections?.nodes.map((one) => <Row key={`${one.symbol.id}${one.timeframe}${one.timestamp}${one.at}`} one={one} />)}</tbody>
              </table>
            </div>
            {corrections && onMore && <More page={corrections.pageInfo} load={onMore} isLoading={loaded.isLoading} />}
          </>
          )}
    </Show>
  )
}

function Row({ one }: { one: Correction }) {
  const { symbol, timeframe, timestamp, old, new: now, at } = one
  const decimals = decimalsOf(symbol.priceIncrement, (now ?? old)?.close)
  const print = (name: keyof Version, version: Version): string => (name === 'volume' ? printVolume(version.volume) : printPrice(version[name], decimals))
  return (
    <tr>
      <th scope="row"><strong>{symbol.symbol}</strong> <span class="chip">{timeframe}</span><span class="muted block">{symbol.market}/{symbol.provider} · {printTime(timestamp, 'UTC')}</span></th>
      {NAMES.map((name) => (
        <td key={name} class="number">
          {now && old?.[name] === now[name]
            ? <span class="muted">{print(name, now)}</span>
            : (
              <>
                {old && <del>{print(name, old)}</del>}
                {now && <ins>{print(name, now)}</ins>}
              </>
              )}
        </td>
      ))}
      <td class="number muted"><time dateTime={at}>{printTime(Date.parse(at), 'UTC')}</time><span class="block">{old ? now ? '' : 'withdrawn' : 'new candle'}</span></td>
    </tr>
  )
}
