// The administrator's verbs, over the store. Lists are bounded; what is not there is an error with a code; nothing here
// touches what a node holds, except by asking its holder.

import type {
  Console,
  DeadFilter,
  DeadRow,
  DoctorRow,
  JobEvent,
  JobFilter,
  JobLife,
  JobRow,
  LoopRow,
  NodeRow,
  UnservedTask,
} from './api.ts'
import { EngineError, shown } from './base/errors.ts'
import { didYouMean, nearest } from './base/nearest.ts'
import { checkChoice, checkFields, checkOptions, checkReason, JOB_STATES, nameIn } from './filters.ts'
import { openQueueVerbs, statsOf } from './queue-verbs.ts'
import { openResultVerbs, timeOf } from './result-verbs.ts'
import { readStatements } from './store/statements.ts'
import type { Store } from './store/store.ts'

const LIST_DEFAULT = 50
const LIST_MAX = 1_000
const LOOPS_MS = 300_000
const LOOPS_MS_MAX = 86_400_000
/** Dead letters that one requeue touches at most, and one batch of a purge. */
const DEAD_MAX = 10_000
/** Rows of each place in which jobs are looked for whose tasks no node has. */
const UNSERVED_LOOK = 10_000
/** Of those, as many as doctor names. */
const UNSERVED_NAMED = 10
/** Jobs that the answer of a requeue names, of each kind that was left. */
const NAMED_MAX = 100
const JOB_FIELDS = ['state', 'task', 'queue', 'id', 'limit', 'before']
const DEAD_FIELDS = ['id', 'queue', 'task', 'limit', 'diedAfter', 'diedBefore']

type Row = Record<string, unknown>

