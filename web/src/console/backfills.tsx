// Backfills: what one would cost, starting one, and watching and cancelling those under way.
import { useEffect, useState } from 'preact/hooks'
import { BackfillProgress, Backfills, CancelBackfill, EstimateBackfill, type EstimateBackfillQuery, ProviderHealth, StartBackfill } from '@candlegraph/client'
import { client } from '../session.ts'
import { printDuration, printTime } from '../shared/format.ts'
import { given } from './route.ts'
import { useAction, useQuery } from './query.ts'
import { Empty, Failure, More, Show } from './states.tsx'
import type { Job } from './types.ts'

const RELOAD_MS = 5_000
const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })
const isOpen = (job: Job): boolean => job.state === 'QUEUED' || job.state === 'RUNNING'

type Estimate = NonNullable<EstimateBackfillQuery['estimateBackfill']>

export function BackfillsView() {
  const [cursors, setCursors] = useState<readonly (string | null)[]>([null])
  const [started, setStarted] = useState(0)
  return (
    <section aria-labelledby="backfills-title">
      <header class="view-head"><h1 id="backfills-title">Backfills</h1></header>
      <Order onStarted={() => setStarted(started + 1)} />
      <h2>Jobs</h2>
      {cursors.map((after, at) => (
        <Jobs key={`${after} ${started}`} after={after} onMore={at === cursors.length - 1 ? (cursor) => setCursors([...cursors, cursor]) : undefined} />
      ))}
    </section>
  )
}

interface Fields { provider: string; pattern: string; timeframe: string; since: string; until: string }

