// The way in and out of the process: enqueues, claims, the loop, threads and rings, the outbox, what people read.

import type { Mutant } from './mutant.ts'

export const ENGINE_MUTANTS: readonly Mutant[] = [
  {
    name: 'enqueue: after a lost answer everything is sent again',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `if (unsure) left = await this.#missing(left, limitMs)`,
    replace: ``,
    test: 'lost-answers: an ephemeral job leaves no trace',
  },
  {
    name: 'enqueue: a lost answer counts as never written',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `unsure ||= mayHaveWritten(error)`,
    replace: ``,
    test: 'lost-answers: the answer is lost, the call is answered',
  },
  {
    name: 'enqueue: an error does not say that it may have been written',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `if (isOver || missing.length === left.length) throw unsureError(error)`,
    replace: `if (isOver || missing.length === left.length) throw error`,
    test: 'lost-answers: when the time is over too',
  },
  {
    name: 'enqueue: one bad job costs its neighbours theirs',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `if (flight.length > 1 && blamesData(error) && !isUnsure(error)) {`,
    replace: `if (flight.length > 1e9) {`,
    test: 'lost-answers: a job that PostgreSQL does not take fails alone',
  },
  {
    name: 'enqueue: a tiny delay is told as a later job',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `return runAtMs === null || runAtMs <= this.#nowMs() + SOON_MS`,
    replace: `return runAtMs === null`,
    test: 'hints: delayed by so little',
  },
  {
    name: 'enqueue: nobody looks for what may have been written',
    file: 'engine/enqueuer/enqueuer.ts',
    find: `if (isUnsure(error)) this.#needs.onEnqueued?.(`,
    replace: `if (isUnsure(null)) this.#needs.onEnqueued?.(`,
    test: 'hints: an enqueue that fails may have been written',
  },
  {
    name: 'payload: one at the limit is refused',
    file: 'engine/enqueuer/payload.ts',
    find: `Buffer.byteLength(text) > bytesMax)`,
    replace: `Buffer.byteLength(text) >= bytesMax)`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'payload: characters are counted, not bytes',
    file: 'engine/enqueuer/payload.ts',
    find: `if (text.length * 3 > bytesMax && Buffer.byteLength(text) > bytesMax)`,
    replace: `if (text.length > bytesMax)`,
    test: 'enqueue: exactly the limit',
  },
  {
    name: 'result: one at the limit is refused',
    file: 'threads/outcome.ts',
    find: `if (bytes > bytesMax)`,
    replace: `if (bytes >= bytesMax)`,
    test: 'pool: one at the limit does not',
  },
  {
    name: 'result: what JSON loses is stored',
    file: 'threads/outcome.ts',
    find: `if (lost !== null) throw plainError('RESULT_INVALID'`,
    replace: `if (lost === '') throw plainError('RESULT_INVALID'`,
    test: 'pool: what is not JSON fails',
  },
  {
    name: 'trace: spans of the real API are not found',
    file: 'engine/base/trace.ts',
    find: `Symbol.for('opentelemetry.js.api.1')`,
    replace: `Symbol.for('opentelemetry.js.api.2')`,
    test: 'enqueue: with the API of OpenTelemetry itself',
  },
  {
    name: 'trace: the key of the span is another',
    file: 'engine/base/trace.ts',
    find: `Symbol.for('OpenTelemetry Context Key SPAN')`,
    replace: `Symbol.for('SPAN')`,
    test: 'enqueue: with the API of OpenTelemetry itself',
  },
  {
    name: 'claimer: the front of the queue is passed over for as long as claims are slow',
    file: 'engine/claimer/positions.ts',
    find: `Math.min(againMs, FULL_EVERY_MAX_MS)`,
    replace: `againMs`,
    test: 'claimer: every connection slow for good',
  },
  {
    name: 'claimer: one stall counts as the cost of a claim',
    file: 'engine/claimer/positions.ts',
    find: `Math.min(tookMs, this.#lastFullTookMs)`,
    replace: `tookMs`,
    test: 'claimer: one claim that stalls',
  },
  {
    name: 'scheduler: a report about a slot that has changed hands counts',
    file: 'engine/scheduler/reports.ts',
    find: `if (this.#jobs.slots.isCurrent(slot, generation)) return false`,
    replace: `return false`,
    test: 'scheduler: a report about a slot that has changed hands',
  },
  {
    name: 'scheduler: what returns after its time is completed',
    file: 'engine/scheduler/reports.ts',
    find: `if (jobs.slots.flags[slot]! & FLAG.timeout && !this.#wasInTime(slot, ranMs)) {`,
    replace: `if (jobs.slots.flags[slot]! & FLAG.timeout && ranMs < 0) {`,
    test: 'scheduler: a job that returns within the grace time',
  },
  {
    name: 'scheduler: an attempt outlasts the expiry of its job',
    file: 'engine/orchestrator/deadline.ts',
    find: `return Math.min(byTimeout, byExpiry)`,
    replace: `return byTimeout`,
    test: 'scheduler: the deadline is the earlier one',
  },
  {
    name: 'scheduler: silence is borne for one interval too many',
    file: 'engine/scheduler/watch.ts',
    find: `if (missed >= max) return true`,
    replace: `if (missed > max) return true`,
    test: 'scheduler: a task that promised heartbeats',
  },
  {
    name: 'scheduler: a running job does not hear of its cancel',
    file: 'engine/scheduler/held-jobs.ts',
    find: `    this.#needs.lanes.abort(lane, slot, slots.generation[slot]!, 'cancelled')
`,
    replace: ``,
    test: 'scheduler: [CS-056] a job that is cancelled while it runs',
  },
  {
    name: 'scheduler: it claims after it was told to be quiet',
    file: 'engine/scheduler/scheduler.ts',
    find: `const room = heldMax - jobs.held
    if (this.#life !== 'open' || room <= 0 || !this.#needs.outcomes.hasRoom()) return 0
    const { lanes }`,
    replace: `const room = heldMax - jobs.held
    if (room <= 0 || !this.#needs.outcomes.hasRoom()) return 0
    const { lanes }`,
    test: 'scheduler: it wants nothing when it is quiet',
  },
  {
    name: 'scheduler: it claims while the writer of outcomes is behind',
    file: 'engine/scheduler/scheduler.ts',
    find: `const room = heldMax - jobs.held
    if (this.#life !== 'open' || room <= 0 || !this.#needs.outcomes.hasRoom()) return 0
    const { lanes }`,
    replace: `const room = heldMax - jobs.held
    if (this.#life !== 'open' || room <= 0) return 0
    const { lanes }`,
    test: 'scheduler: it wants nothing when it is quiet',
  },
  {
    name: 'states: a completed job may fail',
    file: 'engine/orchestrator/states.ts',
    find: `  completed: {},
`,
    replace: `  completed: { fail: 'failed' },
`,
    test: 'states: a terminal state accepts no event',
  },
  {
    name: 'retry: a job that failed is dead at once',
    file: 'engine/orchestrator/retry.ts',
    find: `if (!retryable || attempt >= maxAttempts) return NO_RETRY`,
    replace: `if (attempt > 0) return NO_RETRY`,
    test: 'failure: after a panic',
  },
  {
    name: 'retry: one attempt too many',
    file: 'engine/orchestrator/retry.ts',
    find: `if (!retryable || attempt >= maxAttempts) return NO_RETRY`,
    replace: `if (!retryable || attempt > maxAttempts) return NO_RETRY`,
    test: 'failure: after a panic',
  },
  {
    name: 'stop: jobs that were ended are not named',
    file: 'engine/scheduler/reports.ts',
    find: `if ((slots.flags[slot]! & FLAG.stop) !== 0) jobs.interrupt(slot)`,
    replace: ``,
    test: 'worker: names what it ended then',
  },
  {
    name: 'stop: what runs has no time by default',
    file: 'engine/config/settings.ts',
    find: `default: 10 * SECOND,
    min: 0,
    max: HOUR,
    about: 'Time that running`,
    replace: `default: 0,
    min: 0,
    max: HOUR,
    about: 'Time that running`,
    test: 'worker: names what it ended then',
  },
  {
    name: 'ring: a record is seen before it is written',
    file: 'threads/ring.ts',
    find: `    words[at] = bytes
    words[at + 1] = kind
    this.#tail = (this.#tail + this.#padding + RECORD_HEAD_BYTES + aligned(bytes)) >>> 0
    this.#reserved = REFUSED
    Atomics.store(header, TAIL, this.#tail | 0) // after every plain store above: this is what makes them visible
`,
    replace: `    this.#tail = (this.#tail + this.#padding + RECORD_HEAD_BYTES + aligned(bytes)) >>> 0
    this.#reserved = REFUSED
    Atomics.store(header, TAIL, this.#tail | 0)
    words[at] = bytes
    words[at + 1] = kind
`,
    test: 'ring: a record is published after the last',
  },
  {
    name: 'ring: who waits for room is not woken',
    file: 'threads/ring.ts',
    find: `if (Atomics.load(header, WRITER_WAITS) === 1) Atomics.notify(header, HEAD)`,
    replace: ``,
    test: 'ring: a thread that waits for room',
  },
  {
    name: 'ring: a record goes over the end',
    file: 'threads/ring.ts',
    find: `this.#padding = need > toEnd ? toEnd : 0`,
    replace: `this.#padding = 0`,
    test: 'ring: a ring behaves as a bounded queue',
  },
  {
    name: 'ring: what is not read yet is written over',
    file: 'threads/ring.ts',
    find: `return this.#memory.ringBytes - ((this.#tail - this.#headSeen) >>> 0)`,
    replace: `return this.#memory.ringBytes`,
    test: 'ring: a ring behaves as a bounded queue',
  },
  {
    name: 'ring: a visitor that throws sees its record again',
    file: 'threads/ring.ts',
    find: `        this.#head = (this.#head + RECORD_HEAD_BYTES + aligned(length)) >>> 0
        if (kind !== PADDING) {
          seen++
          visitor.record(kind, position + RECORD_HEAD_BYTES, position + RECORD_HEAD_BYTES + length)
        }
`,
    replace: `        if (kind !== PADDING) {
          seen++
          visitor.record(kind, position + RECORD_HEAD_BYTES, position + RECORD_HEAD_BYTES + length)
        }
        this.#head = (this.#head + RECORD_HEAD_BYTES + aligned(length)) >>> 0
`,
    test: 'ring: a visitor that throws',
  },
  {
    name: 'lane: a grant that was taken back is taken all the same',
    file: 'threads/layout.ts',
    find: `if (Atomics.compareExchange(header, GRANT, grant, next) === grant) return true`,
    replace: `Atomics.store(header, GRANT, next)
    return true`,
    test: 'grants: however fast main grants',
  },
  {
    name: 'inbox: a message goes in although its sender was told that it did not',
    file: 'threads/inbox.ts',
    find: `        this.#senders.delete(sender)
        this.#timeoutCount++`,
    replace: `        this.#timeoutCount++`,
    test: 'inbox: senders are told',
  },
  {
    name: 'inbox: a sender that was admitted times out all the same',
    file: 'threads/inbox.ts',
    find: `          timer.cancel()
          resolve(isSent)`,
    replace: `          resolve(isSent)`,
    test: 'inbox: senders are told',
  },
  {
    name: 'outbox: a record is deleted before it was sent',
    file: 'engine/syncer/outbox.ts',
    find: `        const end = await this.#sendOne(record, send)
`,
    replace: `        await this.#flush.remove(name)
        const end = await this.#sendOne(record, send)
`,
    test: 'outbox: a replay stops at the first failure',
  },
  {
    name: 'outbox: a record that was sent is sent again',
    file: 'engine/syncer/outbox.ts',
    find: `        await this.#flush.remove(name)
        if (!wasSent)`,
    replace: `        if (!wasSent)`,
    test: 'outbox: a flush comes back as it was',
  },
  {
    name: 'outbox: what comes behind a failure is sent',
    file: 'engine/syncer/outbox.ts',
    find: `      if (failure !== null) {`,
    replace: `      if (failure === name) {`,
    test: 'outbox: a replay stops at the first failure',
  },
  {
    name: 'outbox: records of another database are sent',
    file: 'engine/syncer/outbox.ts',
    find: `if (record.schema !== schema || record.storeId !== storeId) continue`,
    replace: `if (record.schema !== schema) continue`,
    test: 'outbox: flushes of a schema of the same name',
  },
  {
    name: 'outbox: records are named after nobody',
    file: 'engine/syncer/outbox.ts',
    find: `storedAtMs: this.#clock.wallMs(), flush }, origin.nodeUid)`,
    replace: `storedAtMs: this.#clock.wallMs(), flush }, '')`,
    test: 'outbox: a record is named after the node',
  },
  {
    name: 'outbox: what others have taken over is kept for ever',
    file: 'engine/syncer/outbox.ts',
    find: `if (codeOf(error) === 'NODE_FENCED') return 'stale'
`,
    replace: ``,
    test: 'outbox: what PostgreSQL refuses for what it says',
  },
  {
    name: 'syncer: outcomes that were not written are forgotten at the stop',
    file: 'engine/syncer/syncer.ts',
    find: `await this.#outbox.put(this.#needs.nodeId(), flush)`,
    replace: ``,
    test: 'syncer: what PostgreSQL does not take until the last second',
  },
  {
    name: 'output: line breaks forge lines',
    file: 'engine/base/clean.ts',
    find: `return text.replace(BREAKS, ' ').replace(CONTROLS, '·')`,
    replace: `return text`,
    test: 'cli-output: whatever comes from outside',
  },
  {
    name: 'output: marks reverse the reading order',
    file: 'engine/base/clean.ts',
    find: `\\u061c\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]/g

/** What JSON`,
    replace: `]/g

/** What JSON`,
    test: 'cli-output: whatever comes from outside',
  },
  {
    name: 'log: failing jobs write any number of lines',
    file: 'engine/job-log.ts',
    find: `return ++this.#ended[kind] <= LINES_PER_SECOND`,
    replace: `return ++this.#ended[kind] > 0`,
    test: 'job-log: so many lines a second',
  },
]