export function openConsole(store: Store, nodeVersion: string): Omit<Console, 'schedules'> {
  const statements = readStatements('console.sql', store.schema)
  const ask = <R = Row>(name: string, values: readonly unknown[] = []) => store.ask<R>(statements.get(name)!, values)

  const jobs = async (filter: JobFilter = {}): Promise<JobRow[]> => {
    checkFields(filter, JOB_FIELDS)
    if (filter.state !== undefined && !JOB_STATES.includes(filter.state))
      throw new EngineError('VALIDATION', `state must be one of ${JOB_STATES.join(', ')}, got ${shown(filter.state)}`, {
        field: 'state',
      })
    const rows = await ask('jobs', [
      nameIn('task', filter.task),
      nameIn('queue', filter.queue),
      filter.state ?? null,
      idOf(filter.id),
      idOf(filter.before),
      limitOf(filter.limit, LIST_DEFAULT, LIST_MAX),
    ])
    return rows.map(jobOf)
  }

  const deadIds = async (filter: Omit<DeadFilter, 'before'>): Promise<number[]> => {
    const rows = await ask<{ job_id: number }>('dead_ids', [
      nameIn('queue', filter.queue),
      nameIn('task', filter.task),
      idOf(filter.id),
      limitOf(filter.limit, DEAD_MAX, DEAD_MAX),
      timeOf('diedAfter', filter.diedAfter),
      timeOf('diedBefore', filter.diedBefore),
    ])
    if (rows.length === 0 && filter.id !== undefined) {
      const [job] = await jobs({ id: filter.id })
      if (!job) throw notFound(filter.id)
      throw new EngineError('NOT_DEAD', `job ${filter.id} is ${job.state}, not a dead letter`, {
        jobId: filter.id,
        state: job.state,
      })
    }
    return rows.map((row) => row.job_id)
  }

  const servedNames = async () => (await ask<{ name: string }>('served_names')).map((row) => row.name)

  const unserved = async (): Promise<UnservedTask[]> => {
    const rows = await ask<{ task: string; waiting: number; published: boolean }>('unserved', [UNSERVED_LOOK])
    if (rows.length === 0) return []
    const names = await servedNames()
    return rows.map((row) => ({ ...row, didYouMean: nearest(row.task, names) }))
  }

  return {
    async queues() {
      return (await ask('queues')).map(statsOf)
    },

    queue: openQueueVerbs(store),

    results: openResultVerbs(store),

    async nodes() {
      return (await ask('nodes')).map(
        (row): NodeRow => ({
          id: row.id as number,
          host: row.host as string,
          pid: row.pid as number,
          version: row.version as string,
          threads: row.threads as number,
          state: row.state as NodeRow['state'],
          startedAt: row.started_at as Date,
          seenAt: row.seen_at as Date,
          silentMs: Math.max(0, Math.round(row.silent_ms as number)),
          strayLeases: row.strays as number,
          limitMs: row.limit_ms as number,
          held: row.held as number,
        }),
      )
    },

    async loops(overMs = LOOPS_MS) {
      if (!(typeof overMs === 'number' && overMs >= 1_000 && overMs <= LOOPS_MS_MAX))
        throw new EngineError('VALIDATION', `overMs must be from 1,000 to ${LOOPS_MS_MAX}, got ${shown(overMs)}`, {
          field: 'overMs',
        })
      return (await ask('loops', [overMs])).map(
        (row): LoopRow => ({
          node: row.node_id as number,
          samples: row.samples as number,
          lastAt: row.last_at as Date,
          p50Ms: row.p50_ms as number,
          maxMs: row.max_ms as number,
          activeOrchestrators: row.active as number,
          indexSize: row.indexed as number,
          inboxDepthMax: row.waiting_max as number,
          messages: row.handled as number,
        }),
      )
    },

    jobs,

    async job(id) {
      return (await jobs({ id: jobId(id) }))[0] ?? null
    },

    async explain(id) {
      const [job] = await jobs({ id: jobId(id) })
      if (!job) throw notFound(id)
      const [attempts, positions, dead] = [
        await ask('attempts', [id]),
        await ask('position', [id]),
        await ask('dead', [null, null, id, null, 1, null, null]),
      ]
      const waits = positions.some((row) => row.node_id === null)
      const lacks = waits && !job.served ? lacking(job.task, await servedNames()) : null
      return lifeOf(job, attempts, positions, dead[0], lacks)
    },

    unserved,

    dead: {
      async list(filter = {}) {
        checkFields(filter, [...DEAD_FIELDS, 'before'])
        const rows = await ask('dead', [
          nameIn('queue', filter.queue),
          nameIn('task', filter.task),
          idOf(filter.id),
          idOf(filter.before),
          limitOf(filter.limit, LIST_DEFAULT, LIST_MAX),
          timeOf('diedAfter', filter.diedAfter),
          timeOf('diedBefore', filter.diedBefore),
        ])
        return rows.map(
          (row): DeadRow => ({
            id: row.job_id as number,
            task: row.task as string,
            queue: row.queue as string,
            code: row.code as string,
            reason: row.reason,
            attempts: row.attempts as number,
            diedAt: row.died_at as Date,
            payload: row.payload,
          }),
        )
      },
      async requeue(chosen, options = {}) {
        checkChoice(chosen, [...DEAD_FIELDS, 'ids'])
        checkOptions(options, ['perSecond', 'expiresAt'])
        const { perSecond, expiresAt } = options
        const { ids: named, ...filter } = chosen
        const ids = named === undefined ? await deadIds(filter) : idsOf(named, filter)
        const rows = await ask<{ job_id: number; held_by: number | null }>('requeue', [
          ids,
          rateOf(perSecond),
          timeOf('expiresAt', expiresAt),
        ])
        const refused = rows.filter((row) => row.held_by !== null)
        if (refused.length > 0 && filter.id !== undefined) {
          throw new EngineError(
            'DUPLICATE_TASK',
            `job ${refused[0]!.held_by} has the key of job ${refused[0]!.job_id} meanwhile`,
            { jobId: refused[0]!.held_by },
          )
        }
        const requeued = rows.length - refused.length
        if (requeued > 0) await wakeAll(store)
        if (requeued > 1 && perSecond !== undefined) await store.notify('s')
        if (requeued > 0 && expiresAt !== undefined) await store.notify(`e${Math.ceil(Number(expiresAt))}`)
        const found = new Set(rows.map((row) => row.job_id))
        const absent = named === undefined ? [] : ids.filter((id) => !found.has(id))
        const states =
          absent.length === 0
            ? []
            : await ask<{ job_id: number; state: JobRow['state'] | null }>('states', [absent.slice(0, NAMED_MAX)])
        return {
          requeued,
          taken: refused.length,
          takenBy: refused.slice(0, NAMED_MAX).map((row) => ({ id: row.job_id, heldBy: row.held_by! })),
          notDead: absent.length,
          notDeadIds: states.map((row) => ({ id: row.job_id, state: row.state })),
        }
      },
      async purge(filter) {
        checkChoice(filter, DEAD_FIELDS)
        for (let gone = 0; ; ) {
          const ids = await deadIds(filter)
          gone += (await ask('purge_dead', [ids])).length
          if (filter.limit !== undefined || ids.length < DEAD_MAX) return gone
        }
      },
    },

    async cancel(id, reason = 'cancelled by the console') {
      checkReason(reason)
      const [row] = await ask<{ outcome: 'cancelled' | 'held' | 'finished' | 'unknown' }>('cancel', [jobId(id), reason])
      return row!.outcome === 'held' ? 'signalled' : row!.outcome
    },

    doctor: () => examine(store, ask, unserved, nodeVersion),

    migrations: (dryRun) => store.migrate(dryRun),

    async grants(role, kind) {
      for (const [field, value] of Object.entries({ role, kind }))
        if (typeof value !== 'string' || value === '' || value.includes('\0'))
          throw new EngineError('VALIDATION', `${field} must be a name, got ${shown(value)}`, { field })
      return (await ask<{ grant: string }>('grants', [kind, role])).map(({ grant }) => `${grant};`)
    },
  }
}

