// A pool with a small scheduler around it, for test/pool.test.ts: feeds, drains, and remembers all that was reported.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { type Clock, systemClock } from '../../engine/base/clock.ts'
import { Deadline } from '../../engine/base/lifecycle.ts'
import { PAYLOAD_SEPARATOR } from '../../engine/base/limits.ts'
import type { Log } from '../../engine/base/log.ts'
import type { Catalog, FeedPiece, LaneLost, ReportSink } from '../../threads/lanes.ts'
import { ThreadPool, type ThreadPoolOptions } from '../../threads/pool.ts'

export const BEHAVED = new URL('../tasks/behaved.js', import.meta.url).href
export const MISBEHAVED = new URL('../tasks/misbehaved.js', import.meta.url).href

/** All about one job: what was reported of it, in order. */
export interface Told {
  events: string[]
  result: unknown
  error: { code: string; type: string; message: string; stack?: string; details?: Record<string, unknown> } | null
  retryable: boolean | null
  startedAtMs: number
  ranMs: number
  progress: unknown[]
  logs: { level: string; event: string; facts: Record<string, unknown> }[]
}

export class PoolHarness implements ReportSink {
  readonly pool: ThreadPool
  readonly told = new Map<number, Told>()
  readonly lost: LaneLost[] = []
  readonly opened: number[] = []
  readonly logged: { level: string; event: string; facts: Record<string, unknown> }[] = []
  readonly #clock: Clock
  bells = 0
  catalog: Catalog = { tasks: [], broken: [], doubles: [] }
  /** Slots in the order in which they were reported as started. */
  readonly startOrder: number[] = []

  constructor(options: Partial<ThreadPoolOptions> = {}) {
    const log = (level: string) => (facts: Record<string, unknown>, event: string) =>
      void this.logged.push({ level, event, facts })
    const keep: Log = {
      debug: log('debug'),
      info: log('info'),
      warn: log('warn'),
      error: log('error'),
      child: () => keep,
    }
    this.#clock = options.clock ?? systemClock
    this.pool = new ThreadPool({
      threads: 1,
      modules: [BEHAVED, MISBEHAVED],
      resultBytesMax: 2 * 1024 * 1024,
      loadTimeoutMs: 20_000,
      clock: this.#clock,
      log: keep,
      onDoorbell: () => this.bells++,
      onLost: (lost) => void this.lost.push(lost),
      onOpen: (lane) => void this.opened.push(lane),
      ...options,
    })
  }

  async start(): Promise<this> {
    this.catalog = await this.pool.start()
    return this
  }

  async stop(ms = 20_000): Promise<void> {
    await this.pool.stop(new Deadline(systemClock, ms))
  }

  /** Feeds jobs with slots from `firstSlot`, generation slot + 1 and id slot + 1,000; payloads are JSON texts. */
  feedTexts(task: string, texts: readonly string[], firstSlot: number, more: Partial<FeedPiece> = {}, lane = 0): void {
    this.pool.feed(lane, [this.piece(task, texts, firstSlot, more)])
  }

  piece(task: string, texts: readonly string[], firstSlot: number, more: Partial<FeedPiece> = {}): FeedPiece {
    const slots = Uint32Array.from(texts, (_, at) => firstSlot + at)
    return {
      task,
      queue: 'q',
      leaseId: 1,
      firstId: firstSlot + 1_000,
      slots,
      generations: slots.map((slot) => slot + 1),
      payloads: texts.join(PAYLOAD_SEPARATOR),
      metas: null,
      attempt: 1,
      run: 1,
      maxAttempts: 3,
      createdAtMs: 0,
      group: null,
      ...more,
    }
  }

  feed(task: string, payloads: readonly unknown[], firstSlot: number, lane = 0): void {
    const texts = payloads.map((payload) => JSON.stringify(payload) ?? '')
    this.feedTexts(task, texts, firstSlot, {}, lane)
  }

