// `doctor`: looks at everything that commonly goes wrong and says what to do. Exit code 1 when something is bad. A
// database that does not answer is a finding, not a failure of the command.

import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import type { DoctorRow } from './api.ts'
import { type Cli, withClient } from './context.ts'
import { styled } from './styled.ts'
import { printTable } from './table.ts'

/** True when nothing is bad. */
export async function doctor(cli: Cli): Promise<boolean> {
  const { terminal } = cli
  const rows: DoctorRow[] = [nodeVersion(cli.nodeVersion), ...(await settings(cli)), ...(await database(cli))]
  const healthy = rows.every(({ verdict }) => verdict !== 'bad')
  if (terminal.json) {
    for (const row of rows) terminal.record(row)
    return healthy
  }
  const colours = { ok: 'green', warn: 'yellow', bad: 'red' } as const
  printTable(
    terminal,
    [{ head: '' }, { head: 'check' }, { head: 'value', narrow: 'wrap' }, { head: 'advice', narrow: 'wrap' }],
    rows.map(({ check, value, verdict, advice }) => [styled(colours[verdict], verdict), check, value, advice]),
  )
  return healthy
}

function nodeVersion(version: string): DoctorRow {
  const major = Number(version.replace(/^v/, '').split('.')[0])
  const even = major % 2 === 0
  return {
    check: 'Node.js',
    value: version,
    verdict: even ? 'ok' : 'warn',
    advice: even ? '' : 'Odd versions are short-lived; use one with long-term support in production.',
  }
}

async function settings(cli: Cli): Promise<DoctorRow[]> {
  try {
    const { sources, warnings } = await cli.config()
    const set = Object.values(sources).filter(({ kind }) => kind !== 'default').length
    const row: DoctorRow = { check: 'settings', value: `valid, ${set} set`, verdict: 'ok', advice: '' }
    return [row, ...warnings.map((advice): DoctorRow => ({ check: 'settings', value: '', verdict: 'warn', advice }))]
  } catch (error) {
    return [{ check: 'settings', value: 'invalid', verdict: 'bad', advice: messageOf(error) }]
  }
}

async function database(cli: Cli): Promise<readonly DoctorRow[]> {
  try {
    await cli.config()
  } catch {
    return [] // said above
  }
  try {
    const rows = await withClient(cli, (client) => client.console.doctor())
    return rows.filter(({ check }) => check !== 'node') // said above, also when there is no database
  } catch (error) {
    const hint = error instanceof EngineError ? ` ${error.hint}` : ''
    return [{ check: 'database', value: codeOf(error), verdict: 'bad', advice: `${messageOf(error)}${hint}` }]
  }
}