async function wakeAll(store: Store): Promise<void> {
  const queues = await store.allQueues()
  await store.notify(
    `q${queues
      .slice(0, 500)
      .map((queue) => queue.id)
      .join(',')}`,
  )
}

function notFound(id: number): EngineError {
  return new EngineError('JOB_NOT_FOUND', `no job has the id ${id}`, { jobId: id })
}

/** Left out it means any, as null. */
function idOf(id: number | undefined): number | null {
  return id === undefined ? null : jobId(id)
}

function jobId(id: number): number {
  if (!Number.isSafeInteger(id) || id < 1)
    throw new EngineError('VALIDATION', `a job id is a whole number from 1 to 2^53, got ${shown(id)}`, { field: 'id' })
  return id
}

/** Each once: a list may come from a log that names a job twice. */
function idsOf(ids: readonly number[], rest: DeadFilter): number[] {
  const wrong = (what: string) => new EngineError('VALIDATION', what, { field: 'ids' })
  const beside = Object.entries(rest).find(([, value]) => value !== undefined)
  if (beside) throw wrong(`ids stand alone, without ${beside[0]}`)
  if (!Array.isArray(ids) || ids.length < 1 || ids.length > DEAD_MAX)
    throw wrong(`ids must be a list of 1 to ${DEAD_MAX} job ids`)
  return [...new Set(ids.map(jobId))]
}

function limitOf(limit: number | undefined, fallback: number, max: number): number {
  if (limit === undefined) return fallback
  if (!Number.isInteger(limit) || limit < 1 || limit > max)
    throw new EngineError('VALIDATION', `limit must be a whole number from 1 to ${max}, got ${shown(limit)}`, {
      field: 'limit',
    })
  return limit
}

function rateOf(perSecond: number | undefined): number | null {
  if (perSecond === undefined) return null
  if (!(perSecond >= 0.01 && perSecond <= 100_000))
    throw new EngineError('VALIDATION', `perSecond must be from 0.01 to 100,000, got ${shown(perSecond)}`, {
      field: 'perSecond',
    })
  return perSecond
}

