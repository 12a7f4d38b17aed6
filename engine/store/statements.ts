// SQL lives in files: migrations/*.sql and sql/*.sql. This file reads them, puts the user's schema in the place of
// `millrace.` and `@schema`, and hands out the `-- name:` blocks.

import { readdirSync, readFileSync } from 'node:fs'
import { EngineError, invariant } from '../base/errors.ts'

// built files stand in dist/engine/store, sources in engine/store; the SQL is read where the source is
const HERE = new URL('.', import.meta.url)
const SOURCE = HERE.pathname.includes('/dist/engine/store/') ? new URL('../../../engine/store/', HERE) : HERE

const SCHEMA_RULE = /^[a-z_][a-z0-9_]{0,47}$/

/** @throws EngineError CONFIG_INVALID when the name is not a plain lower-case identifier of at most 48 characters. */
export function checkSchema(schema: string): void {
  if (!SCHEMA_RULE.test(schema) || schema.startsWith('pg_')) {
    throw new EngineError(
      'CONFIG_INVALID',
      `schema must match ${SCHEMA_RULE.source} and not begin with pg_, got ${JSON.stringify(schema)}`,
      { schema },
    )
  }
}

export function bindSchema(sql: string, schema: string): string {
  return sql.replace(/\bmillrace\./g, `"${schema}".`).replaceAll('@schema', schema)
}

/** The statement of ctx.complete: lease, job, run, lane, ms since its start, result as JSON text. */
export function completeSql(schema: string): string {
  const text =
    "select millrace.complete($1::bigint, $2::bigint, $3::int, $4::int, clock_timestamp() - $5::float8 * interval '1 ms', $6::text::json)"
  return bindSchema(text, schema)
}

export interface MigrationFile {
  readonly version: number
  readonly name: string
  readonly sql: string
}

/** The numbered files in order. @throws invariant when a number is missing or doubled. */
export function readMigrations(): MigrationFile[] {
  const folder = new URL('migrations/', SOURCE)
  const files = readdirSync(folder)
    .filter((name) => name.endsWith('.sql'))
    .sort()
    .map((name) => ({
      version: Number.parseInt(name, 10),
      name: name.replace(/^\d+_|\.sql$/g, ''),
      sql: readFileSync(new URL(name, folder), 'utf8'),
    }))
  files.forEach((file, index) => {
    invariant(file.version === index + 1, 'migrations are numbered 1, 2, 3 ... without gaps', {
      found: file.version,
      expected: index + 1,
    })
  })
  return files
}

/** The `-- name: x` blocks of one file in sql/, by name. */
export function readStatements(file: string, schema: string): ReadonlyMap<string, string> {
  const blocks = new Map<string, string>()
  for (const block of readFileSync(new URL(`sql/${file}`, SOURCE), 'utf8')
    .split(/^-- name: /m)
    .slice(1)) {
    const end = block.indexOf('\n')
    const name = block.slice(0, end).trim()
    const text = block
      .slice(end + 1)
      .split('\n')
      .filter((line) => !line.startsWith('--'))
      .join('\n')
    blocks.set(name, bindSchema(text.trim().replace(/;$/, ''), schema))
  }
  return blocks
}