  /** Feeds one job and waits for its outcome. */
  async run(task: string, payload: unknown, slot: number): Promise<Told> {
    await this.until(() => this.pool.isOpen(0))
    this.feed(task, [payload], slot)
    await this.until(() => this.isOver(slot))
    return this.told.get(slot)!
  }

  isOver(slot: number): boolean {
    const events = this.told.get(slot)?.events ?? []
    return events.includes('completed') || events.includes('failed')
  }

  /** Drains until `isTrue`, `limit` messages at a time. */
  until(isTrue: () => boolean, limit = 10_000): Promise<void> {
    return this.wait(() => {
      this.pool.drain(this, limit)
      return isTrue()
    })
  }

  /** Waits without draining. Its end of patience is for a test that fails; no test waits for it to pass. */
  async wait(isTrue: () => boolean, patienceMs = 30_000): Promise<void> {
    const end = systemClock.steadyMs() + patienceMs
    while (!isTrue()) {
      if (systemClock.steadyMs() > end) {
        const told = [...this.told].slice(-5)
        assert.fail(`waited in vain: ${JSON.stringify({ told, lost: this.lost, logged: this.logged.slice(-5) })}`)
      }
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
  }

  // The sink.

  started(_lane: number, slot: number, generation: number, atMs: number): void {
    this.#note(slot, generation, 'started').startedAtMs = atMs
    this.startOrder.push(slot)
  }
  completed(
    _lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const told = this.#note(slot, generation, 'completed')
    assert.equal(startedAtMs, told.startedAtMs)
    told.ranMs = ranMs
    told.result = start === end ? undefined : jsonOf(bytes, start, end)
  }
  failed(
    _lane: number,
    slot: number,
    generation: number,
    startedAtMs: number,
    ranMs: number,
    retryable: boolean,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): void {
    const told = this.#note(slot, generation, 'failed')
    assert.equal(startedAtMs, told.startedAtMs)
    assert.ok(end - start <= 16 * 1024)
    told.ranMs = ranMs
    told.retryable = retryable
    told.error = jsonOf(bytes, start, end) as Told['error']
  }
  completing(_lane: number, slot: number, generation: number): void {
    this.#note(slot, generation, 'completing')
  }
  heartbeat(_lane: number, slot: number, generation: number): void {
    this.#note(slot, generation, 'heartbeat')
  }
  progress(_lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void {
    this.#note(slot, generation, 'progress').progress.push(jsonOf(bytes, start, end))
  }
  log(_lane: number, slot: number, generation: number, bytes: Uint8Array, start: number, end: number): void {
    assert.ok(end - start <= 8 * 1024)
    this.#note(slot, generation, 'log').logs.push(jsonOf(bytes, start, end) as Told['logs'][number])
  }

  #note(slot: number, generation: number, event: string): Told {
    assert.equal(generation, slot + 1)
    let told = this.told.get(slot)
    if (told === undefined) {
      told = {
        events: [],
        result: undefined,
        error: null,
        retryable: null,
        startedAtMs: 0,
        ranMs: 0,
        progress: [],
        logs: [],
      }
      this.told.set(slot, told)
    }
    if (event !== 'log') told.events.push(event)
    return told
  }
}

function jsonOf(bytes: Uint8Array, start: number, end: number): unknown {
  return JSON.parse(Buffer.from(bytes.slice(start, end)).toString())
}

/** Task files for one test, written from their sources; `defineTask` is in scope. Returns their URLs. */
export function writeModules(sources: Record<string, string>): { urls: string[]; remove: () => void } {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-tasks-'))
  const base = new URL('../../engine/base/task.js', import.meta.url).href
  const urls = Object.entries(sources).map(([name, source]) => {
    const file = join(folder, `${name}.mjs`)
    writeFileSync(file, `import { defineTask } from ${JSON.stringify(base)}\n${source}\n`)
    return pathToFileURL(file).href
  })
  return { urls, remove: () => rmSync(folder, { recursive: true, force: true }) }
}