function jobOf(row: Row): JobRow {
  return {
    id: row.id as number,
    task: row.task as string,
    queue: row.queue as string,
    state: row.state as JobRow['state'],
    attempt: row.attempt as number,
    maxAttempts: row.max_attempts as number,
    priority: row.priority as number,
    group: row.group_key as string | null,
    idempotencyKey: row.idempotency_key as string | null,
    payload: row.payload,
    result: row.result,
    error: row.error,
    meta: row.meta,
    createdAt: row.created_at as Date,
    runAt: row.run_at as Date | null,
    startedAt: row.started_at as Date | null,
    finishedAt: row.finished_at as Date | null,
    node: row.node_id as number | null,
    progress: row.progress,
    served: row.served as boolean,
  }
}

function lacking(task: string, names: readonly string[]): string {
  return `no running node has the task ${JSON.stringify(task)}${didYouMean(task, names)}`
}

// ------------------------------------------------------------------ the life of a job

/** `lacks`: what it waits for besides its turn. */
function lifeOf(
  job: JobRow,
  attempts: readonly Row[],
  positions: readonly Row[],
  dead: Row | undefined,
  lacks: string | null,
): JobLife {
  const events: JobEvent[] = []
  const due = job.runAt !== null && job.runAt > job.createdAt
  events.push({
    at: job.createdAt,
    state: due && attempts.length === 0 ? 'scheduled' : 'queued',
    where: `queue ${job.queue}`,
    why: `enqueued with priority ${job.priority}, at most ${job.maxAttempts} attempts${due ? `, due ${job.runAt!.toISOString()}` : ''}${job.group ? `, in group ${job.group}` : ''}`,
  })
  for (const [no, row] of attempts.entries()) {
    const where = placeOf(row)
    events.push(...between(attempts[no - 1], row))
    if (row.started_at)
      events.push({
        at: row.started_at as Date,
        state: 'running',
        where,
        why: `attempt ${row.attempt}, run ${row.run}`,
      })
    events.push({
      at: row.finished_at as Date,
      state: STATE_AFTER[row.outcome as string] ?? (row.outcome as string),
      where,
      why: reasonOf(row),
    })
  }
  if (dead) {
    events.push({
      at: dead.died_at as Date,
      state: dead.code === 'TASK_EXPIRED' ? 'expired' : 'failed',
      where: 'dead letters',
      why: `${dead.code}: ${messageIn(dead.reason)}`,
    })
  }
  const last = attempts.at(-1)
  const [position] = positions
  if (position && !dead && last && isEnd(last) && position.attempt === 1 && position.place !== 'scheduled')
    events.push(requeued(last))
  for (const row of positions) events.push(standing(row, lacks))
  return { job, events }
}

/** What must have come between two attempts, though no row tells: a wait for the retry, or the return of a dead letter. */
function between(before: Row | undefined, row: Row): JobEvent[] {
  if (before === undefined || !isEnd(before)) return []
  if ((row.attempt as number) <= (before.attempt as number)) return [requeued(before)]
  return [
    {
      at: before.finished_at as Date,
      state: 'retrying',
      where: 'scheduled',
      why: row.started_at
        ? `waited for attempt ${row.attempt}, which began at ${(row.started_at as Date).toISOString()}`
        : `waited for attempt ${row.attempt}`,
    },
  ]
}

function requeued(before: Row): JobEvent {
  return {
    at: null,
    state: 'requeued',
    where: 'console',
    why: `taken out of the dead letters after attempt ${before.attempt}; attempts are counted from 1 again`,
  }
}

/** The attempt was charged and over: a retry, or a grave, followed. */
function isEnd(row: Row): boolean {
  return row.outcome === 'failed' || row.outcome === 'timed_out' || row.outcome === 'expired'
}

const STATE_AFTER: Readonly<Record<string, string>> = {
  completed: 'completed',
  failed: 'failed attempt',
  timed_out: 'timed out',
  cancelled: 'cancelled',
  expired: 'expired',
  lost: 'lost',
  released: 'released',
}

