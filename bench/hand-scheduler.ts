// A real scheduler on lanes played by hand, with an outcome writer that only counts, and chunks to put into it.

import { systemClock } from '../engine/base/clock.ts'
import { PAYLOAD_SEPARATOR } from '../engine/base/limits.ts'
import { silentLog } from '../engine/base/log.ts'
import type { Message } from '../engine/scheduler/messages.ts'
import type { Occurrences } from '../engine/scheduler/needs.ts'
import { Scheduler } from '../engine/scheduler/scheduler.ts'
import type { Outcomes } from '../engine/store/outcomes.ts'
import type { ClaimedChunk } from '../engine/store/types.ts'
import type { Inbox } from '../threads/inbox.ts'
import { HandLanes, SHARED_TASK } from './hand-lanes.ts'

/** Each holds 1,000 jobs. */
const LANES = 16
const CHUNK_JOBS = 1_000

export interface HandScheduler {
  readonly scheduler: Scheduler
  readonly lanes: HandLanes
  /** Outcomes handed over so far. */
  settled(): number
  /** Takes in `count` new jobs and gives all of them to lanes. */
  fill(count: number): void
  /** Lets everything that lanes have complete, and takes the reports in. */
  empty(): void
  /** Throws unless exactly so many orchestrators live. */
  expectActive(count: number): void
  close(): void
}

export interface HandOptions {
  readonly lanes?: number
  readonly occurrences?: Occurrences
  readonly inbox?: Inbox<Message>
}

export function handScheduler(options: HandOptions = {}): HandScheduler {
  const { occurrences, inbox } = options
  let settled = 0
  const count = () => {
    settled++
  }
  const outcomes: Outcomes = {
    hasRoom: () => true,
    doubt: () => {},
    completed: count,
    failed: count,
    cancelled: count,
    expired: count,
    release: count,
    running: () => {},
  }
  const lanes = new HandLanes(options.lanes ?? LANES)
  const scheduler = new Scheduler({
    clock: systemClock,
    log: silentLog,
    settings: {
      heldMax: 200_000,
      loopIdleMs: 1_000,
      preScheduleMs: 10_000,
      graceMs: 30_000,
      orchestratorHeartbeatMs: 10_000,
      missedHeartbeatsMax: 1_000, // a bench holds its jobs for longer than their heartbeats would allow
      defaultTimeoutMs: 30_000,
    },
    lanes,
    outcomes,
    ...(occurrences === undefined ? {} : { occurrences }),
    ...(inbox === undefined ? {} : { inbox }),
    markRunning: async () => {},
    onRoom: () => {},
    turn: () => {}, // iterations are ours to run
  })
  scheduler.setTasks([SHARED_TASK])
  const hand: HandScheduler = {
    scheduler,
    lanes,
    settled: () => settled,
    fill(jobs) {
      scheduler.arrive(chunksOf(jobs))
      scheduler.iteration()
    },
    empty() {
      lanes.completeAll(systemClock.wallMs())
      while (lanes.hasReports()) scheduler.iteration()
      hand.expectActive(0)
    },
    expectActive(active) {
      const found = scheduler.stats().activeOrchestrators
      if (found !== active) throw new Error(`bench: ${found} orchestrators live, not ${active}`)
    },
    close: () => lanes.close(),
  }
  return hand
}

let nextId = 1

/** Claimed chunks of fresh jobs, as the store hands them over. */
export function chunksOf(jobs: number): ClaimedChunk[] {
  const chunks: ClaimedChunk[] = []
  const nowMs = systemClock.wallMs()
  for (let left = jobs; left > 0; left -= CHUNK_JOBS) {
    const count = Math.min(left, CHUNK_JOBS)
    chunks.push({
      leaseId: nextId,
      firstId: nextId,
      count,
      queueId: 1,
      queue: 'default',
      task: SHARED_TASK.name,
      rank: 0,
      seq: nextId,
      attempt: 1,
      run: 1,
      rescues: 0,
      maxAttempts: 3,
      timeoutMs: null,
      expiresAtMs: null,
      createdAtMs: nowMs,
      dueAtMs: nowMs,
      keyed: false,
      ephemeral: false,
      group: null,
      retry: null,
      timed: false,
      payloads: Array.from({ length: count }, (_, at) => `{"id":${nextId + at},"name":"x"}`).join(PAYLOAD_SEPARATOR),
      metas: null,
    })
    nextId += count
  }
  return chunks
}
