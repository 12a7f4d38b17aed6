// Lines of a handler's log: whatever is handed over arrives as facts, and nothing is lost because of something else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bindingsOf, type Facts, lineText } from '../threads/log-line.ts'

interface Line {
  level: string
  event: string
  // biome-ignore lint/suspicious/noExplicitAny: facts of every shape are looked into
  facts: Record<string, any>
}

function line(...args: unknown[]): Line {
  return within({}, ...args)
}

function within(bindings: Facts, ...args: unknown[]): Line {
  return JSON.parse(lineText('info', bindings, args)) as Line
}

class PaymentError extends Error {
  readonly code = 'E_DECLINED'
  readonly status = 402
}

test('facts and a message, a message alone, and a message with values are what pino takes', () => {
  assert.deepEqual(line({ n: 1 }, 'hello'), { level: 'info', event: 'hello', facts: { n: 1 } })
  assert.deepEqual(line('hello'), { level: 'info', event: 'hello', facts: {} })
  assert.deepEqual(line({ n: 1 }), { level: 'info', event: '', facts: { n: 1 } })
  assert.deepEqual(line({ msg: 'hello', n: 1 }), { level: 'info', event: 'hello', facts: { n: 1 } })
  assert.deepEqual(line(), { level: 'info', event: '', facts: {} })
  assert.deepEqual(line(null, 'hello').event, 'hello')
  assert.deepEqual(line({ n: 1 }, undefined), { level: 'info', event: '', facts: { n: 1 } })
  assert.equal(
    line('%s is %d of %i, %f%% %j %o %O', 'a', 1.5, '7.9', '2.5', { b: [1] }, [2], 'c').event,
    'a is 1.5 of 7, 2.5% {"b":[1]} [2] "c"',
  )
  assert.equal(line({}, 'took %d ms', 12n).event, 'took 12 ms')
  assert.equal(line('100%').event, '100%')
  assert.equal(line('%s and %s', 'one').event, 'one and %s')
  assert.equal(line('%s failed', new TypeError('no')).event, 'TypeError: no failed')
  assert.equal(line('%d %s', Symbol('x'), Symbol('y')).event, 'NaN Symbol(y)')
})

test('values without a place in the message are kept, an error among them as such', () => {
  assert.deepEqual(line('hello', { n: 1 }, 2).facts, { args: [{ n: 1 }, 2] })
  const { event, facts } = line('payment failed', new PaymentError('declined'))
  assert.equal(event, 'payment failed')
  assert.equal(facts.err.message, 'declined')
  assert.deepEqual(line({ a: 1 }, { b: 2 }).facts, { a: 1, args: [{ b: 2 }] })
})

test('an error arrives with type, message, stack, code, cause and its own members, wherever it stands', () => {
  const error = new PaymentError('declined', { cause: new TypeError('socket', { cause: 'a text' }) })
  for (const { event, facts } of [line(error), line(error, 'payment failed'), line({ err: error }, 'payment failed')]) {
    assert.equal(event, event === 'declined' ? 'declined' : 'payment failed')
    const { stack, cause, ...rest } = facts.err
    assert.deepEqual(rest, { type: 'PaymentError', message: 'declined', code: 'E_DECLINED', status: 402 })
    assert.match(stack, /log-line\.test/)
    assert.deepEqual([cause.type, cause.message, cause.cause], ['TypeError', 'socket', 'a text'])
    assert.match(cause.stack, /log-line\.test/)
  }
  assert.equal(line(error).event, 'declined')
  assert.equal(line({ error }).facts.error.code, 'E_DECLINED')
  assert.equal(line({ deep: [{ error }] }).facts.deep[0].error.type, 'PaymentError')
  const all = new AggregateError([new Error('one'), new RangeError('two')], 'both')
  assert.deepEqual(
    line(all).facts.err.errors.map(({ type, message }: Record<string, unknown>) => [type, message]),
    [
      ['Error', 'one'],
      ['RangeError', 'two'],
    ],
  )
  const circle = new Error('round')
  circle.cause = circle
  assert.equal(line(circle).facts.err.cause, '[circular]')
  assert.equal(line(new DOMException('stopped', 'AbortError')).facts.err.type, 'AbortError')
})

