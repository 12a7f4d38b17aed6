// Settings: every default is valid, every rule refuses by name, and the nearest source wins.

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { EngineError } from '../engine/base/errors.ts'
import { nearest } from '../engine/base/nearest.ts'
import { bytesText, durationText } from '../engine/config/fields.ts'
import { readConfigFile } from '../engine/config/file.ts'
import { type ConfigInput, loadConfig, masked } from '../engine/config/load.ts'
import { RULES } from '../engine/config/rules.ts'
import { defaultOf, envNamesOf, flagOf, SETTING_NAMES, type SettingName, settingOf } from '../engine/config/settings.ts'

/** The error that a wrong setting gives; fails when it is accepted. */
function refusal(input: ConfigInput): EngineError {
  try {
    loadConfig(input)
  } catch (error) {
    assert.ok(error instanceof EngineError, String(error))
    assert.equal(error.code, 'CONFIG_INVALID')
    return error
  }
  assert.fail('the settings were accepted')
}

function assertRefused(options: Record<string, unknown>, setting: SettingName, rule: RegExp): void {
  const error = refusal({ options })
  assert.equal(error.details.setting, setting)
  assert.match(String(error.details.rule), rule)
  assert.ok(error.message.startsWith(`${setting} must be `), error.message)
  assert.match(error.message, rule)
}

function numbersOf(part: string): SettingName[] {
  return SETTING_NAMES.filter((name) => settingOf(name).part === part && typeof defaultOf(name) === 'number')
}

test('[CS-001] the defaults of the scheduler are positive and valid', () => {
  const { values } = loadConfig()
  const names = numbersOf('scheduler')
  assert.equal(names.length, 9)
  for (const name of names) assert.ok((values[name] as number) > 0, name)
  assert.equal(values.loopIdleMs, 1_000)
  assert.equal(values.preScheduleMs, 10_000)
  assert.equal(values.indexRebuildMs, 60_000)
  assert.equal(values.lookaheadMs, 600_000)
  assert.equal(values.graceMs, 30_000)
  assert.equal(values.inboxMessagesMax, 10_000)
  assert.equal(values.inboxSendTimeoutMs, 5_000)
  assert.equal(values.orchestratorHeartbeatMs, 10_000)
  assert.equal(values.missedHeartbeatsMax, 3)
})

test('[CS-002] the defaults of the syncer are positive and valid', () => {
  const { values } = loadConfig()
  const names = numbersOf('syncer')
  assert.equal(names.length, 6)
  for (const name of names) assert.ok((values[name] as number) > 0, name)
  assert.equal(values.flushRows, 500)
  assert.ok(values.flushEveryMs <= 1_000)
  assert.equal(values.statsFlushRows, 30)
  assert.equal(values.statsFlushMs, 30_000)
})

test('[CS-003] an index that is rebuilt as rarely as it looks ahead, or more rarely, is refused', () => {
  assertRefused({ indexRebuildMs: 60_000, lookaheadMs: 60_000 }, 'indexRebuildMs', /less than lookaheadMs/)
  assertRefused({ indexRebuildMs: 60_001, lookaheadMs: 60_000 }, 'indexRebuildMs', /less than lookaheadMs/)
  assert.equal(loadConfig({ options: { indexRebuildMs: 59_999, lookaheadMs: 60_000 } }).values.indexRebuildMs, 59_999)
})

test('[CS-004] a negative preScheduleMs is refused', () => {
  assertRefused({ preScheduleMs: -1 }, 'preScheduleMs', /from 0 ms/)
})

test('[CS-005] a negative lookaheadMs is refused', () => {
  assertRefused({ lookaheadMs: -1 }, 'lookaheadMs', /from 1 ms/)
})

test('[CS-006] a negative graceMs is refused', () => {
  assertRefused({ graceMs: -1 }, 'graceMs', /from 0 ms/)
})

test('[CS-007] an inbox for 0 messages is refused', () => {
  assertRefused({ inboxMessagesMax: 0 }, 'inboxMessagesMax', /from 1 to/)
})

test('[CS-008] a buffer for 0 updates is refused', () => {
  assertRefused({ updatesBufferedMax: 0 }, 'updatesBufferedMax', /from 1 to/)
})

