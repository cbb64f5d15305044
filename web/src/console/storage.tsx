// What is stored, and what it takes.
import { Storage } from '@candlegraph/client'
import { printSpan, printTime } from '../shared/format.ts'
import { useQuery } from './query.ts'
import { Empty, Show } from './states.tsx'

const RELOAD_MS = 30_000
const count = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 })
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB']

export function printBytes(bytes: number | null | undefined): string {
  if (bytes === null || bytes === undefined) return 'unknown'
  const power = Math.min(UNITS.length - 1, bytes < 1 ? 0 : Math.floor(Math.log10(bytes) / 3))
  const value = bytes / 1_000 ** power
  return `${value.toFixed(value < 10 && power > 0 ? 1 : 0)} ${UNITS[power] ?? ''}`
}

export function StorageView() {
  const loaded = useQuery(Storage, {}, RELOAD_MS)
  return (
    <section aria-labelledby="storage-title">
      <header class="view-head"><h1 id="storage-title">Storage</h1><span class="muted">estimated by the planner’s statistics</span></header>
      <Show of={loaded} rows={2}>
        {({ storage }) => storage && (storage.rows
          ? (
            <>
              <dl class="tiles large">
                <div><dt>Candles</dt><dd>{count.format(storage.rows)}</dd></div>
                <div><dt>With their index</dt><dd>{printBytes(storage.bytes)}</dd></div>
                <div><dt>Aggregates</dt><dd>{printBytes(storage.aggregateBytes)}</dd></div>
                <div><dt>Free on the disk</dt><dd>{printBytes(storage.freeBytes)}</dd></div>
              </dl>
              <Disk parts={[['Candles', 'covered', storage.bytes], ['Aggregates', 'aggregates', storage.aggregateBytes], ['Free', 'ground', storage.freeBytes]]} />
              {typeof storage.oldest === 'number' && typeof storage.newest === 'number' && (
                <p class="card">From <strong>{printTime(storage.oldest, 'UTC')}</strong> to <strong>{printTime(storage.newest, 'UTC')}</strong> <span class="muted">UTC, {printSpan(storage.newest - storage.oldest)}</span></p>
              )}
            </>
            )
          : <Empty title="Nothing is stored yet">Candles are stored as they are first asked for, tracked, backfilled or <a href="#upload">uploaded</a>.</Empty>)}
      </Show>
    </section>
  )
}

function Disk({ parts }: { parts: readonly (readonly [string, string, number | null | undefined])[] }) {
  const known = parts.flatMap(([label, kind, bytes]) => (typeof bytes === 'number' ? [{ label, kind, bytes }] : []))
  const total = known.reduce((sum, { bytes }) => sum + bytes, 0) || 1
  const starts = known.map((_, at) => known.slice(0, at).reduce((sum, { bytes }) => sum + bytes, 0))
  return (
    <figure class="card disk">
      <svg class="timeline" viewBox="0 0 1000 20" preserveAspectRatio="none" role="img" aria-label={known.map(({ label, bytes }) => `${label}: ${printBytes(bytes)}`).join(', ')}>
        {known.map(({ kind, bytes }, at) => <rect key={kind} class={`bar ${kind}`} x={((starts[at] ?? 0) / total) * 1_000} width={Math.max((bytes / total) * 1_000, 2)} height="20" />)}
      </svg>
      <figcaption><ul class="legend">{known.map(({ label, kind, bytes }) => <li key={kind}><svg viewBox="0 0 12 12" aria-hidden="true"><rect class={`bar ${kind}`} width="12" height="12" /></svg>{label} · {printBytes(bytes)}</li>)}</ul></figcaption>
    </figure>
  )
}
