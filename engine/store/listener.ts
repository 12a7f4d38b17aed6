// LISTEN on a connection of its own: hears that there is new work, or that a node is asked to end a job. What it hears is a
// hint; polling is the truth, so a lost message costs latency and nothing else. The connection comes back by itself, and
// every return is told too, because something may have been missed meanwhile.

import pg from 'pg'
import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import { backoffMs, endOf } from './connection.ts'

/**
 * What travels on the channel: `q<queue ids>` ready, `s` scheduled, `c<node id>` cancel, `h` schedules changed. After an
 * `@` stands whose store said it, when that has told its own process already.
 */
export type Heard =
  | { readonly kind: 'ready'; readonly queueIds: readonly number[] }
  | { readonly kind: 'scheduled' }
  | { readonly kind: 'cancel'; readonly nodeId: number }
  | { readonly kind: 'schedules' }
  /** Jobs expire at this time of the database. */
  | { readonly kind: 'expiry'; readonly atMs: number }
  | { readonly kind: 'returned' }

export interface ListenerOptions {
  /** A direct connection: LISTEN does not work through a pooler in transaction mode. */
  readonly url: string
  readonly schema: string
  readonly clock: Clock
  readonly log: Log
  readonly name: string
  /** What this store says of itself need not be heard. Default: everything is. */
  readonly origin?: string
  onHeard(heard: Heard): void
}

export class Listener {
  readonly #options: ListenerOptions
  #client: pg.Client | null = null
  /** The same, from its first attempt to connect on. */
  #attempt: pg.Client | null = null
  #closed = false
  #running: Promise<void> | null = null
  readonly #stop = new AbortController()

  constructor(options: ListenerOptions) {
    this.#options = options
  }

  /** Returns at once; connects in the background and keeps connected. */
  start(): void {
    this.#running ??= this.#run()
  }

  /** It hears what is said from now on. */
  get isUp(): boolean {
    return this.#client !== null
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#stop.abort()
    if (this.#attempt !== null) await endOf(this.#attempt, this.#options.clock)
    await this.#running
  }

  async #run(): Promise<void> {
    const { url, schema, clock, log, name, origin, onHeard } = this.#options
    for (let tries = 0; !this.#closed; tries++) {
      const client = new pg.Client({
        connectionString: url,
        application_name: `${name} listen`,
        connectionTimeoutMillis: 10_000,
        keepAlive: true,
      })
      try {
        const ended = new Promise<void>((resolve) => {
          client.on('error', () => resolve())
          client.on('end', () => resolve())
        })
        client.on('notification', (message) => {
          const [said, from] = (message.payload ?? '').split('@')
          const heard = from !== undefined && from === origin ? null : parse(said!)
          if (heard) onHeard(heard)
        })
        // the driver never settles connect() of a client that is told to end meanwhile
        const gone = ended.then(() => {
          throw new Error('the connection ended')
        })
        this.#attempt = client
        await Promise.race([client.connect(), gone])
        await Promise.race([client.query(`listen "millrace_${schema}"`), gone])
        this.#client = client
        if (this.#closed) break
        tries = 0
        onHeard({ kind: 'returned' })
        await ended
      } catch (error) {
        if (tries === 0) log.warn({ error: String(error) }, 'listener.lost')
      } finally {
        this.#client = null
        this.#attempt = null
        client.end().catch(() => {})
      }
      if (!this.#closed) await clock.sleep(backoffMs(tries, 5_000), this.#stop.signal)
    }
  }
}

function parse(payload: string): Heard | null {
  const rest = payload.slice(1)
  switch (payload[0]) {
    case 'q':
      return { kind: 'ready', queueIds: rest.split(',').map(Number).filter(Number.isInteger) }
    case 's':
      return { kind: 'scheduled' }
    case 'c':
      return Number.isSafeInteger(Number(rest)) ? { kind: 'cancel', nodeId: Number(rest) } : null
    case 'e':
      return Number.isSafeInteger(Number(rest)) ? { kind: 'expiry', atMs: Number(rest) } : null
    case 'h':
      return { kind: 'schedules' }
    default:
      return null // from a newer version
  }
}
