// Tasks that fail in every way that threads are there for.

import { execFileSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import { getHeapSpaceStatistics } from 'node:v8'
import { resourceLimits } from 'node:worker_threads'
import { defineTask } from '../../engine/base/task.ts'

class HostileError extends Error {
  override get message(): string {
    throw new Error('no message for you')
  }
  override get stack(): string {
    throw new Error('no stack for you')
  }
  get code(): string {
    throw new Error('no code for you')
  }
}

const THROWN: Record<string, () => unknown> = {
  error: () => new TypeError('wrong type'),
  null: () => null,
  undefined: () => undefined,
  string: () => 'just a string',
  object: () => ({ message: 'like an error', code: 'E_LIKE' }),
  nothing: () => Object.create(null),
  hostile: () => new HostileError(),
  frozen: () => Object.freeze(new Error('frozen')),
  coded: () => Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }),
  final: () => Object.assign(new Error('never again'), { retry: false }),
  validation: () => Object.assign(new Error('bad field'), { code: 'VALIDATION' }),
  long: () => new Error(`${'\u0000é'.repeat(20_000)}\ud800`),
  symbol: () => Symbol('odd'),
}

export const throws = defineTask({
  name: 'throws',
  run: (what: string) => {
    throw THROWN[what]!()
  },
})

export const rejects = defineTask({
  name: 'rejects',
  run: async (what: string) => {
    await null
    throw THROWN[what]!()
  },
})

function nested(depth: number): unknown {
  let value: unknown = 1
  for (let level = 0; level < depth; level++) value = [value]
  return value
}

const circle: { self?: unknown } = {}
circle.self = circle

const RETURNED: Record<string, () => unknown> = {
  bigint: () => 1n,
  circle: () => circle,
  function: () => () => {},
  'zero in a string': () => ({ text: 'a\u0000b' }),
  'zero in a key': () => ({ 'a\u0000b': 1 }),
  'deeper than allowed': () => nested(101),
  'far too deep': () => nested(100_000),
  'toJSON that throws': () => ({
    toJSON() {
      throw new Error('no')
    },
  }),
  NaN: () => ({ sum: Number.NaN }),
  Map: () => new Map([['a', 1]]),
  'promise in a list': () => [Promise.resolve(1)],
  'backslash and u0000': () => ['\\u0000', '"\\"[[[['],
  'as deep as allowed': () => nested(100),
}

export const returns = defineTask({ name: 'returns', run: (what: string) => RETURNED[what]!() })

export const big = defineTask({ name: 'big', run: (chars: number) => 'é'.repeat(chars) })

export const thenable = defineTask({
  name: 'thenable',
  run: () => ({
    // biome-ignore lint/suspicious/noThenProperty: that is what this task is about
    get then() {
      throw new Error('no then for you')
    },
  }),
})

/** Leaves a rejected promise behind after `ms`, and itself takes `runMs`. */
const leak = async ({ ms, runMs }: { ms: number; runMs: number }) => {
  sleep(ms).then(() => Promise.reject(new Error('left behind')))
  await sleep(runMs)
  return 'done'
}
export const leaks = defineTask({ name: 'leaks', run: leak })
export const leaksShared = defineTask({ name: 'leaks-shared', concurrency: 5, run: leak })

/** Without a payload it leaves one behind at once and never waits; otherwise it waits. */
export const leaksSync = defineTask({
  name: 'leaks-sync',
  run: (ms: number | null) => {
    if (ms !== null) return sleep(ms)
    Promise.reject(new Error('left behind'))
    return undefined
  },
})

export const throwsLater = defineTask({
  name: 'throws-later',
  run: async () => {
    setTimeout(() => {
      throw new Error('thrown by a timer')
    }, 1)
    await sleep(60_000)
  },
})

export const exits = defineTask({
  name: 'exits',
  run: (code: number) => {
    process.exit(code)
  },
})

export const hoards = defineTask({
  name: 'hoards',
  run: () => {
    const hoard: unknown[] = []
    for (;;) hoard.push(new Array(10_000).fill(hoard.length))
  },
})

const kept: unknown[] = []
/** Keeps most of the heap for ever. */
export const keeps = defineTask({
  name: 'keeps',
  run: () => {
    const limit = (resourceLimits.maxOldGenerationSizeMb ?? 0) * 2 ** 20
    const used = () =>
      getHeapSpaceStatistics().reduce(
        (sum, space) => sum + (space.space_name.startsWith('new_') ? 0 : space.space_used_size),
        0,
      )
    while (used() < limit * 0.76) kept.push(new Array(10_000).fill(kept.length))
  },
})

export const spins = defineTask({
  name: 'spins',
  run: () => {
    for (;;);
  },
})

/** In a call that no thread can be taken out of, until the file `go` is there; a minute at most. */
export const native = defineTask({
  name: 'native',
  run: ({ go }: { go: string }) => {
    execFileSync('sh', ['-c', 'n=0; until [ -e "$1" ] || [ $n -gt 600 ]; do n=$((n + 1)); sleep 0.1; done', 'sh', go])
  },
})
