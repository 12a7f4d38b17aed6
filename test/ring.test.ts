import assert from 'node:assert/strict'
import { once } from 'node:events'
import { afterEach, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import fc from 'fast-check'
import { createLaneMemory, HEAD, type LaneMemory, RING_BYTES_MIN, TAIL } from '../threads/layout.ts'
import { type RecordVisitor, RingReader, RingWriter } from '../threads/ring.ts'
import { bound } from './support/bound.ts'
import { bodyBytes, fillByte, RECORD_KIND, type RingWriterArgs } from './support/ring-writer.ts'

const turn = () => new Promise((resolve) => setImmediate(resolve))

/** Expects the records of support/ring-writer.ts: each once, in order, whole. */
class Follower implements RecordVisitor {
  seen = 0
  readonly #memory: LaneMemory
  constructor(memory: LaneMemory) {
    this.#memory = memory
  }
  record(kind: number, start: number, end: number): void {
    const n = this.#memory.words[start >>> 2]!
    assert.equal(kind, RECORD_KIND)
    assert.equal(n, this.seen)
    assert.equal(end - start, bodyBytes(n))
    for (let at = 4; at < end - start; at++)
      if (this.#memory.bytes[start + at] !== fillByte(n, at)) assert.fail(`record ${n} is spoilt at byte ${at}`)
    this.seen++
  }
}

const MINUTE = 60_000
const workers = new Set<Worker>()

function startWriter(args: RingWriterArgs): Worker {
  const worker = new Worker(new URL('./support/ring-writer.js', import.meta.url), { workerData: args })
  workers.add(worker)
  return worker
}

// a writer that waits for room would keep this process alive after a test that has failed
afterEach(async () => {
  await Promise.all([...workers].map((worker) => worker.terminate()))
  workers.clear()
})

test('1,000,000 records of four threads arrive once, whole, and in the order of their thread', {
  timeout: 2 * MINUTE,
}, async () => {
  const count = 250_000
  const producers = Array.from({ length: 4 }, () => {
    const memory = createLaneMemory(RING_BYTES_MIN) // small, so that it is full again and again
    return {
      reader: new RingReader(memory),
      follower: new Follower(memory),
      worker: startWriter({ shared: memory.shared, count }),
    }
  })
  const goesOn = bound('for all records', () => producers.map(({ follower }) => follower.seen).join())
  while (goesOn() && producers.some(({ follower }) => follower.seen < count)) {
    for (const { reader, follower } of producers) reader.drain(10_000, follower)
    await turn()
  }
  assert.deepEqual(
    producers.map(({ follower, reader }) => [follower.seen, reader.isEmpty()]),
    producers.map(() => [count, true]),
  )
  await Promise.all(producers.map(({ worker }) => worker.terminate()))
})

for (const after of ['reserve', 'write', 'publish'] as const) {
  test(`a writer that is ended after the step "${after}" leaves what it published, and nothing else`, {
    timeout: MINUTE,
  }, async () => {
    const memory = createLaneMemory(RING_BYTES_MIN)
    const record = 500
    const worker = startWriter({ shared: memory.shared, count: 1_000, stopAt: { record, after } })
    await once(worker, 'message')
    await worker.terminate()
    const follower = new Follower(memory)
    const reader = new RingReader(memory)
    reader.drain(Number.MAX_SAFE_INTEGER, follower)
    assert.equal(follower.seen, after === 'publish' ? record + 1 : record)
    assert.ok(reader.isEmpty())
  })
}

test('a writer that is ended at any moment leaves a whole beginning of what it wrote', {
  timeout: MINUTE,
}, async () => {
  for (let round = 0; round < 20; round++) {
    const memory = createLaneMemory(RING_BYTES_MIN)
    const worker = startWriter({ shared: memory.shared, count: 1_000_000_000 })
    const follower = new Follower(memory)
    const reader = new RingReader(memory)
    const wanted = (round * 977) % 20_000 // another moment each time, mostly in the middle of a record
    const goesOn = bound('for records', () => follower.seen)
    while (goesOn() && follower.seen <= wanted) {
      reader.drain(Number.MAX_SAFE_INTEGER, follower)
      await turn()
    }
    const ended = worker.terminate()
    reader.drain(100, follower)
    await ended
    while (goesOn() && reader.drain(1_000, follower) > 0);
    const { seen } = follower
    await turn()
    assert.equal(reader.drain(1_000, follower), 0)
    assert.equal(follower.seen, seen)
  }
})

test('a thread that waits for room is woken when main has read', { timeout: 60_000 }, async () => {
  const memory = createLaneMemory(RING_BYTES_MIN)
  const count = 20_000 // several times what the ring holds
  const worker = startWriter({ shared: memory.shared, count })
  const follower = new Follower(memory)
  const reader = new RingReader(memory)
  const done = once(worker, 'message')
  const goesOn = bound('for all records', () => follower.seen)
  while (goesOn() && follower.seen < count) {
    reader.drain(Number.MAX_SAFE_INTEGER, follower)
    await turn()
  }
  assert.deepEqual(await done, ['done'])
})

test('reserve gives up after its timeout when nobody reads', () => {
  const memory = createLaneMemory(RING_BYTES_MIN)
  const writer = new RingWriter(memory)
  let place = writer.tryReserve(writer.bodyBytesMax)
  const goesOn = bound('for a full ring')
  while (goesOn() && place >= 0) {
    writer.publish(1, writer.bodyBytesMax)
    place = writer.tryReserve(writer.bodyBytesMax)
  }
  assert.equal(writer.reserve(8, 1), -1)
  const reader = new RingReader(memory)
  reader.drain(1, { record() {} })
  assert.ok(writer.reserve(8, 1) >= 0)
})

test('a visitor that throws does not see the same record again', () => {
  const memory = createLaneMemory(RING_BYTES_MIN)
  const writer = new RingWriter(memory)
  for (const kind of [1, 2, 3]) {
    writer.tryReserve(0)
    writer.publish(kind, 0)
  }
  const reader = new RingReader(memory)
  const seen: number[] = []
  const visitor = {
    record(kind: number) {
      seen.push(kind)
      if (kind === 2) throw new Error('no')
    },
  }
  assert.throws(() => reader.drain(10, visitor))
  reader.drain(10, visitor)
  assert.deepEqual(seen, [1, 2, 3])
})

type Step =
  | { readonly do: 'write'; readonly reserve: number; readonly use: number }
  | { readonly do: 'abandon'; readonly reserve: number }
  | { readonly do: 'drain'; readonly limit: number }

test('a ring behaves as a bounded queue of byte strings, over its end and over the wrap of its counters', () => {
  const bytesMax = RING_BYTES_MIN / 4 - 8
  const size = fc.oneof(fc.integer({ min: 0, max: 64 }), fc.integer({ min: 0, max: bytesMax }), fc.constant(bytesMax))
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 5, arbitrary: fc.record({ do: fc.constant('write' as const), reserve: size, use: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('abandon' as const), reserve: size }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('drain' as const), limit: fc.integer({ min: 1, max: 9 }) }) },
  )
  // Counters begin shortly before 2^32, so every run crosses it.
  const begin = fc.nat({ max: 40 }).map((n) => 0x1_0000_0000 - n * 4_096)
  fc.assert(
    fc.property(begin, fc.array(step, { maxLength: 80 }), (from, steps) => {
      const memory = createLaneMemory(RING_BYTES_MIN)
      memory.header[TAIL] = memory.header[HEAD] = from | 0
      const writer = new RingWriter(memory)
      const reader = new RingReader(memory)
      const model: { kind: number; bytes: number; fill: number }[] = []
      let used = 0
      steps.forEach((step, n) => {
        if (step.do === 'drain') {
          const count = reader.drain(step.limit, {
            record(kind, start, end) {
              const expected = model.shift()!
              assert.deepEqual([kind, end - start], [expected.kind, expected.bytes])
              assert.ok(end <= RING_BYTES_MIN)
              for (let at = start; at < end; at++) if (memory.bytes[at] !== expected.fill) assert.fail('spoilt')
              used -= 8 + Math.ceil(expected.bytes / 8) * 8
            },
          })
          assert.ok(count === step.limit || model.length === 0)
          assert.equal(reader.isEmpty(), model.length === 0)
          return
        }
        const place = writer.tryReserve(step.reserve)
        if (place < 0) {
          // Refused only when even without padding it might not have fitted twice.
          assert.ok(used + 2 * (8 + Math.ceil(step.reserve / 8) * 8) + RING_BYTES_MIN / 4 > RING_BYTES_MIN)
          return
        }
        assert.equal(place % 8, 0)
        assert.ok(used + 8 + Math.ceil(step.reserve / 8) * 8 <= RING_BYTES_MIN, 'what is not read yet is written over')
        memory.bytes.fill(n & 0xff, place, place + step.reserve)
        if (step.do === 'abandon') return
        const bytes = step.use % (step.reserve + 1)
        writer.publish(n + 1, bytes)
        model.push({ kind: n + 1, bytes, fill: n & 0xff })
        used += 8 + Math.ceil(bytes / 8) * 8
      })
      reader.drain(Number.MAX_SAFE_INTEGER, { record: (kind) => assert.equal(kind, model.shift()!.kind) })
      assert.equal(model.length, 0)
    }),
    { numRuns: 300, interruptAfterTimeLimit: MINUTE, endOnFailure: true },
  )
})

