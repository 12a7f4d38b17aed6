// `migrate [--dry-run]`: brings the tables up to date, or prints the SQL that would.

import { type Cli, withClient } from './context.ts'
import { plural } from './text.ts'

export async function migrate(cli: Cli, flags: { dryRun?: boolean }): Promise<void> {
  const { terminal } = cli
  const dryRun = flags.dryRun === true
  await withClient(cli, 'nothing', async (client) => {
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
