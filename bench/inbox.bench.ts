// Messages into the loop: the inbox of the main thread's senders by itself, then what the loop does with pre-filled
// messages of both kinds, the senders' and the threads' reports.

import { systemClock } from '../engine/base/clock.ts'
import type { Message } from '../engine/scheduler/messages.ts'
import { Inbox } from '../threads/inbox.ts'
import { handScheduler } from './hand-scheduler.ts'
import type { Harness, Subject } from './harness.ts'
import { perCall, perThing } from './tiny.ts'

export const name = 'inbox'
export const says = 'messages into the scheduler'
export const cases = '[CS-098] [CS-101]'

const ROUND_TRIPS = 1_000
const MESSAGES_MAX = 10_000
const COUNTS = [100, 1_000, 10_000]

export async function run(harness: Harness): Promise<void> {
  const inbox = new Inbox<Message>({ messagesMax: MESSAGES_MAX, sendTimeoutMs: 1_000, clock: systemClock })
  const hand = handScheduler({ inbox })
  try {
    await harness.compare(name, [
      { system: 'inbox', subject: 'send + receive', settings: {}, sample: () => roundTrips(harness) },
      ...COUNTS.map(
        (count): Subject => ({
          system: 'scheduler',
          subject: `process ${count.toLocaleString('en')}`,
          settings: { messages: 'completed, with a result, in 16 rings', until: 'outcome handed over' },
          sample: () => {
            let settled = 0
            return perCall(harness, {
              perCall: count,
              before: () => {
                hand.fill(count)
                hand.lanes.completeAll(systemClock.wallMs())
                settled = hand.settled()
              },
              run: () => hand.scheduler.processInbox(),
              after: () => {
                if (hand.settled() - settled !== count) throw new Error('bench: a report left no outcome')
                hand.expectActive(0)
              },
            })
          },
        }),
      ),
      ...COUNTS.map(
        (count): Subject => ({
          system: 'scheduler',
          subject: `process ${count.toLocaleString('en')} of senders`,
          settings: { messages: 'heartbeats of living jobs, in the inbox' },
          sample: async () => {
            const ids = fillAndList(hand, count)
            const sample = await perCall(harness, {
              perCall: count,
              before: () => {
                const atMs = systemClock.wallMs()
                for (const id of ids)
                  if (!inbox.trySend({ type: 'orchestrator_heartbeat', id, atMs }))
                    throw new Error('bench: the inbox is full')
              },
              run: () => hand.scheduler.processInbox(),
              after: () => {
                if (inbox.depth !== 0) throw new Error('bench: a message was left')
              },
            })
            hand.empty()
            return sample
          },
        }),
      ),
    ])
  } finally {
    hand.close()
  }
}

function roundTrips(harness: Harness) {
  const inbox = new Inbox<Message>({ messagesMax: MESSAGES_MAX, sendTimeoutMs: 1_000, clock: systemClock })
  const message: Message = { type: 'orchestrator_heartbeat', id: 1, atMs: 0 }
  return perThing(harness, {
    perCall: ROUND_TRIPS,
    run: () => {
      for (let at = 0; at < ROUND_TRIPS; at++) {
        if (!inbox.trySend(message) || inbox.tryReceive() !== message) throw new Error('bench: a message is missing')
      }
    },
  })
}

function fillAndList(hand: ReturnType<typeof handScheduler>, count: number) {
  hand.fill(count)
  hand.lanes.startAll(systemClock.wallMs())
  hand.scheduler.iteration()
  hand.expectActive(count)
  return hand.scheduler.getAll().map(({ id }) => id)
}
