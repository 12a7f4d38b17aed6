// A child process that is one system's producer or worker, told by its parent what to do, one request at a time. The
// clock around the work runs here, so that messages between processes are no part of it.

import { monotonicUs, type Producer, type System, type Tally, type Worker, type WorkerPlan } from './system.ts'
import { loadSystem } from './table.ts'

export interface Verbs {
  /** Loads the system's module; nothing is connected yet. */
  load(system: string, url: string): Promise<void>
  /** Connects a producer and enqueues nothing. */
  openProducer(purpose: WorkerPlan['purpose']): Promise<void>
  /** One awaited call after another. */
  single(firstId: number, count: number): Promise<Spent>
  /** That many callers, each with one awaited call after another. */
  concurrent(firstId: number, count: number, callers: number): Promise<Spent>
  /** Calls of `batch` jobs, `inFlight` at a time. */
  bulk(firstId: number, count: number, batch: number, inFlight: number): Promise<Spent>
  /** Open loop at a fixed rate; answers when each call was made and how long it took. */
  pace(firstId: number, count: number, perSecond: number): Promise<{ sentUs: Float64Array; tookUs: Float64Array }>
  /** Starts a worker; it is ready to be woken when this resolves. */
  startWorker(plan: WorkerPlan): Promise<void>
  /** Waits until all has run, then stops. `drain` starts the worker first, and its clock with it. */
  finish(): Promise<Spent>
  drain(plan: WorkerPlan): Promise<Spent>
  tally(): Promise<Tally>
  close(): Promise<void>
}

export interface Spent {
  readonly startUs: number
  readonly endUs: number
  readonly cpuUs: number
  readonly rssMiB: number
}

export interface Request {
  readonly verb: keyof Verbs
  readonly args: readonly unknown[]
}

export type Reply = { readonly value: unknown } | { readonly error: string }

let system: System | null = null
let url = ''
let producer: Producer | null = null
let worker: Worker | null = null

const verbs: Verbs = {
  async load(name, database) {
    system = await loadSystem(name)
    url = database
  },
  async openProducer(purpose) {
    producer = await system!.openProducer(url, purpose)
  },
  single: (firstId, count) =>
    timed(async () => {
      for (let id = firstId; id < firstId + count; id++) await producer!.enqueue(id)
    }),
  concurrent: (firstId, count, callers) =>
    timed(async () => {
      let next = firstId
      const caller = async () => {
        while (next < firstId + count) await producer!.enqueue(next++)
      }
      await Promise.all(Array.from({ length: callers }, caller))
    }),
  bulk: (firstId, count, batch, inFlight) =>
    timed(async () => {
      const end = firstId + count
      let next = firstId
      const caller = async () => {
        while (next < end) {
          const from = next
          next = Math.min(end, next + batch)
          await producer!.enqueueMany(from, next - from)
        }
      }
      await Promise.all(Array.from({ length: inFlight }, caller))
    }),
  async pace(firstId, count, perSecond) {
    const sentUs = new Float64Array(count)
    const tookUs = new Float64Array(count)
    const calls: Promise<void>[] = []
    const startUs = monotonicUs()
    for (let i = 0; i < count; i++) {
      const waitMs = (startUs + (i * 1e6) / perSecond - monotonicUs()) / 1e3
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs))
      const sent = monotonicUs()
      sentUs[i] = sent
      calls.push(
        producer!.enqueue(firstId + i).then(() => {
          tookUs[i] = monotonicUs() - sent
        }),
      )
    }
    await Promise.all(calls)
    return { sentUs, tookUs }
  },
  async startWorker(plan) {
    worker = await system!.startWorker(url, plan)
  },
  finish: () =>
    timed(async () => {
      await worker!.allRan()
      await worker!.stop()
    }),
  drain: (plan) =>
    timed(async () => {
      worker = await system!.startWorker(url, plan)
      await worker.allRan()
      await worker.stop()
    }),
  tally: () => worker!.tally(),
  async close() {
    await producer?.close()
    process.disconnect()
  },
}

async function timed(work: () => Promise<void>): Promise<Spent> {
  const cpu = process.cpuUsage()
  const startUs = monotonicUs()
  await work()
  const endUs = monotonicUs()
  const used = process.cpuUsage(cpu)
  return { startUs, endUs, cpuUs: used.user + used.system, rssMiB: process.memoryUsage.rss() / 2 ** 20 }
}

process.on('message', async ({ verb, args }: Request) => {
  let reply: Reply
  try {
    reply = { value: await (verbs[verb] as (...args: readonly unknown[]) => Promise<unknown>)(...args) }
  } catch (error) {
    reply = { error: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
  if (process.connected) process.send!(reply)
})
process.on('disconnect', () => process.exit())
