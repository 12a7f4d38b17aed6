import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { type Clock, systemClock } from '../engine/base/clock.ts'
import { Inbox } from '../threads/inbox.ts'
import { ManualClock } from './support/manual-clock.ts'

function inboxOf(messagesMax: number, clock: Clock = systemClock, sendTimeoutMs = 5_000) {
  return new Inbox<number>({ messagesMax, sendTimeoutMs, clock })
}

test('[CS-011] a send into a free inbox succeeds and is counted', async () => {
  const inbox = inboxOf(10)
  for (let n = 1; n <= 5; n++) assert.equal(await inbox.send(n), true)
  assert.equal(inbox.stats().totalSent, 5)
})

test('[CS-012] a send into a full inbox gives up after its timeout and is counted', async () => {
  const clock = new ManualClock()
  const inbox = inboxOf(2, clock, 10)
  await inbox.send(1)
  await inbox.send(2)
  const third = inbox.send(3)
  clock.advance(9)
  assert.equal(inbox.stats().timeoutCount, 0)
  clock.advance(1)
  assert.equal(await third, false)
  assert.equal(inbox.stats().timeoutCount, 1)
  assert.equal(inbox.stats().totalSent, 2)
})

test('[CS-013] tryReceive returns messages in order and counts them', () => {
  const inbox = inboxOf(10)
  for (const n of [1, 2, 3]) assert.ok(inbox.trySend(n))
  assert.deepEqual([inbox.tryReceive(), inbox.tryReceive(), inbox.tryReceive()], [1, 2, 3])
  assert.equal(inbox.stats().totalReceived, 3)
})

test('[CS-014] tryReceive on an empty inbox returns nothing', () => {
  const inbox = inboxOf(10)
  assert.equal(inbox.tryReceive(), undefined)
  assert.equal(inbox.stats().totalReceived, 0)
})

test('[CS-015] receive waits until a message is sent', async () => {
  const inbox = inboxOf(10)
  let received: number | null = null
  const receiving = inbox.receive().then((message) => {
    received = message
  })
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(received, null)
  assert.ok(await inbox.send(42))
  await receiving
  assert.equal(received, 42)
  assert.equal(inbox.stats().totalReceived, 1)
})

test('[CS-016] updateDepthStats samples the depth and keeps the greatest', () => {
  const inbox = inboxOf(10)
  const depths = () => {
    inbox.updateDepthStats()
    return [inbox.stats().currentDepth, inbox.stats().maxDepthSeen]
  }
  for (let n = 0; n < 5; n++) inbox.trySend(n)
  assert.deepEqual(depths(), [5, 5])
  for (let n = 0; n < 3; n++) inbox.trySend(n)
  assert.deepEqual(depths(), [8, 8])
  for (let n = 0; n < 4; n++) inbox.tryReceive()
  assert.deepEqual(depths(), [4, 8])
})

test('waiting senders are admitted in order when room is made, and their timers go away', async () => {
  const clock = new ManualClock()
  const inbox = inboxOf(1, clock)
  inbox.trySend(1)
  const second = inbox.send(2)
  const third = inbox.send(3) // one may wait, because one fits
  assert.equal(await third, false)
  assert.equal(inbox.tryReceive(), 1)
  assert.equal(await second, true)
  assert.equal(inbox.trySend(4), false) // 2 went in before it
  assert.equal(inbox.tryReceive(), 2)
  assert.equal(clock.waiting, 0)
})

test('drain hands over what waited at its start and not what arrives meanwhile', () => {
  const inbox = inboxOf(10)
  inbox.trySend(1)
  inbox.trySend(2)
  const seen: number[] = []
  const count = inbox.drain((message) => {
    seen.push(message)
    inbox.trySend(message + 10)
  }, 100)
  assert.deepEqual([count, seen, inbox.depth], [2, [1, 2], 2])
})

test('every accepted send wakes the loop', () => {
  let woken = 0
  const inbox = new Inbox<number>({ messagesMax: 1, sendTimeoutMs: 1, clock: systemClock, onSend: () => woken++ })
  inbox.trySend(1)
  inbox.trySend(2)
  assert.equal(woken, 1)
})

test('an inbox behaves as a bounded queue for every sequence of calls', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 5 }), fc.array(fc.boolean(), { maxLength: 60 }), (size, calls) => {
      const inbox = inboxOf(size)
      const model: number[] = []
      calls.forEach((isSend, n) => {
        if (isSend) {
          assert.equal(inbox.trySend(n), model.length < size)
          if (model.length < size) model.push(n)
        } else assert.equal(inbox.tryReceive(), model.shift())
        assert.equal(inbox.depth, model.length)
      })
    }),
  )
})

test("who was told that a message was not sent is not obeyed later: it is in nobody's hands", async () => {
  const clock = new ManualClock()
  const inbox = inboxOf(1, clock, 10)
  inbox.trySend(1)
  const second = inbox.send(2)
  clock.advance(10)
  assert.equal(await second, false)
  assert.equal(inbox.tryReceive(), 1)
  assert.equal(inbox.tryReceive(), undefined)
  assert.equal(inbox.stats().totalSent, 1)
})

test('what senders are told is what happens: exactly the messages of those who were told yes arrive, once, in order', async () => {
  const call = fc.oneof(fc.constant('send' as const), fc.constant('receive' as const), fc.integer({ min: 1, max: 20 }))
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 4 }), fc.array(call, { maxLength: 60 }), async (size, calls) => {
      const clock = new ManualClock()
      const inbox = inboxOf(size, clock, 10)
      const told: Promise<boolean>[] = []
      const received: number[] = []
      const receive = () => {
        const message = inbox.tryReceive()
        if (message !== undefined) received.push(message)
      }
      for (const step of calls) {
        if (step === 'send') told.push(inbox.send(told.length))
        else if (step === 'receive') receive()
        else clock.advance(step)
      }
      clock.advance(10)
      for (let calls = 0; inbox.depth > 0; calls++) {
        assert.ok(calls < 10_000, 'the inbox does not empty')
        receive()
      }
      const answers = await Promise.all(told)
      assert.deepEqual(
        received,
        answers.flatMap((isSent, message) => (isSent ? [message] : [])),
      )
      const { totalSent, timeoutCount } = inbox.stats()
      assert.deepEqual([totalSent, timeoutCount], [received.length, answers.length - received.length])
    }),
  )
})
