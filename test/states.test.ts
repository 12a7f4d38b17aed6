import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  DURABLE_STATES,
  DURABLE_TERMINAL,
  DURABLE_TRANSITIONS,
  durableState,
  durableStep,
  EVENT,
  EVENTS,
  type Event,
  isTerminalCode,
  NO_STATE,
  next,
  nextCode,
  STATE,
  STATES,
  type State,
  TERMINAL,
  TRANSITIONS,
} from '../engine/orchestrator/states.ts'

test('every event from every state leads where the table says, and to null where it says nothing', () => {
  for (const state of STATES)
    for (const event of EVENTS) {
      const to = next(state, event)
      assert.equal(to, TRANSITIONS[state][event] ?? null)
      assert.equal(nextCode(STATE[state], EVENT[event]), to === null ? NO_STATE : STATE[to])
    }
})

test('a terminal state accepts no event at all, by name and by number', () => {
  for (const state of STATES) {
    assert.equal(isTerminalCode(STATE[state]), TERMINAL.has(state))
    if (!TERMINAL.has(state)) continue
    for (const event of EVENTS) assert.equal(next(state, event), null)
  }
})

test('whatever events come, a terminal state that was reached stays, and every step is one of the table', () => {
  fc.assert(
    fc.property(fc.array(fc.constantFrom(...EVENTS), { maxLength: 40 }), (events: Event[]) => {
      let state: State = 'prerun'
      for (const event of events) {
        const to = next(state, event)
        if (TERMINAL.has(state)) assert.equal(to, null)
        if (to !== null) {
          assert.ok(Object.values(TRANSITIONS[state]).includes(to))
          state = to
        }
      }
    }),
  )
})

test('every state can be reached from prerun, and every state that is not terminal can be left', () => {
  const reached = new Set<State>(['prerun'])
  for (const state of reached) for (const to of Object.values(TRANSITIONS[state])) reached.add(to)
  assert.deepEqual([...reached].sort(), [...STATES].sort())
  for (const state of STATES) assert.equal(Object.keys(TRANSITIONS[state]).length === 0, TERMINAL.has(state))
})

const VALID: readonly [string, string, string][] = [
  ['PS-001', 'queued', 'assigned'],
  ['PS-002', 'queued', 'canceled'],
  ['PS-003', 'assigned', 'running'],
  ['PS-004', 'assigned', 'retrying'],
  ['PS-005', 'running', 'completed'],
  ['PS-006', 'running', 'failed'],
  ['PS-007', 'running', 'timed_out'],
  ['PS-008', 'timed_out', 'retrying'],
  ['PS-009', 'retrying', 'queued'],
  ['PS-010', 'retrying', 'failed'],
]
for (const [id, from, to] of VALID)
  test(`[${id}] ${from} may become ${to}`, () => assert.equal(durableStep(from, to), 'ok'))

const INVALID: readonly [string, string, string][] = [
  ['PS-011', 'queued', 'completed'],
  ['PS-012', 'queued', 'running'],
  ['PS-013', 'assigned', 'completed'],
  ['PS-014', 'completed', 'running'],
  ['PS-015', 'completed', 'retrying'],
  ['PS-016', 'failed', 'running'],
  ['PS-017', 'canceled', 'queued'],
]
for (const [id, from, to] of INVALID)
  test(`[${id}] ${from} may not become ${to}`, () => assert.equal(durableStep(from, to), 'no'))

test('[PS-018] the old name pending is accepted on input: pending may become assigned', () => {
  assert.equal(durableState('pending'), 'queued')
  assert.equal(durableStep('pending', 'assigned'), 'ok')
})

test('[PS-019] the old name processing is accepted on input: processing may become completed', () => {
  assert.equal(durableState('processing'), 'running')
  assert.equal(durableStep('processing', 'completed'), 'ok')
  assert.equal(durableState('paused'), 'assigned')
})

test('[PS-020] terminal states accept nothing, the same state is a no-op, an unknown one is an error', () => {
  for (const from of DURABLE_STATES)
    for (const to of DURABLE_STATES) {
      const expected = from === to ? 'same' : DURABLE_TRANSITIONS[from].includes(to) ? 'ok' : 'no'
      assert.equal(durableStep(from, to), expected)
      if (DURABLE_TERMINAL.has(from) && from !== to) assert.equal(expected, 'no')
    }
  assert.throws(() => durableStep('asleep', 'queued'), { code: 'VALIDATION' })
  assert.throws(() => durableStep('queued', 'constructor'), { code: 'VALIDATION' })
})
