// What a node says of the occurrences that it has in memory: one statement writes the last state of many, and forgets, a
// bounded batch at a time, what is older than a day. Times are told as ages, as those of loop-samples.ts are. The same
// states written twice are the same rows.

import type { Store } from './store.ts'
import type { OccurrenceState } from './types.ts'

/** Rows that one write forgets at most: far more than it adds. */
const FORGET_MAX = 2_000

/** @param wallMs the node's clock now */
export async function writeOccurrenceStates(
  store: Store,
  nodeId: number,
  wallMs: number,
  rows: readonly OccurrenceState[],
): Promise<void> {
  await store.ask(
    `with old as materialized (
      select ctid from millrace.occurrence_state where scheduled_at < clock_timestamp() - interval '1 day' order by scheduled_at limit $3
      for update skip locked
    ), gone as (
      delete from millrace.occurrence_state where ctid = any (array(select ctid from old))
    )
    insert into millrace.occurrence_state as s (schedule_id, scheduled_at, node_id, state, at, error)
    select t.s, to_timestamp(t.d / 1000.0), $1, t.o, clock_timestamp() - t.a * interval '1 ms', t.e
    from json_to_recordset($2) as t(s text, d float8, o text, a float8, e text)
    on conflict (schedule_id, scheduled_at, node_id) do update set state = excluded.state, at = excluded.at, error = excluded.error`,
    [
      nodeId,
      JSON.stringify(
        rows.map((row) => ({
          s: row.scheduleId,
          d: row.scheduledAtMs,
          o: row.status,
          a: Math.max(0, wallMs - row.atMs),
          e: row.error,
        })),
      ),
      FORGET_MAX,
    ],
  )
}
