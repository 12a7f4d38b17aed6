// Lanes whose threads are played by hand: real rings and real records, and nobody behind them. What a lane was fed waits
// until the bench says that it started or completed, so the scheduler is measured alone and at any depth.

import { MessageChannel } from 'node:worker_threads'
import type { FeedPiece, Lanes, ReportSink, TaskInfo } from '../threads/lanes.ts'
import { createLaneMemory, LANE_JOBS_MAX } from '../threads/layout.ts'
import { ReportReader, ReportWriter } from '../threads/messages.ts'
import { RingReader, RingWriter } from '../threads/ring.ts'

const RING_BYTES = 256 * 1024 // a lane holds at most 1,000 jobs here, and two reports of each fit

/** A task whose jobs share a lane by the thousand, and promise heartbeats: the scheduler's most work per job. */
export const SHARED_TASK: TaskInfo = {
  name: 'shared',
  file: 'file:///shared.js',
  queue: 'default',
  maxAttempts: 3,
  group: null,
  groupLimit: null,
  onRetry: 'block',
  timeoutMs: 30_000,
  graceMs: 5_000,
  heartbeatMs: 100,
  decides: false,
  concurrency: 1_000,
  retry: { kind: 'none' },
  inline: false,
}

interface HandLane {
  readonly ring: RingReader
  readonly reader: ReportReader
  readonly writer: ReportWriter
  readonly close: () => void
  /** Fed and not completed, in feed order: slots and generations, made once so that memory benches do not see them. */
  readonly slots: Uint32Array
  readonly generations: Uint32Array
  fed: number
}

export class HandLanes implements Lanes {
  readonly #lanes: HandLane[]

  constructor(count: number) {
    this.#lanes = Array.from({ length: count }, (_, index) => handLane(index))
  }

  get count(): number {
    return this.#lanes.length
  }

  /** Jobs that were fed and not completed. */
  get waiting(): number {
    return this.#lanes.reduce((sum, lane) => sum + lane.fed, 0)
  }

  /** Every fed job reports its start. */
  startAll(atMs: number): void {
    for (const { fed, slots, generations, writer } of this.#lanes) {
      for (let at = 0; at < fed; at++) writer.started(slots[at]!, generations[at]!, atMs)
    }
  }

  /** Every fed job reports a result. */
  completeAll(atMs: number): void {
    for (const lane of this.#lanes) {
      for (let at = 0; at < lane.fed; at++)
        lane.writer.completed(lane.slots[at]!, lane.generations[at]!, atMs, 0.001, '1')
      lane.fed = 0
    }
  }

  /** `count` heartbeats, spread over the lanes. */
  beat(count: number, atMs: number): void {
    for (let at = 0; at < count; at++) {
      const lane = this.#lanes[at % this.#lanes.length]!
      const job = Math.floor(at / this.#lanes.length) % Math.max(1, lane.fed)
      // Nobody is there: a report about a slot that was never given is as much work up to the look at its owner.
      lane.writer.tryHeartbeat(lane.slots[job]!, lane.generations[job]!, atMs)
    }
  }

  close(): void {
    for (const lane of this.#lanes) lane.close()
  }

  isOpen(): boolean {
    return true
  }

  feed(lane: number, pieces: readonly FeedPiece[]): void {
    const to = this.#lanes[lane]!
    for (const { slots, generations } of pieces) {
      to.slots.set(slots, to.fed)
      to.generations.set(generations, to.fed)
      to.fed += slots.length
    }
  }

  outstanding(lane: number): number {
    return this.#lanes[lane]!.fed
  }

  taken(lane: number): number {
    return this.#lanes[lane]!.fed
  }

  revoke(): number[] {
    return []
  }

  abort(): void {}

  kill(): void {}

  drain(sink: ReportSink, limit: number): number {
    let drained = 0
    for (const lane of this.#lanes) {
      lane.reader.sink = sink
      drained += lane.ring.drain(limit - drained, lane.reader)
    }
    return drained
  }

  hasReports(): boolean {
    return this.#lanes.some((lane) => !lane.ring.isEmpty())
  }
}

function handLane(index: number): HandLane {
  const memory = createLaneMemory(RING_BYTES)
  const bulk = new MessageChannel()
  const writer = new ReportWriter(memory, new RingWriter(memory), bulk.port2, () => {
    throw new Error('bench: a ring is full')
  })
  return {
    ring: new RingReader(memory),
    reader: new ReportReader(index, memory, bulk.port1),
    writer,
    close: () => bulk.port1.close(),
    slots: new Uint32Array(LANE_JOBS_MAX),
    generations: new Uint32Array(LANE_JOBS_MAX),
    fed: 0,
  }
}
