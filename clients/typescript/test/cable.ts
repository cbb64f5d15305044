import { connect, createServer, type AddressInfo, type Server, type Socket } from 'node:net'

/** A way to a server that can be cut: connections are reset, and while it is down new ones are refused. */
export class Cable {
  connections = 0
  readonly #target: URL
  #port = 0
  #server: Server | undefined
  readonly #sockets = new Set<Socket>()

  constructor(endpoint: string) {
    this.#target = new URL(endpoint)
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}${this.#target.pathname}`
  }

  async mend(): Promise<this> {
    this.#server = createServer((near) => {
      this.connections++
      const far = connect(Number(this.#target.port), this.#target.hostname)
      for (const [from, to] of [[near, far], [far, near]] as const) {
        this.#sockets.add(from)
        from.pipe(to)
        from.on('error', () => to.destroy())
        from.on('close', () => { this.#sockets.delete(from); to.destroy() })
      }
    })
    await new Promise<void>((resolve) => this.#server?.listen(this.#port, '127.0.0.1', resolve))
    this.#port = (this.#server.address() as AddressInfo).port
    return this
  }

  /** Reset all connections; with `down`, refuse new ones until `mend`. */
  async cut({ down = false } = {}): Promise<void> {
    const closed = down && new Promise((resolve) => this.#server?.close(resolve))
    for (const socket of this.#sockets) socket.resetAndDestroy()
    await closed
  }
}
