// `migrate [--dry-run]`: brings the tables up to date, or prints the SQL that would. `--print-grants ROLE=KIND` prints the SQL
// that gives a role its rights.

import { EngineError } from '../base/errors.ts'
import type { RoleKind } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { plural } from './text.ts'

export interface MigrateFlags {
  dryRun?: boolean
  printGrants?: { readonly role: string; readonly kind: RoleKind }
}

const KINDS: readonly string[] = ['engine', 'producer', 'reader'] satisfies RoleKind[]

/** Reads ROLE=KIND; a role's name may have an = itself. */
export function grantFrom(text: string): { role: string; kind: RoleKind } {
  const at = text.lastIndexOf('=')
  const [role, kind] = [text.slice(0, Math.max(0, at)), text.slice(at + 1)]
  if (role === '' || !KINDS.includes(kind))
    throw new EngineError('VALIDATION', `--print-grants must be ROLE=KIND with a kind of ${KINDS.join(', ')}`, {
      field: '--print-grants',
    })
  return { role, kind: kind as RoleKind }
}

export async function migrate(cli: Cli, flags: MigrateFlags): Promise<void> {
  const { terminal } = cli
  const { printGrants } = flags
  if (printGrants !== undefined)
    return withClient(cli, async (client) => {
      const grants = await client.console.grants(printGrants.role, printGrants.kind)
      if (terminal.json) return terminal.record({ ...printGrants, grants })
      terminal.page(grants)
      terminal.note('Nothing was changed; the owner of the schema runs these, and again after a migration.')
    })
  const dryRun = flags.dryRun === true
  await withClient(cli, async (client) => {
    const { from, to, applied, sql } = await client.migrate(dryRun)
    if (terminal.json) return terminal.record({ dryRun, from, to, applied, ...(dryRun && { sql }) })
    if (applied.length === 0) return terminal.print(`The schema is up to date (version ${to}).`)
    const list = applied.map(({ version, name }) => `${version} ${name}`).join(', ')
    if (!dryRun)
      return terminal.print(`Applied ${plural(applied.length, 'migration')} (${list}); the schema is at version ${to}.`)
    terminal.page(sql.split('\n')) // nothing but SQL on standard output, so that it can be piped into a file
    terminal.note(`${plural(applied.length, 'migration')} would be applied (${list}); nothing was changed.`)
  })
}
