// What SQL may hand in has the bounds of the API: a table of what is wrong, given to both, and properties that compare
// the checks that exist on both sides.

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { EngineError } from '../engine/base/errors.ts'
import type { EnqueueOptions } from '../engine/enqueuer/options.ts'
import type { Client } from '../engine/index.ts'
import { parseCron } from '../engine/schedule/cron.ts'
import { findZone } from '../engine/schedule/zone.ts'
import { withEngines } from './support/engine.ts'

const DAY = 86_400_000
const FAR = Date.now() + 11 * 365 * DAY
const iso = (ms: number) => new Date(ms).toISOString()
const nested = (levels: number) => '['.repeat(levels) + ']'.repeat(levels)
const LONG = 'x'.repeat(256)
const ASTRAL = '\u{1F600}'.repeat(128)

/** What is wrong, the same to the API and to SQL; null: that side cannot say it. */
type Wrong = readonly [what: string, api: ((client: Client) => Promise<unknown>) | null, sql: string]

const add =
  (options: EnqueueOptions, payload: unknown = null) =>
  (client: Client) =>
    client.enqueue('t', payload as null, options)
const payload = (json: string) => (client: Client) => client.enqueue('t', JSON.parse(json) as null)
const jobs: readonly Wrong[] = [
  ['a task without a name', (c) => c.enqueue('', null), `''`],
  ['no task', null, `null`],
  ['a task with too long a name', (c) => c.enqueue(LONG, null), `'${LONG}'`],
  ['a task whose characters count twice', (c) => c.enqueue(ASTRAL, null), `'${ASTRAL}'`],
  ['a queue without a name', add({ queue: '' }), `'t', queue => ''`],
  ['a priority beyond its range', add({ priority: 101 }), `'t', priority => 101`],
  ['too many attempts', add({ maxAttempts: 10_001 }), `'t', max_attempts => 10001`],
  ['no attempt', add({ maxAttempts: 0 }), `'t', max_attempts => 0`],
  ['a negative timeout', add({ timeoutMs: -1 }), `'t', timeout_ms => -1`],
  ['a due time that never comes', add({ runAt: Number.POSITIVE_INFINITY }), `'t', run_at => 'infinity'`],
  ['a due time before all time', add({ runAt: Number.NEGATIVE_INFINITY }), `'t', run_at => '-infinity'`],
  ['a due time in eleven years', add({ runAt: FAR }), `'t', run_at => '${iso(FAR)}'`],
  ['a due time in the year 20000', add({ runAt: 569e12 }), `'t', run_at => '20000-01-01'`],
  [
    'a due time eleven years ago',
    add({ runAt: Date.now() - 11 * 365 * DAY }),
    `'t', run_at => now() - interval '11 years'`,
  ],
  ['an infinite expiry', add({ expiresAt: Number.POSITIVE_INFINITY }), `'t', expires_at => 'infinity'`],
  ['an expiry in eleven years', add({ expiresAt: FAR }), `'t', expires_at => '${iso(FAR)}'`],
  [
    'an expiry before the due time',
    add({ runAt: Date.now() + DAY, expiresAt: Date.now() }),
    `'t', run_at => now() + interval '1 day', expires_at => now()`,
  ],
  ['a group without a name', add({ group: '' }), `'t', group_key => ''`],
  ['a group with too long a name', add({ group: LONG }), `'t', group_key => '${LONG}'`],
  [
    'a group limit beyond its range',
    add({ group: 'g', groupLimit: 1_001 }),
    `'t', group_key => 'g', group_limit => 1001`,
  ],
  ['a group limit without a group', add({ groupLimit: 2 }), `'t', group_limit => 2`],
  [
    'an unknown word for retries',
    add({ group: 'g', onRetry: 'wait' as 'skip' }),
    `'t', group_key => 'g', on_retry => 'wait'`,
  ],
  ['an empty key', add({ idempotencyKey: '' }), `'t', idempotency_key => ''`],
  ['too long a key', add({ idempotencyKey: LONG }), `'t', idempotency_key => '${LONG}'`],
  ['labels that are a list', add({ meta: [] as never }), `'t', meta => '[]'`],
  [
    'labels of more than 16 KiB',
    add({ meta: { a: 'x'.repeat(16_384) } }),
    `'t', meta => json_build_object('a', repeat('x', 16384))`,
  ],
  ['labels that are too deep', add({ meta: { a: JSON.parse(nested(100)) } }), `'t', meta => '{"a":${nested(100)}}'`],
  ['labels with U+0000', add({ meta: { a: '\0' } }), String.raw`'t', meta => '{"a":"\u0000"}'`],
  ['a payload of 101 levels', payload(nested(101)), `'t', '${nested(101)}'`],
  ['a payload of 5,000 levels', payload(nested(5_000)), `'t', '${nested(5_000)}'`],
  [
    'a payload that is deep behind brackets in a text',
    payload(`["]]]", ${nested(100)}]`),
    `'t', '["]]]", ${nested(100)}]'`,
  ],
  [
    'a payload of objects and lists in turn',
    payload(`${'[{"a":'.repeat(51)}1${'}]'.repeat(51)}`),
    `'t', '${'[{"a":'.repeat(51)}1${'}]'.repeat(51)}'`,
  ],
  ['a payload with U+0000', payload(String.raw`"a\u0000"`), String.raw`'t', '"a\u0000"'`],
  ['half a surrogate pair', payload(String.raw`"\ud83d"`), String.raw`'t', '"\ud83d"'`],
  ['the other half', payload(String.raw`"\ude00\ud83d"`), String.raw`'t', '"\ude00\ud83d"'`],
  ['half a pair behind a backslash', payload(String.raw`"\\\ud83d\\ude00"`), String.raw`'t', '"\\\ud83d\\ude00"'`],
  ['a payload of more than 2 MiB', payload(JSON.stringify('x'.repeat(2 ** 21))), `'t', to_json(repeat('x', 2097152))`],
]

