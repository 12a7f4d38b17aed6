// The parent's end of engine-child.ts: starts engines as processes, hears their log, and harms them with signals.
// Every wait is for a line or an end, and fails with what the child had said when it takes too long.

import { type ChildProcess, fork } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { systemClock } from '../../engine/base/clock.ts'
import type { Engine, EngineOptions, EngineStats, StopReport } from '../../engine/index.ts'

export type ToChild = { readonly no: number } & (
  | { readonly ask: 'stats' | 'kill' | 'broken' }
  | { readonly ask: 'stop'; readonly timeoutMs?: number | undefined }
)

export interface LogLine {
  readonly kind: 'log'
  readonly level: 'debug' | 'info' | 'warn' | 'error'
  readonly event: string
  readonly facts: Record<string, unknown>
}

export type FromChild =
  | { readonly kind: 'ready' }
  | { readonly kind: 'failed'; readonly message: string }
  | LogLine
  | { readonly kind: 'answer'; readonly no: number; readonly value: unknown }
  | { readonly kind: 'refusal'; readonly no: number; readonly message: string }

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface EngineProcess {
  readonly pid: number
  readonly ended: Promise<Ended>
  readonly isOver: boolean
  /** What the log said so far, at most the last few thousand lines. */
  readonly lines: readonly LogLine[]
  /** Resolves when the engine has started. */
  ready(): Promise<void>
  /** The first line with this event, also when it came before. */
  line(event: string, where?: (facts: Record<string, unknown>) => boolean): Promise<LogLine>
  stats(): Promise<EngineStats>
  broken(): Promise<Engine['broken']>
  stop(timeoutMs?: number): Promise<StopReport>
  signal(name: NodeJS.Signals): void
  /** kill -9, and waits for the end. */
  kill9(): Promise<void>
}

const PROGRAM = fileURLToPath(new URL('./engine-child.js', import.meta.url))
const CLOCK_OFF = new URL('./clock-off.js', import.meta.url).href
const LINES_MAX = 5_000
const WAIT_MS_MAX = 60_000

const living = new Set<ChildProcess>()
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL')
})

/** Ends whatever a failed test left running. */
export async function endAll(): Promise<void> {
  const ends = [...living].map((child) => new Promise((resolve) => child.once('exit', resolve)))
  for (const child of living) child.kill('SIGKILL')
  await Promise.all(ends)
}

/** Starts an engine as a process. `env` is added to this process's; with CLOCK_OFF_MS its host's clock is so far off. */
export function startEngine(options: EngineOptions, env: Record<string, string> = {}): EngineProcess {
  const child = fork(PROGRAM, [JSON.stringify(options)], {
    execArgv: [...process.execArgv, ...(env.CLOCK_OFF_MS === undefined ? [] : ['--import', CLOCK_OFF])],
    env: { ...process.env, ...env },
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  living.add(child)
  const lines: LogLine[] = []
  const errors: string[] = []
  const answers = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>()
  let waiting: (() => void)[] = []
  let isReady = false
  let isOver = false
  let failure: string | null = null
  let no = 0
  const changed = () => {
    const all = waiting
    waiting = []
    for (const wake of all) wake()
  }
  child.stderr!.on('data', (chunk: Buffer) => {
    if (errors.length < 100) errors.push(chunk.toString())
  })
  child.on('error', (error) => errors.push(String(error)))
  child.on('message', (message: FromChild) => {
    if (message.kind === 'ready') isReady = true
    else if (message.kind === 'failed') failure = message.message
    else if (message.kind === 'log') {
      lines.push(message)
      if (lines.length > LINES_MAX) lines.splice(0, LINES_MAX / 2)
    } else {
      const asked = answers.get(message.no)
      answers.delete(message.no)
      if (message.kind === 'answer') asked?.resolve(message.value)
      else asked?.reject(new Error(message.message))
    }
    changed()
  })
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (code, signal) => {
      living.delete(child)
      isOver = true
      for (const { reject } of answers.values()) reject(new Error(`the engine ended (${code ?? signal})`))
      answers.clear()
      changed()
      resolve({ code, signal })
    })
  })
  const story = () =>
    [failure ?? '', ...errors, ...lines.slice(-30).map(({ event, facts }) => `${event} ${JSON.stringify(facts)}`)].join(
      '\n',
    )
  const until = async <T>(what: string, look: () => T | undefined): Promise<T> => {
    const untilMs = systemClock.steadyMs() + WAIT_MS_MAX
    for (;;) {
      const found = look()
      if (found !== undefined) return found
      if (isOver) throw new Error(`the engine ended before ${what}\n${story()}`)
      const leftMs = untilMs - systemClock.steadyMs()
      if (leftMs <= 0) throw new Error(`waited ${WAIT_MS_MAX} ms for ${what}\n${story()}`)
      await new Promise<void>((wake) => {
        const timer = systemClock.after(leftMs, wake, true)
        waiting.push(() => {
          timer.cancel()
          wake()
        })
      })
    }
  }
  const ask = async <T>(message: Omit<ToChild, 'no'>): Promise<T> => {
    const mine = ++no
    return (await new Promise<unknown>((resolve, reject) => {
      answers.set(mine, { resolve, reject })
      child.send({ ...message, no: mine }, (error) => {
        if (error) reject(error)
      })
    })) as T
  }
  return {
    pid: child.pid!,
    ended,
    get isOver() {
      return isOver
    },
    lines,
    ready: () => until('it was ready', () => isReady || undefined).then(() => {}),
    line: (event, where = () => true) =>
      until(`the line ${event}`, () => lines.find((line) => line.event === event && where(line.facts))),
    stats: () => ask({ ask: 'stats' }),
    broken: () => ask({ ask: 'broken' }),
    stop: (timeoutMs) => ask({ ask: 'stop', timeoutMs } as Omit<ToChild, 'no'>),
    signal: (name) => {
      child.kill(name)
    },
    async kill9() {
      child.kill('SIGKILL')
      await ended
    },
  }
}
