// The server's clock, and a signal that ticks once a second with it.
import { signal } from '@preact/signals'

let aheadMs = 0

/** Now, by the server's clock (ms). */
export const serverNow = signal(Date.now())

export function setServerTime(serverTime: number): void {
  aheadMs = serverTime - Date.now()
  serverNow.value = serverTime
}

setInterval(() => { serverNow.value = Date.now() + aheadMs }, 1_000)
