// Where a command writes. Results go to standard output, remarks and errors to standard error; with --json every result
// is one line of JSON and remarks are left out. Colours, bars and redrawing happen on a terminal only. A reader that
// goes away (`| head`) ends the writing, not the process.

import { styleText } from 'node:util'

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

type Colour = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'

export class Terminal {
  /** True: results are JSON lines. */
  readonly json: boolean
  /** True: a person looks at standard output, so that bars and redrawing make sense. */
  readonly interactive: boolean
  /** Resolves when nobody reads standard output any more. */
  readonly gone: Promise<void>
  readonly #stdout: Output
  readonly #stderr: Output
  readonly #colours: boolean
  #open = { stdout: true, stderr: true }

  constructor({ stdout, stderr, env, json }: TerminalOptions) {
    this.#stdout = stdout
    this.#stderr = stderr
    this.json = json
    const dumb = env.TERM === 'dumb'
    const wantsColour = env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '' && env.FORCE_COLOR !== '0'
    this.interactive = stdout.isTTY === true && !json && !env.CI && !dumb
    this.#colours = !json && !env.NO_COLOR && (wantsColour || (stdout.isTTY === true && !env.CI && !dumb))
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

  /** Standard output itself, for what draws on a terminal. */
  get stream(): Output {
    return this.#stdout
  }

  get colours(): boolean {
    return this.#colours
  }

  get columns(): number {
    return this.#stdout.isTTY ? (this.#stdout.columns ?? 100) : 200
  }

  /** A result for people. */
  print(text = ''): void {
    if (!this.json) this.raw(`${text}\n`)
  }

  /** A result for machines, one line. */
  record(value: unknown): void {
    this.raw(`${JSON.stringify(value)}\n`)
  }

  /** A remark for people; never part of a result. */
  note(text: string): void {
    if (!this.json) this.error(`${text}\n`)
  }

  raw(text: string): void {
    if (this.#open.stdout) this.#stdout.write(text)
  }

  error(text: string): void {
    if (this.#open.stderr) this.#stderr.write(text)
  }

  style(colour: Colour, text: string): string {
    return this.#colours ? styleText(colour, text, { validateStream: false }) : text
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
}
