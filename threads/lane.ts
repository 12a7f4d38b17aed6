// One lane as main sees it: the memory and the ports that it shares with one thread, what was fed and not reported,
// and which phase of its life it is in. A lane is used for one thread; when that thread is gone, pool.ts makes the
// next lane under the same number, with a new ring.
//
//   starting ──loaded──► open ◄──dropped── revoked
//      │                  │ └──revoke()──────►┘ │
//      │                  ├──retire──► retiring │      runs down what it was fed, then is replaced, or gone for good
//      │                  └─────────────┴───────┴──► dying ──thread gone──► dead ──drained──► gone
//      └──thread gone──► gone                            (kill, crash, exit, end of the pool)
//
// Lossless giving back rests on three facts: the thread takes a job by raising `taken`, never beyond `limit`; main
// alone moves `limit`; both halves are one word, changed by compareExchange. What lies between the two is the tail of
// what was fed, so `#order`, the slots in feed order, names it without asking anybody.

import { MessageChannel, type MessagePort } from 'node:worker_threads'
import { type ErrorCode, invariant } from '../engine/base/errors.ts'
import type { AbortReason, FeedPiece, ReportSink } from './lanes.ts'
import { createLaneMemory, GRANT, grantMore, LANE_JOBS_MAX, type LaneMemory, revokeAll, untakenOf } from './layout.ts'
import { packPieces, ReportReader, type ToMain, type ToThread } from './messages.ts'
import { RingReader } from './ring.ts'

/** Power of two above LANE_JOBS_MAX, and a divisor of the counters' 2^16, so that positions wrap together. */
const ORDER_SLOTS = 32_768

export type LanePhase = 'starting' | 'open' | 'revoked' | 'retiring' | 'dying' | 'dead' | 'gone'

/** Why a thread died, for those whose jobs it had taken. */
export interface Cause {
  readonly code: ErrorCode
  readonly message: string
  /** The error behind it, described for the log. */
  readonly error?: Readonly<Record<string, unknown>>
}

export class Lane {
  readonly number: number
  readonly memory: LaneMemory
  /** Ends the thread when it is aborted. */
  readonly killer = new AbortController()
  phase: LanePhase = 'starting'
  cause: Cause | null = null
  /** The thread asked to be replaced: it takes nothing more. */
  isWorn = false
  /** The thread answered `end`: nothing runs in it. */
  isEnded = false
  /** The thread has not acknowledged the last revoke. */
  isDropDue = false
  readonly #ring: RingReader
  readonly #reader: ReportReader
  readonly #control: MessagePort
  readonly #bulk: MessagePort
  readonly #order = new Uint32Array(ORDER_SLOTS)
  /** Jobs fed, ever; its low 16 bits are the limit unless something was revoked, which takes them back here too. */
  #fed = 0
  /** Jobs of a dead thread that it had taken and never reported. */
  #lost = 0

  /** `transfer` gets the thread's ends of the ports. */
  constructor(
    number: number,
    ringBytes: number,
    onMessage: (message: ToMain) => void,
    transfer: (ends: { control: MessagePort; bulk: MessagePort }) => void,
  ) {
    this.number = number
    this.memory = createLaneMemory(ringBytes)
    const control = new MessageChannel()
    const bulk = new MessageChannel()
    this.#control = control.port1
    this.#bulk = bulk.port1
    this.#ring = new RingReader(this.memory)
    this.#reader = new ReportReader(number, this.memory, this.#bulk)
    this.#control.on('message', onMessage)
    transfer({ control: control.port2, bulk: bulk.port2 })
  }

  /** Jobs that were drained as completed or failed; right also within a call of the sink, as are the next two. */
  get finished(): number {
    return this.#reader.finished
  }

  get outstanding(): number {
    return this.#fed - this.finished - this.#lost
  }

  get taken(): number {
    return this.outstanding - untakenOf(Atomics.load(this.memory.header, GRANT))
  }

  feed(pieces: readonly FeedPiece[]): void {
    invariant(this.phase === 'open', 'only an open lane is fed', { lane: this.number, phase: this.phase })
    let count = 0
    for (const { slots, generations } of pieces) {
      invariant(slots.length > 0 && slots.length === generations.length, 'a piece holds jobs', { lane: this.number })
      for (let at = 0; at < slots.length; at++) this.#order[(this.#fed + count + at) & (ORDER_SLOTS - 1)] = slots[at]!
      count += slots.length
    }
    invariant(this.outstanding + count <= LANE_JOBS_MAX, 'no lane holds more jobs than its maximum', {
      lane: this.number,
      count,
      outstanding: this.outstanding,
    })
    this.#fed += count
    grantMore(this.memory.header, count) // before the message: the thread looks at the grant when the message arrives
    this.send(packPieces(pieces, count))
  }

  /** Slots that were fed and not taken, in feed order; from now on they are not this lane's. */
  takeBack(): number[] {
    const count = revokeAll(this.memory.header)
    const slots: number[] = new Array(count)
    this.#fed -= count
    for (let at = 0; at < count; at++) slots[at] = this.#order[(this.#fed + at) & (ORDER_SLOTS - 1)]!
    return slots
  }

  abort(slot: number, generation: number, reason: AbortReason): void {
    this.send({ kind: 'abort', slot, generation, reason })
  }

  /** To a thread that is gone, a message is dropped. */
  send(message: ToThread): void {
    this.#control.postMessage(message)
  }

  hasReports(): boolean {
    return !this.#ring.isEmpty()
  }

  drain(sink: ReportSink, limit: number): number {
    this.#reader.sink = sink
    try {
      return this.#ring.drain(limit, this.#reader)
    } finally {
      this.#reader.sink = null
    }
  }

  /** Closes main's ends of the ports. The bulk port stays until the ring is drained, for what it announced. */
  closeControl(): void {
    this.#control.removeAllListeners('message')
    this.#control.close()
  }

  closeBulk(): void {
    this.#bulk.close()
  }

  /** Forgets what was taken and never reported; whoever hears of the loss has it now. */
  forget(): void {
    this.#lost = this.outstanding
  }
}