function Order({ onStarted }: { onStarted: () => void }) {
  const linked = given.value
  const health = useQuery(ProviderHealth, {})
  const providers = health.data?.markets.flatMap(({ providers }) => providers) ?? []
  const first = `${linked.get('market') ?? 'demo'}/${linked.get('provider') ?? 'synthetic'}`
  const [fields, setFields] = useState<Fields>({
    provider: first, pattern: linked.get('pattern') ?? '', timeframe: linked.get('timeframe') ?? '1m', since: daysAgo(30), until: '',
  })
  const [estimate, setEstimate] = useState<Estimate | null>(null)
  const change = (more: Partial<Fields>): void => {
    setFields({ ...fields, ...more })
    setEstimate(null)
  }
  const estimating = useAction(async () => setEstimate((await client.query(EstimateBackfill, { input: inputOf(fields) })).estimateBackfill ?? null))
  const starting = useAction(async () => {
    await client.query(StartBackfill, { input: inputOf(fields) })
    setEstimate(null)
    onStarted()
  })
  const error = estimating.error ?? starting.error
  return (
    <form class="card order" onSubmit={(event) => { event.preventDefault(); starting.clear(); estimating.run() }}>
      <div class="fields">
        <label>Provider
          <select value={fields.provider} onChange={(event) => change({ provider: event.currentTarget.value })}>
            {!providers.some(({ id }) => id === fields.provider) && <option>{fields.provider}</option>}
            {providers.map(({ id }) => <option key={id}>{id}</option>)}
          </select>
        </label>
        <label class="wide">Symbols
          <input required placeholder="*/USDT" value={fields.pattern} onInput={(event) => change({ pattern: event.currentTarget.value })} aria-describedby="pattern-hint" />
        </label>
        <label>Timeframe<input required size={5} value={fields.timeframe} onInput={(event) => change({ timeframe: event.currentTarget.value })} /></label>
        <label>From, UTC<input required type="datetime-local" value={fields.since} onInput={(event) => change({ since: event.currentTarget.value })} /></label>
        <label>To, UTC<input type="datetime-local" value={fields.until} onInput={(event) => change({ until: event.currentTarget.value })} aria-describedby="until-hint" /></label>
      </div>
      <p class="muted" id="pattern-hint">A symbol or a shell pattern such as <code>BTC/*</code>. <span id="until-hint">Without an end, up to now.</span></p>
      {error && <Failure error={error} />}
      {estimate && <EstimateCard estimate={estimate} />}
      <div class="actions">
        <button class={estimate ? 'quiet' : 'primary'} disabled={estimating.isRunning}>{estimating.isRunning ? 'Estimating…' : 'Estimate'}</button>
        {estimate && <button type="button" class="primary" disabled={starting.isRunning} onClick={() => starting.run()}>{starting.isRunning ? 'Starting…' : `Start: ${count.format(estimate.calls)} calls`}</button>}
      </div>
    </form>
  )
}

function EstimateCard({ estimate: { symbols, calls, candles, seconds } }: { estimate: Estimate }) {
  return (
    <dl class="tiles" aria-live="polite">
      <div><dt>Symbols</dt><dd>{count.format(symbols)}</dd></div>
      <div><dt>Calls</dt><dd>{count.format(calls)}</dd></div>
      <div><dt>Candles, at most</dt><dd>{count.format(candles)}</dd></div>
      <div><dt>Takes at least</dt><dd>{seconds === null ? 'unknown' : printDuration(seconds * 1_000)}</dd></div>
    </dl>
  )
}

function inputOf({ provider, pattern, timeframe, since, until }: Fields) {
  const [market = '', name = ''] = provider.split('/', 2)
  const symbols = /[*?[]/.test(pattern) ? { pattern } : { symbols: pattern.split(',').map((one) => one.trim()) }
  return { market, provider: name, ...symbols, timeframe, since: `${since}:00Z`, ...(until ? { until: `${until}:00Z` } : {}) }
}

const daysAgo = (days: number): string => new Date(Date.now() - days * 86_400_000).toISOString().slice(0, 10) + 'T00:00'

function Jobs({ after, onMore }: { after: string | null; onMore: ((cursor: string) => void) | undefined }) {
  const loaded = useQuery(Backfills, { first: 20, after }, RELOAD_MS)
  return (
    <Show of={loaded} rows={3}>
      {({ backfills }) => !backfills?.nodes.length && after === null
        ? <Empty title="No backfill yet">Estimate one above; it then runs on every server of this database.</Empty>
        : (
          <>
            <ul class="jobs">{backfills?.nodes.map((job) => <JobRow key={job.id} job={job} onChange={loaded.reload} />)}</ul>
            {backfills && onMore && <More page={backfills.pageInfo} load={onMore} isLoading={loaded.isLoading} />}
          </>
          )}
    </Show>
  )
}

function JobRow({ job: listed, onChange }: { job: Job; onChange: () => void }) {
  const [live, setLive] = useState<Partial<Job>>({})
  const job = { ...listed, ...live }
  const isLive = isOpen(job)
  useEffect(() => {
    if (!isLive) return
    return client.subscribe(BackfillProgress, { id: listed.id }, {
      next: ({ data }) => { if (data) setLive(data.backfill) }, error: onChange, complete: onChange,
    })
  }, [listed.id, isLive])
  const cancelling = useAction(async () => {
    setLive((await client.query(CancelBackfill, { id: job.id })).cancelBackfill)
    onChange()
  })
  const part = job.piecesTotal ? job.piecesDone / job.piecesTotal : 1
  return (
    <li class="job card">
      <div class="job-head">
        <div>
          <strong>{named(job.symbols)}</strong> <span class="chip">{job.timeframe}</span> <span class={`pill ${job.state.toLowerCase()}`}>{job.state.toLowerCase()}</span>
          <span class="muted block">{job.market}/{job.provider} · {printTime(job.since, 'UTC', false)} to {printTime(job.until, 'UTC', false)} · {job.id}{job.createdBy && ` · by ${job.createdBy}`}</span>
        </div>
        {isLive && <button class="quiet" disabled={cancelling.isRunning} onClick={() => cancelling.run()}>{cancelling.isRunning ? 'Cancelling…' : 'Cancel'}</button>}
      </div>
      <progress value={part} max={1} aria-label={`Progress of ${job.id}`} class={job.state.toLowerCase()} />
      <p class="job-figures muted">
        {count.format(job.piecesDone)} of {count.format(job.piecesTotal)} calls · {count.format(job.candlesWritten)} candles
        {isLive && job.candlesPerSecond > 0 && ` · ${count.format(job.candlesPerSecond)}/s`}
        {isLive && job.estimatedEndAt && ` · about ${printDuration(Date.parse(job.estimatedEndAt) - Date.now())} left`}
        {job.holes.length > 0 && ` · ${job.holes.length} ${job.holes.length === 1 ? 'gap' : 'gaps'} not available`}
      </p>
      {job.lastError && <p class={job.state === 'FAILED' ? 'down' : 'warn'}>{job.lastError}</p>}
      {cancelling.error && <Failure error={cancelling.error} />}
    </li>
  )
}

function named(symbols: readonly string[]): string {
  const [first = '', second] = symbols
  return second === undefined ? first : symbols.length === 2 ? `${first}, ${second}` : `${first}, ${second} and ${count.format(symbols.length - 2)} more`
}