const schedule = (change: object) => (client: Client) =>
  client.schedules.create({ task: 't', cron: '@hourly', ...change })
const schedules: readonly Wrong[] = [
  ['an empty id', schedule({ id: '' }), `'', 't', '@hourly'`],
  ['too long an id', schedule({ id: ASTRAL }), `'${ASTRAL}', 't', '@hourly'`],
  ['hours and minutes out of range', schedule({ cron: '61 99 * * *' }), `'x', 't', '61 99 * * *'`],
  ['a day that never comes', schedule({ cron: '0 0 31 2 *' }), `'x', 't', '0 0 31 2 *'`],
  [
    'too long an expression',
    schedule({ cron: `${'1,'.repeat(300)}1 * * * *` }),
    `'x', 't', repeat('1,', 300) || '1 * * * *'`,
  ],
  ['an unknown zone', schedule({ timeZone: 'Mars/Base' }), `'x', 't', '@hourly', 'Mars/Base'`],
  ['an abbreviation that Node does not know', schedule({ timeZone: 'CEST' }), `'x', 't', '@hourly', 'CEST'`],
  ['a zone by its distance', schedule({ timeZone: 'UTC+3' }), `'x', 't', '@hourly', 'UTC+3'`],
  [
    'a payload of more than 64 KiB',
    schedule({ payload: 'x'.repeat(65_536) }),
    `'x', 't', '@hourly', payload => to_json(repeat('x', 65536))`,
  ],
  [
    'a payload that is too deep',
    schedule({ payload: JSON.parse(nested(101)) }),
    `'x', 't', '@hourly', payload => '${nested(101)}'`,
  ],
  ['a queue without a name', schedule({ queue: '' }), `'x', 't', '@hourly', queue => ''`],
  [
    'labels of more than 16 KiB',
    schedule({ options: { meta: { a: 'x'.repeat(16_384) } } }),
    `'x', 't', '@hourly', options => json_build_object('meta', json_build_object('a', repeat('x', 16384)))`,
  ],
  [
    'labels with U+0000',
    schedule({ options: { meta: { a: '\0' } } }),
    String.raw`'x', 't', '@hourly', options => '{"meta":{"a":"\u0000"}}'`,
  ],
  ['a number that no type holds', null, `'x', 't', '@hourly', options => '{"priority": 1e999999}'`],
  [
    'a group whose name is too long',
    schedule({ options: { group: LONG } }),
    `'x', 't', '@hourly', options => '{"group":"${LONG}"}'`,
  ],
  [
    'more than one of those that queue',
    schedule({ overlap: 'queue', options: { group: 'g', groupLimit: 2 } }),
    `'x', 't', '@hourly', options => '{"group":"g","groupLimit":2}', overlap => 'queue'`,
  ],
  [
    'a start that never comes',
    schedule({ startsAt: Number.POSITIVE_INFINITY }),
    `'x', 't', '@hourly', starts_at => 'infinity'`,
  ],
  [
    'an end before all time',
    schedule({ endsAt: Number.NEGATIVE_INFINITY }),
    `'x', 't', '@hourly', ends_at => '-infinity'`,
  ],
  ['a start in the year 20000', schedule({ startsAt: 569e12 }), `'x', 't', '@hourly', starts_at => '20000-01-01'`],
  ['an end before Christ', schedule({ endsAt: -63e12 }), `'x', 't', '@hourly', ends_at => '0027-01-01 BC'`],
  [
    'an end before the start',
    schedule({ startsAt: DAY, endsAt: 0 }),
    `'x', 't', '@hourly', starts_at => '1970-01-02', ends_at => '1970-01-01'`,
  ],
  ['too much jitter', schedule({ jitterMs: 3_600_001 }), `'x', 't', '@hourly', jitter_ms => 3600001`],
  ['too long a look back', schedule({ catchUpWindowMs: 604_800_001 }), `'x', 't', '@hourly', catch_up_ms => 604800001`],
]

