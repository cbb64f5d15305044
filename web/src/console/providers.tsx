// The providers: their state, what is left of their rate limit, and what went wrong last.
import { ProviderHealth, type ProviderHealthQuery } from '@candlegraph/client'
import { printDuration, printTime } from '../shared/format.ts'
import { useQuery } from './query.ts'
import { Empty, Show } from './states.tsx'

const RELOAD_MS = 5_000
const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })

type Provider = ProviderHealthQuery['markets'][number]['providers'][number]

const BREAKERS = { CLOSED: 'calls pass', OPEN: 'open: no call passes', HALF_OPEN: 'half open: the next call probes' } as const

export function ProvidersView() {
  const loaded = useQuery(ProviderHealth, {}, RELOAD_MS)
  return (
    <section aria-labelledby="providers-title">
      <header class="view-head"><h1 id="providers-title">Providers</h1><span class="muted">of the process that answers, every 5 seconds</span></header>
      <Show of={loaded}>
        {({ markets, serverTime }) => !markets.length
          ? <Empty title="No provider is installed">Every plugin was disabled.</Empty>
          : markets.map((market) => (
            <section key={market.id} aria-labelledby={`market-${market.id}`}>
              <h2 id={`market-${market.id}`}>{market.name}</h2>
              <ul class="providers">{market.providers.map((provider) => <ProviderCard key={provider.id} provider={provider} now={serverTime} />)}</ul>
            </section>
          ))}
      </Show>
    </section>
  )
}

function ProviderCard({ provider, now }: { provider: Provider; now: number }) {
  const { name, id, state, stateReason, retryAt, counters, lastError, breaker, listeners, version } = provider
  return (
    <li class="card provider">
      <div class="job-head">
        <div><strong>{name}</strong><span class="muted block">{id}{version && ` · ${version}`}</span></div>
        <span class={`pill ${state.toLowerCase()}`}>{state.toLowerCase().replaceAll('_', ' ')}</span>
      </div>
      {stateReason && <p class={state === 'READY' ? 'muted' : 'warn'}>{stateReason}{retryAt && ` Again in ${printDuration(Date.parse(retryAt) - now)}.`}</p>}
      <Budget provider={provider} />
      <dl class="facts">
        {breaker && <div><dt>Circuit breaker</dt><dd class={breaker === 'CLOSED' ? '' : 'warn'}>{BREAKERS[breaker]}</dd></div>}
        <div><dt>Live</dt><dd>{provider.live === 'NONE' ? 'history only' : `${provider.live.toLowerCase()}, ${count.format(listeners ?? 0)} ${listeners === 1 ? 'listener' : 'listeners'}`}</dd></div>
        <div><dt>Calls</dt><dd>{count.format(counters.calls)}{counters.failures > 0 && <span class="down"> · {count.format(counters.failures)} failed</span>}</dd></div>
        <div><dt>Candles</dt><dd>{count.format(counters.rows)}{counters.refusedRows > 0 && <span class="warn"> · {count.format(counters.refusedRows)} refused</span>}</dd></div>
      </dl>
      {lastError && <p class="last-error"><span class="muted">Last error, {printTime(Date.parse(lastError.at), 'UTC')}:</span> {lastError.message}</p>}
    </li>
  )
}

function Budget({ provider: { limits, budgetLeft, name } }: { provider: Provider }) {
  if (!limits || budgetLeft === null) return null
  const part = limits.weight ? budgetLeft / limits.weight : 0
  return (
    <div class="budget">
      <span class="muted">Rate budget</span>
      <meter min={0} max={1} low={0.2} high={0.5} optimum={1} value={part} aria-label={`Rate budget left of ${name}`} />
      <span>{count.format(budgetLeft)} <span class="muted">of {count.format(limits.weight)} in {count.format(limits.perSeconds)} s</span></span>
    </div>
  )
}