test('[CS-009] a negative orchestratorHeartbeatMs is refused', () => {
  assertRefused({ orchestratorHeartbeatMs: -1 }, 'orchestratorHeartbeatMs', /from 10 ms/)
})

test('[CS-010] 0 missed heartbeats are refused', () => {
  assertRefused({ missedHeartbeatsMax: 0 }, 'missedHeartbeatsMax', /from 1 to/)
})

test('every default obeys its own bounds, and every setting says what it is', () => {
  for (const name of SETTING_NAMES) {
    const row = settingOf(name)
    assert.ok(row.schema.safeParse(defaultOf(name)).success, name)
    assert.match(row.about, /^[A-Z`].*\.$/s, name)
  }
  assert.equal(loadConfig().values.threads, availableParallelism())
})

test('every rule between settings can refuse, and names the settings and their values', () => {
  const broken: Record<string, Record<string, unknown>> = {
    indexRebuildMs: { indexRebuildMs: '10m', lookaheadMs: '5m' },
    preScheduleMs: { preScheduleMs: '20m' },
    nodeHeartbeatMs: { nodeHeartbeatMs: 10_001 },
    pollMs: { pollMs: 6_000 },
    claimJobsMax: { heldMax: 3_999 },
    flushRows: { updatesBufferedMax: 499 },
    directDatabase: { directDatabase: 'postgres://db/app' },
  }
  assert.deepEqual(
    Object.keys(broken),
    RULES.map((rule) => rule.settings[0]),
  )
  for (const [name, options] of Object.entries(broken)) {
    const error = refusal({ options })
    assert.equal(error.details.setting, name)
    assert.match(error.message, /it is .+, \w+ is /)
  }
})

test('a flag beats the environment, which beats the file, which beats the default; options of code beat all', () => {
  const file = {
    path: '/etc/millrace.config.json',
    values: { threads: 2, heldMax: 5_000, flushRows: 7, queues: ['a'] },
  }
  const env = { MILLRACE_THREADS: '3', MILLRACE_HELD_MAX: '6000', MILLRACE_FLUSH_ROWS: '8' }
  const flags = { threads: '4', heldMax: '7000' }
  const { values, sources } = loadConfig({ options: { threads: 5 }, flags, env, file })
  assert.deepEqual([values.threads, values.heldMax, values.flushRows, values.queues], [5, 7_000, 8, ['a']])
  assert.deepEqual(sources.threads, { kind: 'option', from: 'threads' })
  assert.deepEqual(sources.heldMax, { kind: 'flag', from: '--held-max' })
  assert.deepEqual(sources.flushRows, { kind: 'environment', from: 'MILLRACE_FLUSH_ROWS' })
  assert.deepEqual(sources.queues, { kind: 'file', from: '/etc/millrace.config.json' })
  assert.deepEqual(sources.pollMs, { kind: 'default', from: '' })
})

test('an empty environment variable counts as not set', () => {
  const { values, sources } = loadConfig({ env: { MILLRACE_THREADS: '', DATABASE_URL: '' } })
  assert.equal(values.threads, availableParallelism())
  assert.equal(sources.database.kind, 'default')
})

test('times, sizes, lists and switches can be written as people write them', () => {
  const { values } = loadConfig({
    flags: {
      stopTimeoutMs: '1.5m',
      statementTimeoutMs: '10s',
      claimBytesMax: '8MiB',
      ringBytes: '256k',
      heldMax: '12,000',
      queues: 'mail, video',
      listen: 'off',
      logLevel: 'WARN',
    },
  })
  assert.equal(values.stopTimeoutMs, 90_000)
  assert.equal(values.statementTimeoutMs, 10_000)
  assert.equal(values.claimBytesMax, 8 * 1024 * 1024)
  assert.equal(values.ringBytes, 262_144)
  assert.equal(values.heldMax, 12_000)
  assert.deepEqual(values.queues, ['mail', 'video'])
  assert.equal(loadConfig({ flags: { queues: '*' } }).values.queues, null)
  assert.equal(values.listen, false)
  assert.equal(values.logLevel, 'warn')
})

test('what is no number, no switch, no choice, no size or no identifier is refused with the rule', () => {
  assertRefused({ threads: 'many' }, 'threads', /a whole number from 1 to 1,024/)
  assertRefused({ threads: 1.5 }, 'threads', /a whole number/)
  assertRefused({ threads: Number.NaN }, 'threads', /a whole number/)
  assertRefused({ pollMs: '5 parsecs' }, 'pollMs', /with a unit \(ms, s, m, h\)/)
  assertRefused({ listen: 'perhaps' }, 'listen', /true or false/)
  assertRefused({ logFormat: 'xml' }, 'logFormat', /one of auto, text, json/)
  assertRefused({ ringBytes: 100_000 }, 'ringBytes', /a power of two/)
  assertRefused({ queues: [] }, 'queues', /a list of 1 to/)
  assertRefused({ database: 'mysql://h/db' }, 'database', /a URL such as postgres:/)
  for (const schema of ['Millrace', '1a', 'a-b', '', 'a'.repeat(49), 'x"; drop table job; --']) {
    assertRefused({ schema }, 'schema', /lower-case letters/)
  }
})

test('a refusal names value and source, and several wrong settings are said at once', () => {
  const error = refusal({ flags: { threads: '0' }, env: { MILLRACE_LISTEN: 'maybe' } })
  assert.match(error.message, /threads must be .*; got "0" \(from --threads\)/)
  assert.match(error.message, /listen must be true or false; got "maybe" \(from MILLRACE_LISTEN\)/)
  assert.equal((error.details.problems as unknown[]).length, 2)
  assert.equal(error.details.value, 'maybe')
})

test('an unknown setting is refused with the name that was meant', () => {
  assert.match(
    refusal({ options: { flushEvryMs: 1 } }).message,
    /flushEvryMs is not a setting .*did you mean flushEveryMs\?/,
  )
  assert.match(refusal({ options: { thread: 1 } }).message, /did you mean threads\?/)
  const file = { path: 'millrace.config.json', values: { 'poll-ms': 1 } }
  assert.match(refusal({ file }).message, /in millrace\.config\.json\); did you mean pollMs\?/)
  assert.doesNotMatch(refusal({ options: { zzzzzzzz: 1 } }).message, /did you mean/)
  assert.doesNotMatch(refusal({ options: { toString: 1 } }).message, /TypeError/)
})

test('an unknown variable is a warning, because others may own it; what Kubernetes injects is not even that', () => {
  const env = {
    MILLRACE_THREDS: '2',
    MILLRACE_SERVICE_HOST: 'x',
    MILLRACE_PORT_5432_TCP_ADDR: 'x',
    MILLRACE_CONFIG: 'x',
  }
  const { warnings } = loadConfig({ env })
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, /MILLRACE_THREDS is not a setting .*did you mean MILLRACE_THREADS\?/)
})

test('DATABASE_URL names the database; MILLRACE_DATABASE comes before it; PG variables come last', () => {
  const pg = {
    PGHOST: 'db',
    PGPORT: '6432',
    PGDATABASE: 'app one',
    PGUSER: 'u',
    PGPASSWORD: 'p@/:#',
    PGSSLMODE: 'require',
  }
  const all = { ...pg, DATABASE_URL: 'postgres://b/x', MILLRACE_DATABASE: 'postgres://a/x' }
  assert.equal(loadConfig({ env: all }).values.database, 'postgres://a/x')
  const { MILLRACE_DATABASE: _, ...withoutOwn } = all
  assert.equal(loadConfig({ env: withoutOwn }).values.database, 'postgres://b/x')
  const { values, sources } = loadConfig({ env: pg })
  const url = new URL(values.database!)
  assert.deepEqual([url.hostname, url.port, url.username], ['db', '6432', 'u'])
  assert.equal(decodeURIComponent(url.password), 'p@/:#')
  assert.equal(decodeURIComponent(url.pathname), '/app one')
  assert.equal(url.searchParams.get('sslmode'), 'require')
  assert.equal(sources.database.from, 'PGHOST, PGPORT, PGDATABASE, PGUSER, PGPASSWORD, PGSSLMODE')
})

test('a socket folder in PGHOST becomes the host parameter, and a lone PGUSER does not name a database', () => {
  const url = new URL(loadConfig({ env: { PGHOST: '/run/postgresql', PGDATABASE: 'app' } }).values.database!)
  assert.equal(url.searchParams.get('host'), '/run/postgresql')
  assert.equal(loadConfig({ env: { PGUSER: 'me' } }).values.database, null)
})

test('a password is never shown', () => {
  assert.equal(masked('database', 'postgres://u:secret@h/db'), 'postgres://u:***@h/db')
  assert.equal(masked('database', 'postgres://h/db?password=secret'), 'postgres://h/db?password=***')
  assert.equal(masked('database', 'host=h password=secret'), '***')
  assert.equal(masked('database', null), null)
  assert.equal(masked('schema', 'millrace'), 'millrace')
  const error = refusal({ options: { database: { password: 'secret' } } })
  assert.doesNotMatch(JSON.stringify([error.message, error.details]), /secret/)
})

test('a name gives its flag and its variable', () => {
  assert.equal(flagOf('flushEveryMs'), '--flush-every-ms')
  assert.deepEqual(envNamesOf('flushEveryMs'), ['MILLRACE_FLUSH_EVERY_MS'])
  assert.deepEqual(envNamesOf('database'), ['MILLRACE_DATABASE', 'DATABASE_URL'])
  const variables = SETTING_NAMES.flatMap(envNamesOf)
  assert.equal(new Set(variables).size, variables.length)
})

test('whatever is written into a setting is either refused by name or within its bounds', () => {
  const name = fc.constantFrom(...SETTING_NAMES)
  fc.assert(
    fc.property(name, fc.oneof(fc.anything(), fc.integer(), fc.string()), (setting, value) => {
      try {
        const { values } = loadConfig({ options: { [setting]: value } })
        assert.ok(settingOf(setting).schema.safeParse(values[setting]).success)
      } catch (error) {
        assert.ok(error instanceof EngineError)
        assert.equal(error.code, 'CONFIG_INVALID')
        assert.ok(
          (error.details.problems as { setting: string }[])[0]!.setting in
            { ...Object.fromEntries(SETTING_NAMES.map((n) => [n, 1])) },
        )
      }
    }),
  )
})

test('times and sizes are read back as they are printed', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 3_600_000 }), (ms) => {
      assert.equal(loadConfig({ options: { statsFlushMs: durationText(ms) } }).values.statsFlushMs, ms)
    }),
  )
  fc.assert(
    fc.property(fc.integer({ min: 1_024, max: 2 ** 30 }), (size) => {
      assert.equal(loadConfig({ options: { claimBytesMax: bytesText(size) } }).values.claimBytesMax, size)
    }),
  )
})

test('a slip of the fingers finds its name, a different word does not', () => {
  assert.equal(nearest('flush_every_ms', SETTING_NAMES), 'flushEveryMs')
  assert.equal(nearest('trheads', SETTING_NAMES), 'threads')
  assert.equal(nearest('colour', SETTING_NAMES), null)
})

test('the settings file is found by its name or by --config, and what is wrong with it is said', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'millrace-config-'))
  try {
    assert.equal(await readConfigFile(folder), null)
    writeFileSync(join(folder, 'millrace.config.json'), '{ "threads": 2 }')
    assert.deepEqual((await readConfigFile(folder))?.values, { threads: 2 })
    writeFileSync(join(folder, 'millrace.config.mjs'), 'export default { threads: 1 + 2 }')
    assert.deepEqual((await readConfigFile(folder))?.values, { threads: 3 })
    writeFileSync(join(folder, 'other.json'), '{ "threads": ')
    await assert.rejects(readConfigFile(folder, 'other.json'), /other\.json cannot be read: /)
    writeFileSync(join(folder, 'list.json'), '[]')
    await assert.rejects(readConfigFile(folder, 'list.json'), /must hold an object/)
    writeFileSync(join(folder, 'none.mjs'), 'export const threads = 2')
    await assert.rejects(readConfigFile(folder, 'none.mjs'), /must export an object as default/)
    await assert.rejects(readConfigFile(folder, 'gone.json'), { code: 'CONFIG_INVALID' })
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
})
