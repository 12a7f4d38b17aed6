// Brings the schema up to this binary: numbered files, each in the transaction of all, under an advisory lock that dies
// with the transaction. Many may start at once: one applies, the others wait and find nothing left. A schema newer than
// the binary is refused.

import { hostname } from 'node:os'
import type pg from 'pg'
import { EngineError, messageOf } from '../base/errors.ts'
import { type Session, storeError } from './connection.ts'
import { bindSchema, checkSchema, readMigrations } from './statements.ts'
import type { MigrationReport } from './types.ts'

/**
 * @param dryRun true applies nothing and answers what would be applied.
 * @throws EngineError SCHEMA_NEWER, MIGRATION_FAILED (nothing of the run was applied), STORE_UNREACHABLE
 */
export async function migrate(session: Session, dryRun = false): Promise<MigrationReport> {
  const { schema } = session.options
  checkSchema(schema)
  const files = readMigrations()
  return session.exclusive('tx migrate', async (client) => {
    await client.query('begin')
    await client.query('set local statement_timeout = 0')
    await client.query('select pg_advisory_xact_lock(hashtextextended($1, 0))', [`${schema} migrate`])
    const from = await readVersion(client, schema)
    if (from > files.length) {
      throw new EngineError(
        'SCHEMA_NEWER',
        `schema "${schema}" is at version ${from}, this binary knows ${files.length}`,
        { from, known: files.length },
      )
    }
    const open = files.slice(from)
    const report = {
      from,
      to: files.length,
      applied: open.map(({ version, name }) => ({ version, name })),
      sql: open.map((file) => bindSchema(file.sql, schema)).join('\n'),
    }
    if (dryRun || open.length === 0) {
      await client.query('rollback')
      return report
    }
    if (from === 0) await createSchema(client, schema)
    for (const file of open) {
      try {
        await client.query(bindSchema(file.sql, schema))
        await client.query(`insert into "${schema}".migration (version, name, applied_by) values ($1, $2, $3)`, [
          file.version,
          file.name,
          hostname(),
        ])
      } catch (error) {
        // a lost connection has no SQLSTATE: nothing was wrong with the file; nor when the role lacks a right
        const sqlState = (error as { code?: unknown }).code
        const isElsewhere = ['STORE_UNREACHABLE', 'STORE_REFUSED'].includes(storeError(error, 'migrate').code)
        if (typeof sqlState !== 'string' || isElsewhere) throw error
        throw new EngineError(
          'MIGRATION_FAILED',
          `migration ${file.version} (${file.name}): ${messageOf(error)}`,
          { version: file.version, sqlState },
          error,
        )
      }
    }
    await client.query('commit')
    return report
  })
}

/** @throws EngineError SCHEMA_MISSING or SCHEMA_NEWER when this binary cannot work with what is there. */
export async function checkVersion(session: Session): Promise<void> {
  const known = readMigrations().length
  const version = await session.exclusive('version', (client) => readVersion(client, session.options.schema))
  if (version < known) {
    throw new EngineError(
      'SCHEMA_MISSING',
      version === 0
        ? `schema "${session.options.schema}" has no tables of millrace yet`
        : `schema "${session.options.schema}" is at version ${version}, this binary needs ${known}`,
      { version, known },
    )
  }
  if (version > known) {
    throw new EngineError(
      'SCHEMA_NEWER',
      `schema "${session.options.schema}" is at version ${version}, this binary knows ${known}`,
      { version, known },
    )
  }
}

async function readVersion(client: pg.Client, schema: string): Promise<number> {
  const there = await client.query('select to_regclass($1) is not null as there', [`"${schema}".migration`])
  if (!there.rows[0].there) return 0
  const version = await client.query(`select coalesce(max(version), 0) as version from "${schema}".migration`)
  return Number(version.rows[0].version)
}

// An owner may have made the schema for a role that may not create one: ask only when it is not there.
async function createSchema(client: pg.Client, schema: string): Promise<void> {
  const there = await client.query('select 1 from pg_namespace where nspname = $1', [schema])
  if (there.rowCount === 0) await client.query(`create schema "${schema}"`)
}
