import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { NO_SLOT, Slots } from '../engine/orchestrator/slots.ts'

test('a slot is found by its id, belongs to one generation, and is given away again after it was freed', () => {
  const slots = new Slots<string>(100)
  const slot = slots.create(7, 'a', 1, 0)
  const generation = slots.generation[slot]!
  assert.equal(slots.of(7), slot)
  assert.ok(slots.isCurrent(slot, generation))
  slots.free(slot)
  assert.equal(slots.of(7), NO_SLOT)
  assert.ok(!slots.isCurrent(slot, generation))
  const again = slots.create(8, 'b', 1, 0)
  assert.equal(again, slot)
  assert.ok(!slots.isCurrent(again, generation))
  assert.ok(slots.isCurrent(again, slots.generation[again]!))
})

test('a slot that was never created is nobody, whatever generation is asked for', () => {
  const slots = new Slots<string>(100)
  assert.ok(!slots.isCurrent(0, 0))
  assert.ok(!slots.isCurrent(0, 1))
  assert.ok(!slots.isCurrent(99_999, 0))
})

test('the table grows by doubling up to its limit, keeps what it holds, and refuses by value beyond', () => {
  const slots = new Slots<string>(1_000, 16)
  for (let id = 0; id < 1_000; id++) {
    const slot = slots.create(id, `job ${id}`, 1, id)
    slots.startedAtMs[slot] = id
  }
  assert.equal(slots.capacity, 1_000)
  assert.equal(slots.create(1_000, 'too many', 1, 0), NO_SLOT)
  for (let id = 0; id < 1_000; id++) {
    const slot = slots.of(id)
    assert.equal(slots.ref[slot], `job ${id}`)
    assert.equal(slots.startedAtMs[slot], id)
    assert.equal(slots.heartbeatSteadyMs[slot], id)
  }
})

test('an id that is held is refused by value', () => {
  const slots = new Slots<string>(10)
  slots.create(1, 'a', 1, 0)
  assert.equal(slots.create(1, 'b', 1, 0), NO_SLOT)
  assert.equal(slots.size, 1)
})

test('freeing a slot twice is a bug and says so', () => {
  const slots = new Slots<string>(10)
  const slot = slots.create(1, 'a', 1, 0)
  slots.free(slot)
  assert.throws(() => slots.free(slot), { code: 'INVARIANT' })
})

test('against a plain map: creates and frees in any order keep every living job at its own slot', () => {
  const step = fc.record({ id: fc.integer({ min: 0, max: 60 }), free: fc.boolean() })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
      const slots = new Slots<object>(40, 4)
      const model = new Map<number, { slot: number; generation: number; ref: object }>()
      const late: { slot: number; generation: number }[] = []
      for (const { id, free } of steps) {
        const known = model.get(id)
        if (free) {
          if (known === undefined) continue
          slots.free(known.slot)
          model.delete(id)
          late.push(known)
        } else {
          const ref = {}
          const slot = slots.create(id, ref, 1, 0)
          assert.equal(slot === NO_SLOT, known !== undefined || model.size === 40)
          if (slot !== NO_SLOT) model.set(id, { slot, generation: slots.generation[slot]!, ref })
        }
      }
      assert.equal(slots.size, model.size)
      assert.equal(new Set([...model.values()].map(({ slot }) => slot)).size, model.size)
      for (const [id, { slot, generation, ref }] of model) {
        assert.equal(slots.of(id), slot)
        assert.equal(slots.ref[slot], ref)
        assert.ok(slots.isCurrent(slot, generation))
      }
      for (const { slot, generation } of late) assert.ok(!slots.isCurrent(slot, generation))
    }),
  )
})
