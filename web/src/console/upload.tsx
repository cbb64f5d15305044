// Uploads: drop a file, see what the importer makes of it, then import it.
import { useRef, useState } from 'preact/hooks'
import { account } from '../session.ts'
import { type Fact, type Imported, Refused, sendFile } from './send.ts'
import { asError } from './query.ts'
import { Failure, SignIn } from './states.tsx'
import { printBytes } from './storage.tsx'

type State =
  | { readonly kind: 'idle' }
  | { readonly kind: 'sending'; readonly isDry: boolean; readonly part: number; readonly abort: AbortController }
  | { readonly kind: 'seen' | 'done'; readonly answer: Imported }
  | { readonly kind: 'failed'; readonly error: ReturnType<typeof asError> }

interface Fields { market: string; provider: string; symbol: string; timeframe: string; clock: string; dropLast: boolean; sparse: boolean }

const EMPTY: Fields = { market: '', provider: '', symbol: '', timeframe: '', clock: '', dropLast: false, sparse: false }

export function UploadView() {
  const [file, setFile] = useState<File | null>(null)
  const [fields, setFields] = useState(EMPTY)
  const [state, setState] = useState<State>({ kind: 'idle' })
  const change = (more: Partial<Fields>): void => {
    setFields({ ...fields, ...more })
    if (state.kind !== 'sending') setState({ kind: 'idle' })
  }
  const send = async (isDry: boolean): Promise<void> => {
    if (!file) return
    const abort = new AbortController()
    setState({ kind: 'sending', isDry, part: 0, abort })
    try {
      const onProgress = (part: number): void => setState({ kind: 'sending', isDry, part, abort })
      const answer = await sendFile(file, fields, optionsOf(fields, isDry), onProgress, abort.signal)
      setState({ kind: isDry ? 'seen' : 'done', answer })
    } catch (error) {
      setState(abort.signal.aborted ? { kind: 'idle' } : { kind: 'failed', error: asError(error) })
    }
  }
  const isReady = file && fields.market && fields.provider && fields.symbol && state.kind !== 'sending'
  return (
    <section aria-labelledby="upload-title">
      <header class="view-head"><h1 id="upload-title">Upload</h1><span class="muted">CSV, CSV.gz or Parquet</span></header>
      <form class="upload" onSubmit={(event) => { event.preventDefault(); void send(true) }}>
        <Drop file={file} onFile={(chosen) => { setFile(chosen); setState({ kind: 'idle' }); if (!fields.symbol) setFields({ ...fields, symbol: symbolOf(chosen.name) }) }} />
        <Target fields={fields} change={change} />
        <div class="actions">
          <button class={state.kind === 'seen' ? 'quiet' : 'primary'} disabled={!isReady}>Check the file</button>
          {state.kind === 'seen' && <button type="button" class="primary" onClick={() => void send(false)}>Import {state.answer.rows?.toLocaleString('en-US') ?? ''} rows</button>}
        </div>
      </form>
      <Outcome state={state} />
    </section>
  )
}

function Drop({ file, onFile }: { file: File | null; onFile: (file: File) => void }) {
  const input = useRef<HTMLInputElement>(null)
  const [isOver, setOver] = useState(false)
  const take = (files: FileList | null | undefined): void => {
    const chosen = files?.[0]
    if (chosen) onFile(chosen)
  }
  return (
    <div
      class={isOver ? 'drop over' : 'drop'}
      onDragOver={(event) => { event.preventDefault(); setOver(true) }} onDragLeave={() => setOver(false)}
      onDrop={(event) => { event.preventDefault(); setOver(false); take(event.dataTransfer?.files) }}
    >
      <svg viewBox="0 0 48 48" aria-hidden="true"><path d="M24 34V10m-9 9 9-9 9 9M8 32v8h32v-8" /></svg>
      {file ? <p><strong>{file.name}</strong> <span class="muted">{printBytes(file.size)}</span></p> : <p>Drop a file of candles here</p>}
      <button type="button" class="quiet" onClick={() => input.current?.click()}>{file ? 'Choose another' : 'Choose a file'}</button>
      <input ref={input} class="hidden" type="file" aria-label="File of candles" tabIndex={-1} onChange={(event) => take(event.currentTarget.files)} />
    </div>
  )
}

