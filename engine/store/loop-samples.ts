// Statistics of the loops: one statement writes what a node has gathered and forgets, a bounded batch at a time, what is
// older than a day. Times are told as ages, so that a node whose clock is off writes no past and no future.

import type { Store } from './store.ts'
import type { IterationStats } from './types.ts'

/** Rows that one write forgets at most: far more than it adds, so that the table shrinks after nodes have gone. */
const FORGET_MAX = 1_000

/** @param wallMs the node's clock now */
export async function writeLoopSamples(
  store: Store,
  nodeId: number,
  wallMs: number,
  rows: readonly IterationStats[],
): Promise<void> {
  await store.ask(
    `with old as materialized (
      select ctid from millrace.loop_sample where at < clock_timestamp() - interval '1 day' order by at limit $3 for update skip locked
    ), gone as (
      delete from millrace.loop_sample where ctid = any (array(select ctid from old))
    )
    insert into millrace.loop_sample (at, node_id, took_us, active, indexed, waiting, handled)
    select clock_timestamp() - (x ->> 0)::float8 * interval '1 ms', $1, (x ->> 1)::int, (x ->> 2)::int, (x ->> 3)::int, (x ->> 4)::int, (x ->> 5)::int
    from json_array_elements($2) x`,
    [
      nodeId,
      JSON.stringify(
        rows.map((row) => [
          Math.max(0, wallMs - row.timestampMs),
          Math.min(2 ** 31 - 1, Math.round(row.durationMs * 1_000)),
          row.activeOrchestrators,
          row.indexSize,
          row.inboxDepth,
          row.messagesProcessed,
        ]),
      ),
      FORGET_MAX,
    ],
  )
}
