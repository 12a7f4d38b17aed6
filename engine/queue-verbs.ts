// What an administrator does to one queue as a whole: look, pause, resume, purge. Purging is done in batches, each a
// transaction of its own, and touches nothing that a node holds.

import type { QueueStats, QueueVerbs } from './api.ts'
import { checkReason, nameOf } from './filters.ts'
import { readStatements } from './store/statements.ts'
import type { Store } from './store/store.ts'

/** Jobs that one batch ends, about: bounds its transaction. */
const BATCH_JOBS = 10_000
/** In this order, because jobs wander in it: what leaves a place that was emptied is met in the next. */
const PLACES = ['scheduled', 'blocked', 'ready'] as const

type Row = Record<string, unknown>

export function openQueueVerbs(store: Store): QueueVerbs {
  const statements = readStatements('console.sql', store.schema)
  const ask = <R = Row>(name: string, values: readonly unknown[] = []) => store.ask<R>(statements.get(name)!, values)

  const setPaused = async (queue: string, paused: boolean): Promise<void> => {
    const [id] = await store.queueIds([nameOf('queue', queue)])
    await ask('queue_pause', [id, paused])
    if (!paused) await store.notify(`q${id}`)
  }

  return {
    async names() {
      return (await ask<{ name: string }>('queue_names')).map((row) => row.name)
    },

    async stats(queue) {
      const [row] = await ask('queue_stats', [nameOf('queue', queue)])
      return row ? statsOf(row) : { ...EMPTY, queue }
    },

    pause: (queue) => setPaused(queue, true),

    resume: (queue) => setPaused(queue, false),

    async purge(queue, reason = 'purged') {
      checkReason(reason)
      const [known] = await ask<{ id: number; now: string }>('queue_find', [nameOf('queue', queue)])
      if (!known) return 0
      let purged = 0
      for (const place of PLACES) {
        for (let after: number | null = 0; after !== null; ) {
          const [batch]: { jobs: number; last: number | null }[] = await ask('queue_purge', [
            known.id,
            place,
            after,
            known.now,
            BATCH_JOBS,
            reason,
          ])
          purged += batch!.jobs
          after = batch!.last
        }
      }
      return purged
    },
  }
}

export function statsOf(row: Row): QueueStats {
  return {
    queue: row.queue as string,
    paused: row.paused as boolean,
    available: row.available as number,
    inFlight: row.in_flight as number,
    scheduled: row.scheduled as number,
    retrying: row.retrying as number,
    blocked: row.blocked as number,
    dead: row.dead as number,
    oldestWaitingMs: row.oldest_waiting_ms as number | null,
  }
}

const EMPTY: Omit<QueueStats, 'queue'> = {
  paused: false,
  available: 0,
  inFlight: 0,
  scheduled: 0,
  retrying: 0,
  blocked: 0,
  dead: 0,
  oldestWaitingMs: null,
}
