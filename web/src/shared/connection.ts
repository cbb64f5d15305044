// The state of the page's connection, its markets, and short notices.
import { signal } from '@preact/signals'
import { type CandlegraphError, Markets, type MarketsQuery } from '@candlegraph/client'
import { client } from '../session.ts'
import { setServerTime } from './clock.ts'

export type Market = MarketsQuery['markets'][number]
export type Provider = Market['providers'][number]

const NOTICE_MS = 6_000

export const connection = signal(client.state)
client.onState((state) => { connection.value = state })

export const markets = signal<readonly Market[] | null>(null)
export const marketsError = signal<CandlegraphError | null>(null)

export async function loadMarkets(): Promise<void> {
  try {
    const answer = await client.query(Markets, {})
    setServerTime(answer.serverTime)
    markets.value = answer.markets
    marketsError.value = null
  } catch (error) {
    marketsError.value = error as CandlegraphError
  }
}

export function providerOf(market: string, provider: string): Provider | undefined {
  return markets.value?.find(({ id }) => id === market)?.providers.find((one) => one.provider === provider)
}

/** Whether a provider can be called: imported candles have none, and some lack a key. */
export function isCallable(market: string, provider: string): boolean {
  return Boolean(providerOf(market, provider)?.limits)
}

/** A sentence at the edge of the page, for some seconds. */
export const notice = signal<string | null>(null)
let timer: ReturnType<typeof setTimeout> | undefined

export function say(sentence: string): void {
  notice.value = sentence
  clearTimeout(timer)
  timer = setTimeout(() => { notice.value = null }, NOTICE_MS)
}