function placeOf(row: Row): string {
  if (row.node_id === 0) return 'console'
  const lane = row.lane as number
  return lane < 0 ? `node ${row.node_id}` : `node ${row.node_id}, thread ${lane}`
}

function reasonOf(row: Row): string {
  const took = row.started_at
    ? ` after ${(row.finished_at as Date).getTime() - (row.started_at as Date).getTime()} ms`
    : ''
  switch (row.outcome) {
    case 'completed':
      return `returned${took}`
    case 'released':
      return `given back unfinished${took}; not charged`
    case 'lost':
      return `${messageIn(row.error)}; runs again, not charged`
    default:
      return `${codeIn(row.error)}: ${messageIn(row.error)}${took}`
  }
}

function standing(row: Row, lacks: string | null): JobEvent {
  const also = lacks === null ? '' : `, but ${lacks}`
  const next = `attempt ${row.attempt}, run ${row.run}${(row.rescues as number) > 0 ? `, after ${row.rescues} lost holders` : ''}`
  switch (row.place) {
    case 'ready':
      return {
        at: row.since as Date,
        state: 'queued',
        where: 'ready',
        why: `${lacks ?? 'may be claimed now'}; ${next}`,
      }
    case 'scheduled':
      return {
        at: row.until as Date,
        state: (row.run as number) > 1 ? 'retrying' : 'scheduled',
        where: 'scheduled',
        why: `becomes ready then${also}; ${next}`,
      }
    case 'blocked':
      return {
        at: row.since as Date,
        state: 'blocked',
        where: 'behind its group',
        why: `waits for its group's turn${also}; ${next}`,
      }
    case 'leased':
      return { at: row.since as Date, state: 'assigned', where: `node ${row.node_id}`, why: `claimed; ${next}` }
    default:
      return {
        at: row.since as Date,
        state: 'running',
        where: `node ${row.node_id}`,
        why: `${next}${row.progress ? `, progress ${JSON.stringify(row.progress)}` : ''}`,
      }
  }
}

function codeIn(error: unknown): string {
  return String((error as { code?: unknown } | null)?.code ?? 'unknown')
}

function messageIn(error: unknown): string {
  return String((error as { message?: unknown } | null)?.message ?? 'no message')
}

// ------------------------------------------------------------------ doctor

