// Find a symbol in all markets and providers at once.
import { signal, useSignal } from '@preact/signals'
import { useEffect, useRef } from 'preact/hooks'
import { FindSymbols, type SymbolFieldsFragment } from '@candlegraph/client'
import { client } from '../session.ts'
import { loadMarkets, markets, type Provider } from '../shared/connection.ts'
import { Modal } from './modal.tsx'
import { dialog, open, typed } from './panes.ts'
import { type Instrument, isSame, keyOf, layout, show, toggleWatched } from './state.ts'

const PER_PROVIDER = 12
const TYPING_MS = 120

interface Group { readonly provider: Provider; readonly symbols: readonly SymbolFieldsFragment[]; readonly total: number; readonly problem: string | null }

const groups = signal<readonly Group[] | null>(null)

/** Ask every provider; each group is shown as soon as it is there. */
async function find(search: string, signal: AbortSignal): Promise<void> {
  const providers = (markets.value ?? []).flatMap((market) => market.providers)
  const found = new Map<string, Group>()
  await Promise.all(providers.map(async (provider) => {
    const { market, provider: name, state, stateReason } = provider
    const isOff = state === 'NOT_CONFIGURED' || state === 'FAILED'
    let group: Group = { provider, symbols: [], total: 0, problem: isOff ? stateReason ?? 'It is not configured.' : null }
    if (!isOff) {
      const answer = await client.execute(FindSymbols, { market, provider: name, search, first: PER_PROVIDER }, signal).catch(() => null)
      if (signal.aborted) return
      const { nodes = [], totalCount = 0 } = answer?.data?.symbols ?? {}
      group = { ...group, symbols: nodes, total: totalCount, problem: answer?.errors?.[0]?.message ?? null }
    }
    found.set(provider.id, group)
    groups.value = providers.flatMap(({ id }) => found.get(id) ?? [])
  }))
  if (!signal.aborted && !providers.length) groups.value = []
}

export function Search() {
  const text = useSignal(typed.value)
  const at = useSignal(0)
  const list = useRef<HTMLDivElement>(null)
  useEffect(() => {
    if (!markets.value) void loadMarkets()
  }, [])
  const known = markets.value
  useEffect(() => {
    const abort = new AbortController()
    const timer = setTimeout(() => { if (known) void find(text.value.trim(), abort.signal) }, TYPING_MS)
    return () => {
      clearTimeout(timer)
      abort.abort()
    }
  }, [text.value, known])
  const recent = text.value ? [] : layout.value.recent
  const found = (groups.value ?? []).flatMap(({ symbols }) => symbols)
  const choices: readonly Instrument[] = [...recent, ...found]
  const choose = (instrument: Instrument | undefined): void => {
    if (!instrument) return
    show({ market: instrument.market, provider: instrument.provider, symbol: instrument.symbol })
    dialog.value = null
  }
  const onKeyDown = (event: KeyboardEvent): void => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key]
    if (step) {
      event.preventDefault()
      at.value = (at.value + step + choices.length) % Math.max(1, choices.length)
      list.current?.querySelector(`#choice-${at.value}`)?.scrollIntoView({ block: 'nearest' })
    } else if (event.key === 'Enter') {
      const chosen = choices[at.value]
      if (event.shiftKey && chosen) toggleWatched(chosen)
      else choose(chosen)
    }
  }
  return (
    <Modal title="Find a symbol" className="search" onClose={() => open(null)}>
      <input
        role="combobox" aria-expanded="true" aria-controls="choices" aria-activedescendant={`choice-${at.value}`}
        aria-label="Symbol or name" placeholder="Symbol or name, in every market" autocomplete="off" spellcheck={false} autofocus
        value={text.value} onInput={({ currentTarget }) => { text.value = currentTarget.value; at.value = 0 }} onKeyDown={onKeyDown}
      />
      <div id="choices" role="listbox" aria-label="Symbols" ref={list}>
        {recent.length > 0 && (
          <div role="group" aria-label="Recent">
            <h3 role="presentation">Recent</h3>
            {recent.map((one, i) => <Choice key={keyOf(one)} instrument={one} id={i} at={at.value} choose={choose} />)}
          </div>
        )}
        {groups.value === null && <div class="skeleton rows" />}
        {(groups.value ?? []).map((group) => (
          <Results key={group.provider.id} group={group} first={choices.indexOf(group.symbols[0] as Instrument)} at={at.value} choose={choose} />
        ))}
        {groups.value !== null && choices.length === 0 && text.value && <p class="empty">No symbol matches “{text.value}”.</p>}
      </div>
    </Modal>
  )
}

interface ResultsProps { group: Group; first: number; at: number; choose: (instrument: Instrument) => void }

function Results({ group: { provider, symbols, total, problem }, first, at, choose }: ResultsProps) {
  if (!symbols.length && !problem) return null
  return (
    <div role="group" aria-label={provider.name}>
      <h3 role="presentation">{provider.name} <span class="muted">{provider.market}{total > symbols.length ? `, ${symbols.length} of ${total.toLocaleString('en-US')}` : ''}</span></h3>
      {problem && <p role="presentation" class="problem">{problem}</p>}
      {symbols.map((one, i) => <Choice key={one.id} instrument={one} name={one.name} id={first + i} at={at} choose={choose} />)}
    </div>
  )
}

interface ChoiceProps { instrument: Instrument; name?: string | null; id: number; at: number; choose: (instrument: Instrument) => void }

function Choice({ instrument, name, id, at, choose }: ChoiceProps) {
  const isWatched = layout.value.watchlist.some((one) => isSame(one, instrument))
  return (
    <div id={`choice-${id}`} role="option" class="choice" aria-selected={id === at} onClick={() => choose(instrument)}>
      <b>{instrument.symbol}</b>
      <span class="muted">{name ?? ''}</span>
      <span class="muted source">{instrument.market}/{instrument.provider}</span>
      <span // an option must not have a button; the keyboard has Shift-Enter
        class={isWatched ? 'star on' : 'star'} aria-hidden="true" title={isWatched ? 'Remove from the watchlist' : 'Add to the watchlist'}
        onClick={(event) => { event.stopPropagation(); toggleWatched(instrument) }}
      >★</span>
      {isWatched && <span class="hidden">watched</span>}
    </div>
  )
}
