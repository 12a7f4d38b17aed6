// Where a command writes, and the only place of the command line that reaches a stream. Results go to standard output,
// remarks and errors to standard error; with --json every result is one line of JSON and remarks are left out. Colours,
// bars and redrawing happen on a terminal only. Whatever is handed over is cleaned here, so that no command can forget
// it. A reader that goes away (`| head`) ends the writing, not the process.

import { cleanFacts, cleanJson, escapeJson } from '../base/clean.ts'
import { type Part, Text } from './styled.ts'

/** The part of a stream of the process that is used. */
export interface Output {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): boolean
  on(event: 'error', listener: (error: Error) => void): unknown
}

export interface TerminalOptions {
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
  readonly json: boolean
}

/** A bar that moves while a command waits. */
export interface ProgressBar {
  update(done: number, speed: string): void
  stop(): void
}

/** Turns the facts of one log line into a line for people, colours included. */
export type Pretty = (facts: object) => string

const CLEAR = '\u001b[H\u001b[2J'
const COLUMNS_MIN = 40 // narrower ones wrap

export class Terminal {
  /** True: results are JSON lines. */
  readonly json: boolean
  /** True: a person looks at standard output, so that bars and redrawing make sense. */
  readonly interactive: boolean
  /** True: standard output gets colours. */
  readonly colours: boolean
  /** Resolves when nobody reads standard output any more. */
  readonly gone: Promise<void>
  readonly #stdout: Output
  readonly #stderr: Output
  #open = { stdout: true, stderr: true }

  constructor({ stdout, stderr, env, json }: TerminalOptions) {
    this.#stdout = stdout
    this.#stderr = stderr
    this.json = json
    const dumb = env.TERM === 'dumb'
    const wantsColour = env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '' && env.FORCE_COLOR !== '0'
    this.interactive = stdout.isTTY === true && !json && !env.CI && !dumb
    this.colours = !json && !env.NO_COLOR && (wantsColour || (stdout.isTTY === true && !env.CI && !dumb))
    this.gone = new Promise((resolve) => {
      stdout.on('error', () => {
        this.#open.stdout = false
        resolve()
      })
    })
    stderr.on('error', () => {
      this.#open.stderr = false
    })
  }

  /** The width that results have to fit; without end when they go into a file or a pipe. */
  get columns(): number {
    return this.#stdout.isTTY ? Math.max(COLUMNS_MIN, this.#stdout.columns ?? 100) : Number.POSITIVE_INFINITY
  }

  /** A result for people, one line. */
  print(...parts: readonly Part[]): void {
    if (!this.json) this.page([Text.of(...parts)])
  }

  /** Lines that are wanted with --json too, as help is. */
  page(lines: readonly Part[]): void {
    for (const line of lines) this.#write('stdout', `${this.#painted(Text.of(line))}\n`)
  }

  /** A result for machines, one line. */
  record(value: unknown): void {
    this.#write('stdout', `${cleanJson(value)}\n`)
  }

  /** A remark for people, one line; never part of a result. */
  note(...parts: readonly Part[]): void {
    if (!this.json) this.#write('stderr', `${this.#painted(Text.of(...parts))}\n`)
  }

  /** What went wrong, for machines. */
  problem(value: unknown): void {
    this.#write('stderr', `${cleanJson(value)}\n`)
  }

  /** One line of a log, which is JSON; through `pretty` for people. */
  log(to: 'stdout' | 'stderr', json: string, pretty: Pretty | null): void {
    this.#write(to, pretty === null ? escapeJson(json) : pretty(cleanFacts(JSON.parse(json)) as object))
  }

  /** Begins anew at the top, where a person looks. */
  clear(): void {
    if (this.interactive) this.#write('stdout', CLEAR)
  }

  /** A bar towards `total`, where a person looks; else null. */
  async bar(total: number): Promise<ProgressBar | null> {
    if (!this.interactive) return null
    const { default: progress } = await import('cli-progress')
    const bar = new progress.SingleBar({
      format: '  {bar} {percentage}%  {value}/{total}  {speed}',
      barCompleteChar: '\u2588',
      barIncompleteChar: '\u2591',
      barsize: Math.max(10, Math.min(40, this.columns - 50)),
      hideCursor: true,
      stream: this.#stdout as NodeJS.WriteStream,
      gracefulExit: false,
    })
    bar.start(total, 0, { speed: '' })
    return {
      update: (done, speed) => bar.update(done, { speed: Text.of(speed).toString() }),
      stop: () => bar.stop(),
    }
  }

  /** Waits until what was written has left the process. */
  async flush(): Promise<void> {
    for (const name of ['stdout', 'stderr'] as const) {
      const stream = name === 'stdout' ? this.#stdout : this.#stderr
      const waits = 'writableLength' in stream && Number(stream.writableLength) > 0
      if (!waits || !this.#open[name] || !('once' in stream)) continue
      await new Promise<void>((resolve) => {
        const done = () => resolve()
        const emitter = stream as unknown as NodeJS.WriteStream
        emitter.once('drain', done)
        emitter.once('error', done)
      })
    }
  }

  #painted(text: Text): string {
    return this.colours ? text.painted() : text.toString()
  }

  #write(to: 'stdout' | 'stderr', text: string): void {
    if (this.#open[to]) (to === 'stdout' ? this.#stdout : this.#stderr).write(text)
  }
}
