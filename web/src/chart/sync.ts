// The layout, kept with the account: loaded at the sign-in, saved after each change; the newer one wins.
import { effect } from '@preact/signals'
import { CandlegraphError, Me, SaveConfig } from '@candlegraph/client'
import { account, client } from '../session.ts'
import { say } from '../shared/connection.ts'
import { layout, parseLayout } from './state.ts'

const SAVE_AFTER_MS = 1_000

let updatedAt: string | null = null
let config: Record<string, unknown> = {}
let saved = ''
let timer: ReturnType<typeof setTimeout> | undefined

function adopt(stored: unknown, at: string | null | undefined): boolean {
  config = (stored ?? {}) as Record<string, unknown>
  updatedAt = at ?? null
  if (!config['chart']) return false
  saved = JSON.stringify(layout.value = parseLayout(config['chart']))
  return true
}

async function save(): Promise<void> {
  const chart = layout.value
  const text = JSON.stringify(chart)
  if (!account.value || text === saved) return
  try {
    const answer = await client.query(SaveConfig, { config: { ...config, chart }, ifUpdatedAt: updatedAt })
    updatedAt = answer.saveConfig.updatedAt
    saved = text
  } catch (error) {
    if (!(error instanceof CandlegraphError)) throw error
    if (error.code !== 'CONFLICT') say(`The layout was not saved: ${error.message}`)
    else await adoptNewer()
  }
}

/** Another window has saved since. */
async function adoptNewer(): Promise<void> {
  const { me } = await client.query(Me, {})
  if (me && adopt(me.config, me.configUpdatedAt)) say('Another window saved a newer layout; this is it.')
}

export function keepLayout(): void {
  let username: string | null = null
  effect(() => {
    const user = account.value
    if (user && user.username !== username) adopt(user.config, user.configUpdatedAt)
    username = user?.username ?? null
  })
  effect(() => {
    if (!account.value || JSON.stringify(layout.value) === saved) return
    clearTimeout(timer)
    timer = setTimeout(() => { void save() }, SAVE_AFTER_MS)
  })
}