test('what is wrong with a job or a schedule is refused by SQL as by the API, and nothing is written', async () => {
  await withEngines(async ({ client, query, count }) => {
    for (const [call, table] of [
      ['enqueue', jobs],
      ['put_schedule', schedules],
    ] as const)
      for (const [what, api, sql] of table) {
        if (api !== null)
          await assert.rejects(
            async () => api(client),
            (error: unknown) => error instanceof EngineError && ['VALIDATION', 'INVALID_PAYLOAD'].includes(error.code),
            `the API takes ${what}`,
          )
        await assert.rejects(query(`select millrace.${call}(${sql})`), { code: 'MR400' }, `${call} takes ${what}`)
      }
    assert.equal(await count('job', 'ready', 'scheduled', 'schedule'), 0)
    await assert.rejects(query("select millrace.pause_schedule('x', null)"), { code: 'MR400' })
    await assert.rejects(query(`select millrace.requeue('{1}', 'NaN')`), { code: 'MR400' })
    await assert.rejects(query(`select millrace.requeue('{1}', 0)`), { code: 'MR400' })
    await assert.rejects(query(`select millrace.requeue('{1}', null, 'infinity')`), { code: 'MR400' })
  })
})

test('what is right at the edge of a bound is taken by both', async () => {
  await withEngines(async ({ client, query }) => {
    const name = 'x'.repeat(255)
    const meta = { a: 'x'.repeat(16_376) }
    const pair = String.raw`"\ud83d\ude00 \\ud83d \\\\u0000"`
    await client.enqueue(name, JSON.parse(nested(100)) as null, { meta, runAt: Date.now() + 3_649 * DAY })
    await client.enqueue('t', JSON.parse(pair) as null)
    await query(
      `select millrace.enqueue('${name}', '${nested(100)}', meta => '${JSON.stringify(meta)}', run_at => now() + interval '3649 days')`,
    )
    await query(`select millrace.enqueue('t', '${pair}', expires_at => now() + interval '3649 days')`)
    await query(`select millrace.enqueue('t', to_json(repeat('[', 2000)))`)
    await query(`select millrace.enqueue('t', '[${nested(99)}, ${nested(99)}]')`) // many more than 100, none deeper
    const made = await query<{ payload: unknown; meta: unknown }>('select payload, meta from millrace.jobs order by id')
    const [a, b, c, d] = made
    assert.deepEqual([c!.payload, c!.meta], [a!.payload, a!.meta])
    assert.deepEqual(d!.payload, b!.payload)
    const startsAt = new Date('0001-01-01T00:00:00Z')
    const endsAt = new Date('9999-12-31T23:59:59.999Z')
    const cron = `${Array.from({ length: 60 }, (_, at) => at)} ${Array.from({ length: 60 }, (_, at) => at)} * * * *`
    await client.schedules.create({ id: 'a', task: 't', cron, startsAt, endsAt })
    await query(
      `select millrace.put_schedule('b', 't', '${cron}', starts_at => '0001-01-01 00:00Z', ends_at => '9999-12-31 23:59:59.999Z')`,
    )
    const [one, two] = await client.schedules.list()
    assert.deepEqual([two!.cron, two!.startsAt, two!.endsAt], [one!.cron, startsAt, endsAt])
  })
})