async function examine(
  store: Store,
  ask: (name: string) => Promise<Row[]>,
  unserved: () => Promise<UnservedTask[]>,
  nodeVersion: string,
): Promise<DoctorRow[]> {
  const rows: DoctorRow[] = []
  const say = (check: string, value: string, bad: false | 'warn' | 'bad' = false, advice = '') =>
    rows.push({ check, value, verdict: bad || 'ok', advice: bad ? advice : '' })
  say('node', nodeVersion)
  const server = (await ask('doctor_server'))[0]!
  const num = server.version_num as number
  say('postgresql', String(server.version), num < 130000 ? 'bad' : false, 'PostgreSQL 13 or newer is needed')
  say('schema', `${store.schema}, version ${server.schema_version}`)
  say('role', String(server.role))
  say(
    'fsync',
    String(server.fsync),
    server.fsync === 'on' ? false : 'bad',
    'a crash of the machine may lose acknowledged jobs; set fsync = on',
  )
  say(
    'synchronous_commit',
    String(server.synchronous_commit),
    server.synchronous_commit === 'off' ? 'warn' : false,
    'a crash of the server may lose jobs acknowledged in the last second',
  )
  say(
    'full_page_writes',
    String(server.full_page_writes),
    server.full_page_writes === 'on' ? false : 'warn',
    'a torn page after a crash cannot be repaired',
  )
  say(
    'autovacuum',
    String(server.autovacuum),
    server.autovacuum === 'on' ? false : 'bad',
    'dead rows pile up; set autovacuum = on',
  )
  say(
    'standby',
    server.standby ? 'yes' : 'no',
    server.standby ? 'bad' : false,
    'this server is read only; connect to the primary',
  )
  const busy = (server.connections as number) / (server.max_connections as number)
  say(
    'connections',
    `${server.connections} of ${server.max_connections}`,
    busy > 0.8 ? 'warn' : false,
    'an engine uses about eight; raise max_connections or use a pooler',
  )
  const oldest = (await ask('doctor_oldest'))[0]!.age_s as number
  say(
    'oldest transaction',
    `${oldest.toFixed(1)} s`,
    oldest > 300 ? 'warn' : false,
    'dead rows cannot be cleaned up behind it; find it in pg_stat_activity',
  )
  for (const table of (await ask('doctor_tables')).slice(0, 3)) {
    const dead = table.dead as number
    const many = dead > 100_000 && dead > (table.live as number)
    say(
      `dead rows of ${table.name}`,
      `${dead} beside ${table.live} live`,
      many ? 'warn' : false,
      'autovacuum does not keep up; look at the oldest transaction',
    )
  }
  const port = await store.localPort()
  const direct = port === null || server.client_port === null || port === server.client_port
  say(
    'pooler',
    direct ? 'none found' : 'something stands between',
    direct ? false : 'warn',
    'set directDatabase for LISTEN, and preparedStatements off when it pools transactions',
  )
  for (const node of await ask('nodes')) {
    const silent = node.silent_ms as number
    say(
      `node ${node.id}`,
      `${node.host} pid ${node.pid}, seen ${(silent / 1000).toFixed(1)} s ago`,
      silent > (node.limit_ms as number) ? 'warn' : false,
      'silent beyond its limit; another node reopens its jobs',
    )
    const strays = node.strays as number
    if (strays > 0)
      say(
        `node ${node.id}, stray leases`,
        `${strays} since it started`,
        'warn',
        'answers to its claims were lost, and it gave the jobs back; look at the network and the pooler',
      )
  }
  const sweeps = (await ask('doctor_sweeps'))[0]!
  const live = (sweeps.live as number) > 0
  for (const [check, late, event] of [
    ['promotions', sweeps.due_late_s, 'claim.failed'],
    ['expiries', sweeps.expiry_late_s, 'expiry.failed'],
    ['rescues', sweeps.silent_s, 'node.rescue_failed'],
  ] as const)
    if (live && late !== null)
      say(
        check,
        `behind by ${(late as number).toFixed(0)} s`,
        'bad',
        `a node runs and does not get on with them: look for ${event} in its log`,
      )
  for (const { id, error, last_error: lastError } of await ask('doctor_schedules'))
    if (error !== null)
      say(`schedule ${id}`, String(error), 'bad', 'it has no due times until it is mended; the others go on')
    else
      say(
        `schedule ${id}`,
        String(lastError),
        'warn',
        'its last occurrence could not be enqueued; the next one is tried',
      )
  if ((sweeps.invalid as number) > 0)
    say(
      'rows set aside',
      `${sweeps.invalid} dead letters ROW_INVALID`,
      'bad',
      'rows of these jobs could not be processed; `millrace dead list` has the reasons',
    )
  for (const { node_id, host, pid, tasks, names } of await ask('outdated'))
    say(
      `definitions of node ${node_id}`,
      `${host} pid ${pid}: ${(names as string[]).join(', ')}${(tasks as number) > 5 ? `, and ${(tasks as number) - 5} more` : ''}`,
      'warn',
      'a newer definition of these tasks is published; bring the node to the same version',
    )
  const lacked = await unserved()
  for (const { task, waiting, didYouMean: close } of lacked.slice(0, UNSERVED_NAMED))
    say(
      `task ${task}`,
      `${waiting} ${waiting === 1 ? 'job waits' : 'jobs wait'}`,
      'warn',
      `no running node has the task; ${close === null ? 'start one that has it' : `did you mean ${close}?`}`,
    )
  if (lacked.length > UNSERVED_NAMED)
    say('more such tasks', String(lacked.length - UNSERVED_NAMED), 'warn', 'no running node has them')
  return rows
}
