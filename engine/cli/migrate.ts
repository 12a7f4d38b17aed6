// `migrate [--dry-run]`: brings the tables up to date, or prints the SQL that would.

import { type Cli, withClient } from './context.ts'
import { plural } from './text.ts'

export async function migrate(cli: Cli, flags: { dryRun?: boolean }): Promise<void> {
  const { terminal } = cli
  await withClient(cli, async (client) => {
    const report = flags.dryRun ? await client.console.migrations(true) : await client.migrate()
    if (terminal.json) return terminal.record({ dryRun: flags.dryRun === true, ...report })
    if (report.applied.length === 0) return terminal.print(`The schema is up to date (version ${report.version}).`)
    if (!flags.dryRun) {
      for (const { version, name } of report.applied) terminal.print(`  ${version}  ${name}`)
      return terminal.print(
        `Applied ${plural(report.applied.length, 'migration')}; the schema is at version ${report.version}.`,
      )
    }
    for (const { version, name, sql } of report.applied)
      terminal.print(`-- migration ${version}: ${name}\n${sql ?? ''}`)
    terminal.note(`${plural(report.applied.length, 'migration')} would be applied; nothing was changed.`)
  })
}