test('what JSON has no form for is described, and no other fact is lost', () => {
  class Account {
    readonly owner = 'ada'
    get balance(): number {
      throw new Error('locked')
    }
  }
  const hostile = {
    get secret() {
      throw new Error('no getter for you')
    },
  }
  const circle: Record<string, unknown> = { name: 'round' }
  circle.self = circle
  const shared = { once: 1 }
  assert.deepEqual(
    line({
      before: 1,
      map: new Map([['a', new Map([[1, 2]])]]),
      set: new Set([1, 'b']),
      big: 12345678901234567890n,
      nan: Number.NaN,
      endless: Number.POSITIVE_INFINITY,
      at: new Date(0),
      never: new Date(Number.NaN),
      symbol: Symbol('mark'),
      call: function named() {},
      bytes: Buffer.from('abc'),
      array: new Float64Array(2),
      pattern: /x/g,
      url: new URL('http://a.b/c'),
      promise: Promise.resolve(),
      left: undefined,
      list: [undefined, null],
      account: new Account(),
      hostile,
      circle,
      twice: [shared, shared],
      wrong: {
        toJSON() {
          throw new Error('no JSON for you')
        },
      },
      ['__proto__']: 'own',
      after: 2,
    }).facts,
    {
      before: 1,
      map: { a: [[1, 2]] },
      set: [1, 'b'],
      big: '12345678901234567890n',
      nan: 'NaN',
      endless: 'Infinity',
      at: '1970-01-01T00:00:00.000Z',
      never: 'Invalid Date',
      symbol: 'Symbol(mark)',
      call: '[function named]',
      bytes: '[Buffer of 3 bytes]',
      array: '[Float64Array of 16 bytes]',
      pattern: '/x/g',
      url: 'http://a.b/c',
      promise: '[Promise]',
      list: [null, null],
      account: { owner: 'ada' },
      hostile: { secret: '[not readable: no getter for you]' },
      circle: { name: 'round', self: '[circular]' },
      twice: [{ once: 1 }, { once: 1 }],
      wrong: '[not readable: no JSON for you]',
      ['__proto__']: 'own',
      after: 2,
    },
  )
  const { proxy, revoke } = Proxy.revocable({}, {})
  revoke()
  assert.match(line({ proxy, after: 1 }).facts.proxy, /^\[not readable: /)
  assert.equal(line({ proxy, after: 1 }).facts.after, 1)
  assert.match(line(proxy, 'gone').facts.value, /^\[not readable: /)
})

test('facts that are no object are kept too', () => {
  assert.deepEqual(line([1, 2], 'list').facts, { value: [1, 2] })
  assert.deepEqual(line(new Map([['a', 1]]), 'map').facts, { a: 1 })
  assert.equal(line(42).event, '42')
  assert.equal(line(Symbol('x')).event, 'Symbol(x)')
})

test('a line keeps its bound by cutting what is long, and keeps every fact', () => {
  const deep = (levels: number): unknown => (levels === 0 ? 'end' : { in: deep(levels - 1) })
  const chain = (length: number): Error =>
    new Error('x'.repeat(5_000), length === 0 ? {} : { cause: chain(length - 1) })
  for (const facts of [
    { text: 'é'.repeat(1_000_000) },
    { list: Array.from({ length: 1_000_000 }, (_, n) => n) },
    { map: new Map(Array.from({ length: 100_000 }, (_, n) => [n, 'x'.repeat(100)])) },
    { deep: deep(10_000) },
    { err: chain(50) },
    { wide: Object.fromEntries(Array.from({ length: 10_000 }, (_, n) => [`key ${n}`, { n }])) },
    { control: '\u0000'.repeat(100_000) },
    { nested: Array.from({ length: 200 }, () => Array.from({ length: 200 }, () => 'x'.repeat(1_000))) },
  ]) {
    const text = lineText('info', {}, [{ first: 1, ...facts, last: 2 }, 'long'])
    assert.ok(Buffer.byteLength(text) <= 8 * 1024, `${Object.keys(facts)} took ${Buffer.byteLength(text)}`)
    const { event, facts: kept } = JSON.parse(text) as Line
    assert.equal(event, 'long')
    assert.deepEqual(Object.keys(kept), ['first', Object.keys(facts)[0], 'last'])
    assert.deepEqual([kept.first, kept.last], [1, 2])
  }
  assert.match(line({ text: 'x'.repeat(10_000) }).facts.text, /^x+\.\.\. \(10000 characters\)$/)
  assert.match(line('x'.repeat(1_000_000)).event, /\(1000000 characters\)$/)
  const many = Object.fromEntries(
    Array.from({ length: 200 }, (_, n) => [`${n}-${'k'.repeat(5_000)}`, 'v'.repeat(5_000)]),
  )
  assert.ok(Buffer.byteLength(lineText('info', many, [many, 'x'.repeat(10_000)])) <= 8 * 1024)
})

test('what a child adds is told as it was when the child was made', () => {
  const user = { name: 'ada', tags: new Set(['a']) }
  const bindings = bindingsOf(bindingsOf({}, { user }), { part: 1, error: new Error('then') })
  user.name = 'bob'
  const { facts } = within(bindings, { n: 1, part: 2 }, 'hello')
  assert.deepEqual([facts.user, facts.part, facts.n, facts.error.message], [{ name: 'ada', tags: ['a'] }, 2, 1, 'then'])
  assert.deepEqual(bindingsOf({ a: 1 }, null), { a: 1 })
})

test('any values at all make a line of JSON within the bound', () => {
  const anything = fc.anything({
    withBigInt: true,
    withBoxedValues: true,
    withDate: true,
    withMap: true,
    withSet: true,
    withSparseArray: true,
    withTypedArray: true,
    withNullPrototype: true,
    withObjectString: true,
  })
  fc.assert(
    fc.property(fc.array(anything, { maxLength: 4 }), (args) => {
      const text = lineText('warn', {}, args)
      assert.ok(Buffer.byteLength(text) <= 8 * 1024)
      const { level, event, facts } = JSON.parse(text) as Line
      assert.deepEqual([level, typeof event, typeof facts], ['warn', 'string', 'object'])
    }),
    { numRuns: 500 },
  )
})
