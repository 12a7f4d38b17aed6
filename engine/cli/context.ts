// What every command gets: where to write, the settings, the engine's interface, signals and the clock. Nothing here
// does anything before a command asks for it.

import type { Clock } from '../base/clock.ts'
import type { Log } from '../base/log.ts'
import type { Config } from '../config/load.ts'
import type { Api, Client } from './api.ts'
import type { Terminal } from './terminal.ts'

export interface Cli {
  readonly terminal: Terminal
  /** Loaded when a command needs it: help and settings answer at once. */
  api(): Promise<Api>
  readonly clock: Clock
  readonly signals: Signals
  readonly cwd: string
  /** How this program was called: `millrace` or `node engine`. */
  readonly program: string
  /**
   * A command line to copy: the program, these words quoted for a shell where they need it, and the flags of this call
   * that say which database is meant.
   */
  command(...words: readonly string[]): string
  readonly version: string
  readonly nodeVersion: string
  /** Flags, environment and file, checked. Read once. */
  config(): Promise<Config>
  /** A log for a command: `stdout` for what runs for long and logs as its output, `stderr` for all others. */
  log(to: 'stdout' | 'stderr'): Promise<Log>
}

/** The requests to end that reach the process. */
export interface Signals {
  /** From now on the caller answers them: `first` and `second` resolve with the name of the signal. */
  take(): { first: Promise<string>; second: Promise<string>; release(): void }
}

/** Opens a client, lets `use` work with it, and closes it whatever happens. A client never changes the schema by itself. */
export async function withClient<T>(cli: Cli, use: (client: Client) => Promise<T>): Promise<T> {
  const { tasks: _, ...values } = (await cli.config()).values
  const client = (await cli.api()).createClient({ ...values, log: await cli.log('stderr') })
  try {
    return await use(client)
  } finally {
    await client.close()
  }
}