function Target({ fields, change }: { fields: Fields; change: (more: Partial<Fields>) => void }) {
  const text = (name: 'market' | 'provider' | 'symbol' | 'timeframe' | 'clock', label: string, placeholder: string, isRequired = true) => (
    <label>{label}<input name={name} required={isRequired} placeholder={placeholder} value={fields[name]} onInput={(event) => change({ [name]: event.currentTarget.value.trim() })} /></label>
  )
  const flag = (name: 'dropLast' | 'sparse', label: string) => (
    <label class="check"><input type="checkbox" checked={fields[name]} onChange={(event) => change({ [name]: event.currentTarget.checked })} />{label}</label>
  )
  return (
    <div class="card">
      <div class="fields">{text('market', 'Market', 'crypto')}{text('provider', 'Provider', 'mine')}{text('symbol', 'Symbol', 'BTC/USDT')}</div>
      <details>
        <summary>Options</summary>
        <div class="fields">{text('timeframe', 'Timeframe', 'detected', false)}{text('clock', 'Clock of the file', 'UTC', false)}</div>
        {flag('dropLast', 'Leave out the last row: it was still forming')}
        {flag('sparse', 'Rows may be missing: cover only what is there')}
      </details>
    </div>
  )
}

function Outcome({ state }: { state: State }) {
  if (state.kind === 'idle') return null
  if (state.kind === 'sending') {
    const isSent = state.part >= 1
    return (
      <div class="card outcome" role="status">
        <p>{isSent ? (state.isDry ? 'The importer reads it…' : 'It is being imported…') : `Sending: ${Math.round(state.part * 100)} %`}</p>
        <progress {...(isSent ? {} : { value: state.part })} max={1} aria-label="Progress of the upload" />
        <button class="quiet" onClick={() => state.abort.abort()}>Cancel</button>
      </div>
    )
  }
  if (state.kind === 'failed') {
    if (state.error.code === 'UNAUTHENTICATED' && !account.value) return <SignIn message={state.error.message} />
    if (!(state.error instanceof Refused)) return <Failure error={state.error} />
    return (
      <div class="card outcome refused" role="alert">
        <h2>The importer refuses the file</h2>
        <ul class="lines">{state.error.refusals.map((line) => <li key={line}>{line}</li>)}</ul>
        <Facts facts={state.error.facts} />
        <p class="muted"><code>{state.error.code}</code> · nothing was stored</p>
      </div>
    )
  }
  const { answer } = state
  return (
    <div class={`card outcome ${state.kind}`} role="status">
      <h2>{state.kind === 'done' ? 'Imported' : 'What an import would do'}</h2>
      <p>{answer.summary}</p>
      {answer.warnings.map((line) => <p key={line} class="warn">{line}</p>)}
      <Facts facts={answer.facts} />
      {state.kind === 'done' && <p><a href="#series">See it among the series</a></p>}
    </div>
  )
}

function Facts({ facts }: { facts: readonly Fact[] }) {
  if (!facts.length) return null
  return <dl class="lines-of">{facts.map(({ label, text }) => <div key={label}><dt>{label}</dt><dd>{text}</dd></div>)}</dl>
}

function optionsOf({ timeframe, clock, dropLast, sparse }: Fields, isDry: boolean): Record<string, string> {
  return {
    dryRun: String(isDry), ...(timeframe && { timeframe }), ...(clock && { clock }), ...(dropLast && { dropLast: 'true' }), ...(sparse && { sparse: 'true' }),
  }
}

/** BTCUSDT_1m.csv.gz: BTCUSDT. */
const symbolOf = (name: string): string => /^[A-Za-z0-9]+/.exec(name)?.[0].toUpperCase() ?? ''
