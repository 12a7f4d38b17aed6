// Jobs that wait here for a lane, in the order of their queues. Ranks of different queues cannot be compared, so queues
// come in the order in which they are listed, or take turns, and within a queue the lowest (rank, seq) comes first. Spans of one queue and task form a group: a task
// whose lanes are full holds up nobody else.
//
// A job that leaves by itself (cancelled, expired) stays in its span as a hole; `waiting` counts only what lives.

import { Heap } from './heap.ts'
import { type Holding, type Span, spanBefore } from './holding.ts'
import type { TaskState } from './task-state.ts'

export class Group {
  readonly queueId: number
  readonly queue: string
  readonly task: TaskState
  readonly spans = new Heap<Span>(spanBefore)
  /** Living jobs in the spans. Written by Pending only. */
  waiting = 0
  /** Place among the groups that have something; -1 when it has nothing. Written by Pending only. */
  place = -1

  constructor(queueId: number, queue: string, task: TaskState) {
    this.queueId = queueId
    this.queue = queue
    this.task = task
  }
}

export class Pending {
  /** Those that have something that waits, in no order. */
  #groups: Group[] = []
  readonly #byTask = new Map<TaskState, Map<number, Group>>()
  /** When each queue was last served, as a counter: the one that waits longest for its turn comes first. */
  readonly #servedNo = new Map<number, number>()
  #served = 0
  #size = 0
  readonly #orderOf: (queue: string) => number

  /** @param orderOf lower: more urgent; queues of one order take turns */
  constructor(orderOf: (queue: string) => number = () => 0) {
    this.#orderOf = orderOf
  }

  /** Living jobs that wait. */
  get size(): number {
    return this.#size
  }

  get groups(): readonly Group[] {
    return this.#groups
  }

  /** Adds jobs [from, to) of a holding, `living` of them not holes, at their place in the order. */
  add(holding: Holding, from: number, to: number, living: number, nowSteadyMs: number): void {
    if (living === 0) return
    const group = this.#groupOf(holding)
    group.spans.push({ holding, from, to, sinceSteadyMs: nowSteadyMs })
    this.count(group, living)
  }

  /** Jobs joined or left a group: both counters move together. */
  count(group: Group, change: number): void {
    group.waiting += change
    this.#size += change
    if (group.waiting === 0) {
      group.spans.drain() // nothing but holes is left
      const last = this.#groups.pop()!
      if (last !== group) this.#place(last, group.place)
      group.place = -1
    } else if (group.place === -1) this.#place(group, this.#groups.length)
  }

  /** One waiting job of the holding left by itself. */
  forget(holding: Holding): void {
    this.count(this.#groupOf(holding), -1)
  }

  /** The first group in order among those that `fits` accepts. */
  first(fits: (group: Group) => boolean): Group | null {
    let best: Group | null = null
    for (const group of this.#groups) {
      if (!fits(group)) continue
      if (best === null || this.#before(group, best)) best = group
    }
    return best
  }

  /** The queue of this group has had its turn. */
  served(group: Group): void {
    this.#servedNo.set(group.queueId, ++this.#served)
  }

  /** Takes out every span, in no order. */
  drain(): Span[] {
    const spans = this.#groups.flatMap((group) => group.spans.drain())
    this.#groups = []
    this.#byTask.clear()
    this.#servedNo.clear()
    this.#size = 0
    return spans
  }

  #place(group: Group, place: number): void {
    this.#groups[place] = group
    group.place = place
  }

  #before(a: Group, b: Group): boolean {
    if (a.queueId !== b.queueId) {
      const by = this.#orderOf(a.queue) - this.#orderOf(b.queue)
      return by !== 0 ? by < 0 : (this.#servedNo.get(a.queueId) ?? 0) < (this.#servedNo.get(b.queueId) ?? 0)
    }
    return spanBefore(a.spans.peek()!, b.spans.peek()!)
  }

  #groupOf(holding: Holding): Group {
    const { task, chunk } = holding
    let byQueue = this.#byTask.get(task)
    if (byQueue === undefined) {
      byQueue = new Map()
      this.#byTask.set(task, byQueue)
    }
    let group = byQueue.get(chunk.queueId)
    if (group === undefined) {
      group = new Group(chunk.queueId, chunk.queue, task)
      byQueue.set(chunk.queueId, group)
    }
    return group
  }
}
