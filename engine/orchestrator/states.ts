// The two state machines, as tables. The first is the orchestrator's: one job (or one occurrence of a schedule) in the
// scheduler's memory. The second is the durable one, which people see in the view `jobs`. Everything else that depends
// on a state (the database's CHECK, diagrams, the console) is derived from these tables or tested against them.
//
//            due            start            complete
//   prerun ───────► pending ───────► running ────────► completed
//     │                │               ├─ fail ──────► failed
//     │                │               ├─ retry ─────► retrying ── requeue ──► queued
//     │                │               ├─ time_out ──► timed_out ─ retry | fail
//     └─ cancel        └─ cancel       └─ cancel ────► cancelled
//   release leads from prerun, pending and running to queued; orphan from every state that is not final to orphaned.
//
// Promise: next() answers null for what cannot happen, and a terminal state accepts nothing.

import { EngineError } from '../base/errors.ts'

export const STATES = [
  'prerun',
  'pending',
  'running',
  'retrying',
  'queued',
  'completed',
  'failed',
  'cancelled',
  'timed_out',
  'orphaned',
] as const
export type State = (typeof STATES)[number]

export const EVENTS = [
  'due',
  'start',
  'complete',
  'fail',
  'retry',
  'requeue',
  'time_out',
  'cancel',
  'release',
  'orphan',
] as const
export type Event = (typeof EVENTS)[number]

/**
 * What each event leads to. A pending job may complete, fail or time out without a `start` of its own: that is a
 * report whose start was not told separately. `retrying` and `queued` mean that the store has the job again.
 */
export const TRANSITIONS: Readonly<Record<State, Readonly<Partial<Record<Event, State>>>>> = {
  prerun: { due: 'pending', cancel: 'cancelled', release: 'queued', fail: 'failed', orphan: 'orphaned' },
  pending: {
    start: 'running',
    complete: 'completed',
    fail: 'failed',
    retry: 'retrying',
    time_out: 'timed_out',
    cancel: 'cancelled',
    release: 'queued',
    orphan: 'orphaned',
  },
  running: {
    complete: 'completed',
    fail: 'failed',
    retry: 'retrying',
    time_out: 'timed_out',
    cancel: 'cancelled',
    release: 'queued',
    orphan: 'orphaned',
  },
  timed_out: { retry: 'retrying', fail: 'failed', orphan: 'orphaned' },
  retrying: { requeue: 'queued', cancel: 'cancelled', fail: 'failed', orphan: 'orphaned' },
  queued: { cancel: 'cancelled', orphan: 'orphaned' },
  completed: {},
  failed: {},
  cancelled: {},
  orphaned: {},
}

/** States that never change again. */
export const TERMINAL: ReadonlySet<State> = new Set(['completed', 'failed', 'cancelled', 'orphaned'])

/** Where `event` leads from `state`, or null when that cannot happen. */
export function next(state: State, event: Event): State | null {
  return TRANSITIONS[state][event] ?? null
}

// The same table as numbers, for the loop: a state is its index in STATES, an event its index in EVENTS.

export const STATE = indexed(STATES)
export const EVENT = indexed(EVENTS)

/** Not a state: "this event cannot happen here". */
export const NO_STATE = 255

const NEXT = new Uint8Array(STATES.length * EVENTS.length).fill(NO_STATE)
for (const from of STATES)
  for (const event of EVENTS) {
    const to = TRANSITIONS[from][event]
    if (to !== undefined) NEXT[STATE[from] * EVENTS.length + EVENT[event]] = STATE[to]
  }

/** next() by number; NO_STATE when it cannot happen. */
export function nextCode(state: number, event: number): number {
  return NEXT[state * EVENTS.length + event]!
}

/** True for the number of a terminal state. */
export function isTerminalCode(state: number): boolean {
  return state === STATE.completed || state === STATE.failed || state === STATE.cancelled || state === STATE.orphaned
}

/** The letter of an attempt's outcome, as the table `attempt` holds it. */
export const OUTCOME = {
  completed: 'c',
  failed: 'f',
  timedOut: 't',
  cancelled: 'x',
  expired: 'e',
  lost: 'l',
  released: 'r',
} as const

// The durable machine: where a job stands for everybody.

export const DURABLE_STATES = [
  'scheduled',
  'queued',
  'blocked',
  'assigned',
  'running',
  'retrying',
  'timed_out',
  'completed',
  'failed',
  'cancelled',
  'expired',
] as const
export type DurableState = (typeof DURABLE_STATES)[number]

/** The states that may follow each state. Completing an assigned job passes through running: two records. */
export const DURABLE_TRANSITIONS: Readonly<Record<DurableState, readonly DurableState[]>> = {
  scheduled: ['queued', 'blocked', 'cancelled', 'expired'],
  queued: ['assigned', 'blocked', 'cancelled', 'expired'],
  blocked: ['queued', 'cancelled', 'expired'],
  assigned: ['running', 'queued', 'retrying', 'timed_out', 'failed', 'cancelled', 'expired'],
  running: ['completed', 'failed', 'timed_out', 'retrying', 'queued', 'cancelled'],
  retrying: ['queued', 'failed', 'cancelled', 'expired'],
  timed_out: ['retrying', 'failed'],
  completed: [],
  failed: [],
  cancelled: [],
  expired: [],
}

export const DURABLE_TERMINAL: ReadonlySet<DurableState> = new Set(['completed', 'failed', 'cancelled', 'expired'])

/** Names that older systems use, accepted on input only. */
const LEGACY_STATES: Readonly<Record<string, DurableState>> = {
  pending: 'queued',
  processing: 'running',
  paused: 'assigned',
  canceled: 'cancelled',
}

/**
 * The state that a name stands for.
 * @throws EngineError VALIDATION when there is none.
 */
export function durableState(name: string): DurableState {
  if (Object.hasOwn(LEGACY_STATES, name)) return LEGACY_STATES[name]!
  const found = DURABLE_STATES.find((state) => state === name)
  if (found === undefined)
    throw new EngineError('VALIDATION', `unknown state ${JSON.stringify(name)}; known: ${DURABLE_STATES.join(', ')}`, {
      state: name,
    })
  return found
}

/**
 * May a job go from one state to another? `same` is a no-op and always allowed to ask for, also in a terminal state.
 * @throws EngineError VALIDATION for a name that is no state.
 */
export function durableStep(from: string, to: string): 'ok' | 'same' | 'no' {
  const source = durableState(from)
  const target = durableState(to)
  if (source === target) return 'same'
  return DURABLE_TRANSITIONS[source].includes(target) ? 'ok' : 'no'
}

function indexed<const Names extends readonly string[]>(names: Names): Readonly<Record<Names[number], number>> {
  return Object.fromEntries(names.map((name, index) => [name, index])) as Record<Names[number], number>
}
