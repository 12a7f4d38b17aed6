// What JSON cannot hold is named, and not turned into something else.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { lostIn } from '../engine/base/json-text.ts'

const found = (value: unknown) => lostIn(value, JSON.stringify(value), 'payload')

test('what JSON would turn into null or {} is named with its place', () => {
  for (const [value, says] of [
    [Number.NaN, 'payload is NaN'],
    [{ a: [1, { b: Number.POSITIVE_INFINITY }] }, 'payload.a[1].b is Infinity'],
    [[Number.NEGATIVE_INFINITY], 'payload[0] is -Infinity'],
    [{ at: new Date(Number.NaN) }, 'payload.at is an invalid Date'],
    [new Map([[1, 2]]), 'payload is a Map'],
    [{ 'a key': { of: new Set([1]) } }, 'payload["a key"].of is a Set'],
    [[new WeakMap()], 'payload[0] is a WeakMap'],
    [{ later: Promise.resolve(1) }, 'payload.later is a Promise'],
    [{ error: new Error('lost') }, 'payload.error is an Error'],
    [[/x/], 'payload[0] is a RegExp'],
    [{ bytes: new ArrayBuffer(8) }, 'payload.bytes is an ArrayBuffer'],
    [{ toJSON: () => ({ n: Number.NaN }) }, 'payload.n is NaN'],
  ] as const)
    assert.equal(found(value), says)
})

test('what is JSON passes: null and empty objects, classes, Dates, what JSON leaves out, and texts that look like either', () => {
  class Empty {
    readonly #hidden = 1
    get seen() {
      return this.#hidden
    }
  }
  for (const value of [
    null,
    [null, {}, []],
    { none: null, empty: {}, left: undefined, call: () => 1, mark: Symbol('x') },
    [undefined, new Date(0), new Empty(), Object.create(null), Buffer.from('a'), new URL('http://a.b/')],
    'null {}',
    { toJSON: () => null },
    { toJSON: () => new Date(0), in: null },
  ])
    assert.equal(found(value), null)
})

test('whatever JSON can hold passes', () => {
  fc.assert(
    fc.property(fc.jsonValue(), (value) => {
      assert.equal(found(value), null)
    }),
  )
})

test('any value whose JSON differs from it by a null is found', () => {
  const holed = fc.letrec((tie) => ({
    value: fc.oneof({ maxDepth: 4 }, fc.integer(), fc.constant(null), tie('list'), tie('object')),
    list: fc.array(tie('value'), { maxLength: 3 }),
    object: fc.dictionary(fc.string(), tie('value'), { maxKeys: 3 }),
  })).value
  const bad = fc.constantFrom<unknown>(Number.NaN, Number.POSITIVE_INFINITY, new Date(Number.NaN), new Map(), new Set())
  fc.assert(
    fc.property(holed, bad, fc.array(fc.string(), { maxLength: 4 }), (beside, wrong, keys) => {
      let value: unknown = wrong
      for (const key of keys) value = [beside, { beside, [`_${key}`]: value }]
      assert.notEqual(found(value), null)
    }),
  )
})