test('a record is published after the last of its words was stored, and a padding with the record behind it', () => {
  const memory = createLaneMemory(RING_BYTES_MIN)
  const stores: string[] = []
  const tailWas = () => (Atomics.load(memory.header, TAIL) >>> 0) as number
  let before = 0
  const words = new Proxy(memory.words, {
    set(target, key, value) {
      target[Number(key)] = value as number
      stores.push(tailWas() === before ? 'hidden' : 'seen')
      return true
    },
  })
  const writer = new RingWriter({ ...memory, words })
  const reader = new RingReader(memory)
  const read = { record: () => {} }
  for (const bytes of [0, 8, writer.bodyBytesMax, writer.bodyBytesMax, writer.bodyBytesMax, writer.bodyBytesMax, 4]) {
    before = tailWas()
    assert.ok(writer.tryReserve(bytes) >= 0)
    writer.publish(RECORD_KIND, bytes)
    assert.notEqual(tailWas(), before)
    reader.drain(10, read)
  }
  assert.ok(stores.length > 2 * 7, 'one of them had a padding')
  assert.deepEqual(new Set(stores), new Set(['hidden']))
})

test('a record that was never reserved cannot be published', () => {
  const writer = new RingWriter(createLaneMemory(RING_BYTES_MIN))
  assert.throws(() => writer.publish(1, 0), { code: 'INVARIANT' })
  writer.tryReserve(8)
  assert.throws(() => writer.publish(1, 9), { code: 'INVARIANT' })
  assert.throws(() => writer.tryReserve(RING_BYTES_MIN), { code: 'INVARIANT' })
})