const FIELD_PIECE = fc.oneof(
  fc.constantFrom(
    '*',
    '?',
    'l',
    'L',
    '5l',
    '2#3',
    '0#5',
    '7',
    'mon',
    'SUN',
    'jan',
    'dec',
    'foo',
    '',
    '-',
    '*/1',
    '*/2',
    '*-5',
    '1-',
    '5#6',
    '31',
    '30',
  ),
  fc.integer({ min: 0, max: 70 }).map(String),
  fc.tuple(fc.integer({ min: 0, max: 32 }), fc.integer({ min: 0, max: 32 })).map(([a, b]) => `${a}-${b}`),
  fc
    .tuple(fc.constantFrom('*', '0', '3', '1-7', 'fri-sun', 'tue-thu'), fc.integer({ min: 0, max: 70 }))
    .map(([a, b]) => `${a}/${b}`),
)
const FIELD = fc.oneof(
  { weight: 12, arbitrary: fc.constant('*') },
  { weight: 4, arbitrary: FIELD_PIECE },
  { weight: 2, arbitrary: fc.array(FIELD_PIECE, { minLength: 1, maxLength: 4 }).map((list) => list.join()) },
)
const CRON = fc.oneof(
  { weight: 8, arbitrary: fc.array(FIELD, { minLength: 5, maxLength: 6 }).map((fields) => fields.join(' ')) },
  { weight: 1, arbitrary: fc.array(FIELD, { minLength: 4, maxLength: 7 }).map((fields) => fields.join(' ')) },
  {
    weight: 1,
    arbitrary: fc.constantFrom('@hourly', ' @DAILY ', '@noon', '', '* * * * *\n', '0  0\t1 1 *', '0 0\n1 1 *'),
  },
)

test('SQL takes the cron expressions that the engine can read, and no others', async () => {
  await withEngines(async ({ query }) => {
    await query(`create or replace function millrace.refusal_of(p_cron text) returns text language plpgsql as $$
      begin perform millrace.check_cron(p_cron); return null;
      exception when sqlstate 'MR400' then return sqlerrm; end $$`)
    const seed = Math.floor(Math.random() * 2 ** 31)
    const list = [...new Set(fc.sample(CRON, { numRuns: 4_000, seed }))]
    const rows = await query<{ cron: string; wrong: string | null }>(
      'select cron, millrace.refusal_of(cron) as wrong from unnest($1::text[]) cron',
      [list],
    )
    await query('drop function millrace.refusal_of')
    let right = 0
    for (const { cron, wrong } of rows) {
      let refused: string | null = null
      try {
        parseCron(cron)
        right++
      } catch (error) {
        refused = (error as Error).message
      }
      assert.equal(
        wrong === null,
        refused === null,
        `seed ${seed}: ${JSON.stringify(cron)}; SQL: ${wrong}; engine: ${refused}`,
      )
    }
    assert.ok(right > 100, `seed ${seed}: only ${right} of ${rows.length} were right`)
  })
})

test('SQL takes every time zone that Node lists, and Node knows nearly every one that SQL takes', async () => {
  await withEngines(async ({ query }) => {
    await query(`create or replace function millrace.takes_zone(p_zone text) returns boolean language plpgsql as $$
      begin perform millrace.check_time_zone(p_zone); return true;
      exception when sqlstate 'MR400' then return false; end $$`)
    const some = (zones: string[]) => zones.sort(() => Math.random() - 0.5).slice(0, 20)
    const listed = some(Intl.supportedValuesOf('timeZone'))
    const refused = await query<{ zone: string }>(
      'select zone from unnest($1::text[]) zone where not millrace.takes_zone(zone)',
      [listed],
    )
    assert.ok(refused.length <= 1, `one of the two is of another year: ${refused.map(({ zone }) => zone)}`)
    const known = await query<{ zone: string }>(`select name as zone from pg_timezone_names`)
    const taken = await query<{ zone: string }>(
      'select zone from unnest($1::text[]) zone where millrace.takes_zone(zone)',
      [some(known.map(({ zone }) => zone))],
    )
    await query('drop function millrace.takes_zone')
    const unknown = taken.filter(({ zone }) => {
      try {
        findZone(zone)
        return false
      } catch {
        return true
      }
    })
    assert.ok(unknown.length <= 1, `Node does not know ${unknown.map(({ zone }) => zone)}`)
    assert.ok(taken.length > 0)
  })
})
