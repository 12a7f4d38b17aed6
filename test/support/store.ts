// A store with a fresh schema, a registered node, and short ways to put jobs in.

import { randomUUID } from 'node:crypto'
import { systemClock } from '../../engine/base/clock.ts'
import { Store } from '../../engine/store/store.ts'
import type { ClaimedChunk, Flush, NewChunk } from '../../engine/store/types.ts'
import { AttemptRows, OUTCOME } from '../../engine/syncer/attempt-rows.ts'
import { openTestDatabase, type TestDatabase } from './database.ts'

export interface StoreBundle {
  readonly db: TestDatabase
  readonly store: Store
  readonly queueId: number
  readonly taskId: number
  /** Another store on the same schema: another session. */
  other(): Store
  join(store?: Store): Promise<number>
  /** Enqueues one chunk of jobs with payloads 0, 1, 2 ...; answers its first id. */
  put(count: number, options?: Partial<NewChunk>): Promise<number>
  claim(nodeId: number, jobsMax?: number, store?: Store): Promise<ClaimedChunk[]>
  query<Row extends Record<string, unknown>>(sql: string, params?: unknown[]): Promise<Row[]>
  /** Removes every row but those of migrations, queues and tasks. */
  empty(): Promise<void>
  close(): Promise<void>
}

export async function openStore(options: { prepared?: boolean; migrate?: boolean } = {}): Promise<StoreBundle> {
  const db = await openTestDatabase()
  const stores: Store[] = []
  const open = () => {
    const store = new Store({
      url: db.url,
      schema: db.schema,
      clock: systemClock,
      timeoutMs: 20_000,
      prepared: options.prepared ?? true,
      name: 'test',
    })
    stores.push(store)
    return store
  }
  const store = open()
  if (options.migrate !== false) await store.migrate()
  const [queueId, taskId] =
    options.migrate === false ? [0, 0] : [(await store.queueIds(['default']))[0]!, (await store.taskIds(['noop']))[0]!]
  const query = <Row extends Record<string, unknown>>(sql: string, params?: unknown[]) =>
    db.query<Row>(sql.replace(/\bmillrace\./g, `"${db.schema}".`), params)
  return {
    db,
    store,
    queueId,
    taskId,
    query,
    other: open,
    join: (on = store) =>
      on.join({ uid: randomUUID(), host: 'test', machine: 'test', pid: 1, version: '0', threads: 1, limitMs: 30_000 }),
    async put(count, options = {}) {
      const [firstId] = await store.reserveBlocks(1)
      const payloads = options.payloads ?? Array.from({ length: count }, (_, at) => String(at))
      await store.enqueue([{ ...PLAIN, queueId, taskId, firstId: firstId!, count, payloads, ...options }], true)
      return options.firstId ?? firstId!
    },
    claim: (nodeId, jobsMax = 1_000, on = store) =>
      on.claim({ nodeId, queueIds: [queueId], taskIds: null, jobsMax, bytesMax: 1e9, group: null }),
    async empty() {
      const tables = await query<{ name: string }>(
        `select c.relname as name from pg_class c where c.relnamespace = $1::regnamespace and c.relkind in ('r', 'p')
           and not c.relispartition and c.relname not in ('migration', 'queue', 'task')`,
        [db.schema],
      )
      for (const { name } of tables) await query(`delete from millrace."${name}"`)
    },
    async close() {
      await Promise.all(stores.map((it) => it.close()))
      await db.close()
    },
  }
}

export const PLAIN = {
  priority: 0,
  runAtMs: null,
  expiresAtMs: null,
  maxAttempts: 3,
  timeoutMs: null,
  retry: null,
  group: null,
  groupLimit: null,
  retrySkips: false,
  key: null,
  ephemeral: false,
  meta: null,
} as const

/** A flush that completes every job of some chunks. */
export function completing(
  no: number,
  nodeId: number,
  chunks: readonly ClaimedChunk[],
  extra: Partial<Flush> = {},
): Flush {
  const rows = new AttemptRows()
  const leases = new Map<number, number>()
  const result = Buffer.from('true')
  for (const chunk of chunks) {
    for (let at = 0; at < chunk.count; at++) {
      rows.add(
        chunk.leaseId,
        chunk.firstId + at,
        chunk.run,
        chunk.attempt,
        OUTCOME.completed,
        nodeId,
        0,
        NOW,
        NOW,
        result,
        0,
        result.length,
      )
    }
    leases.set(chunk.leaseId, (leases.get(chunk.leaseId) ?? 0) + chunk.count)
  }
  return {
    no,
    rows: rows.tuples,
    rowEnds: rows.ends,
    rowLeases: rows.leases,
    rowCount: rows.count,
    leaseIds: [...leases.keys()],
    leaseDone: [...leases.values()],
    retries: [],
    deads: [],
    releases: [],
    finished: [],
    running: [],
    ...extra,
  }
}

const NOW = 1_790_000_000_000
