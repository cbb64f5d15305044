// A gap: why it is there, and for operators the way to fill it.
import { signal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { type BackfillFieldsFragment, BackfillProgress, type CandlegraphError, isDaily, StartBackfill } from '@candlegraph/client'
import type { Gap } from '@candlegraph/client/lightweight-charts'
import { account, client } from '../session.ts'
import { isCallable, providerOf } from '../shared/connection.ts'
import { serverNow } from '../shared/clock.ts'
import { Icon } from '../shared/icons.tsx'
import { printSpan, printTime } from '../shared/format.ts'
import type { Chart } from './chart.ts'
import { open } from './panes.ts'
import { layout } from './state.ts'

const REASONS: Readonly<Record<Gap['reason'], string>> = {
  NOT_FETCHED: 'Not fetched',
  PENDING: 'Being fetched',
  OUTAGE: 'Outage of the provider',
  UNAVAILABLE: 'Not available',
  BEFORE_LISTING: 'Before the listing',
  AFTER_DELISTING: 'After the delisting',
  REFUSED: 'Refused by the provider',
}
const FILLABLE: readonly Gap['reason'][] = ['NOT_FETCHED', 'PENDING', 'OUTAGE', 'UNAVAILABLE', 'REFUSED']

interface Job { readonly since: number; readonly state: BackfillFieldsFragment | null; readonly problem: CandlegraphError | null }

/** The backfills that this page has started, by the series and the beginning of the gap. */
const jobs = signal<ReadonlyMap<string, Job>>(new Map())

function keyOf(chart: Chart, gap: Gap): string {
  const { market, provider, symbol, timeframe } = chart.view
  return [market, provider, symbol, timeframe, gap.since].join('|')
}

async function fill(chart: Chart, gap: Gap): Promise<void> {
  const key = keyOf(chart, gap)
  const set = (fields: Partial<Job>): void => {
    const job = jobs.value.get(key) ?? { since: gap.since, state: null, problem: null }
    jobs.value = new Map(jobs.value).set(key, { ...job, ...fields })
  }
  const { market, provider, symbol, timeframe } = chart.view
  const isNative = providerOf(market, provider)?.timeframes.includes(timeframe)
  const until = Math.min(gap.until, serverNow.value)
  set({ state: null, problem: null })
  try {
    const { startBackfill } = await client.query(StartBackfill, {
      input: { market, provider, symbols: [symbol], timeframe: isNative ? timeframe : '1m', since: gap.since, until },
    })
    set({ state: startBackfill })
    const end = client.subscribe(BackfillProgress, { id: startBackfill.id }, {
      next({ data }) {
        if (!data) return
        set({ state: data.backfill })
        void chart.reload({ since: gap.since, until: gap.until }) // candles appear as they are stored
        if (['DONE', 'CANCELLED', 'FAILED'].includes(data.backfill.state)) end()
      },
      error: (problem) => set({ problem }),
      complete: () => { void chart.reload({ since: gap.since, until: gap.until }) },
    })
  } catch (error) {
    set({ problem: error as CandlegraphError })
    if ((error as CandlegraphError).code === 'UNAUTHENTICATED') open('sign-in')
  }
}

/** Beside the pointer, or in the middle of a gap that the keyboard has selected. */
export function GapCard({ chart }: { chart: Chart }) {
  const shown = chart.gap.value
  const card = useRef<HTMLDivElement>(null)
  const gap = shown?.gap
  useEffect(() => {
    const [element, point] = [card.current, shown?.point]
    if (!element || !point) return
    const most = (element.parentElement?.clientWidth ?? 0) - element.offsetWidth - 8
    element.style.left = `${Math.max(8, Math.min(most, point.x - element.offsetWidth / 2))}px`
    element.style.top = '64px'
  }, [shown])
  if (!gap) return null
  const job = jobs.value.get(keyOf(chart, gap))
  const { zone } = layout.value
  const withHours = !isDaily(chart.view.timeframe)
  const mayFill = !account.value || account.value.roles.includes('OPERATOR')
  const isRunning = job?.state && ['QUEUED', 'RUNNING'].includes(job.state.state)
  return (
    <div class="gap-card" role="dialog" aria-label="A gap" ref={card} onPointerDown={() => chart.pin()}>
      <button type="button" class="close" aria-label="Close" onClick={() => chart.select(null)}><Icon name="close" /></button>
      <h3><span class="hatch" />{REASONS[gap.reason]}</h3>
      <p>{gap.detail}</p>
      <p class="muted">{printTime(gap.since, zone, withHours)} – {printTime(gap.until, zone, withHours)}, {printSpan(gap.until - gap.since)}</p>
      {job?.state && <Progress job={job.state} />}
      {job?.problem && <p class="problem">{job.problem.message} <code>{job.problem.code}</code></p>}
      {isCallable(chart.view.market, chart.view.provider) && FILLABLE.includes(gap.reason) && (mayFill
        ? <button type="button" class="primary" disabled={Boolean(isRunning)} onClick={() => void fill(chart, gap)}>{isRunning ? 'Filling…' : 'Fill this gap'}</button>
        : <p class="muted">An operator can fill it.</p>)}
    </div>
  )
}

function Progress({ job }: { job: BackfillFieldsFragment }) {
  return (
    <div class="progress">
      <progress value={job.piecesDone} max={Math.max(1, job.piecesTotal)} aria-label="Backfill" />
      <p class="muted">{job.state.toLowerCase()}, {job.candlesWritten.toLocaleString('en-US')} candles{job.candlesPerSecond ? `, ${Math.round(job.candlesPerSecond).toLocaleString('en-US')} a second` : ''}</p>
      {job.lastError && <p class="problem">{job.lastError}</p>}
      {job.holes.map(({ detail, since }) => <p key={since} class="problem">{detail}</p>)}
    </div>
  )
}
