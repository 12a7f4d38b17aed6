// `npm run faults`: the long form of the fault lab. Does harm for some minutes, prints what it did and what came of it, and
// ends with 1 when anything was lost, doubled, stuck or otherwise wrong.
//
//   npm run faults -- --minutes 30 --seed 7 --only 'answers lost,an engine killed' --record
//
// The same seed chooses the same faults; what they meet depends on the machine. --record appends a line to
// results/<day>-faults.jsonl.

import { appendFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { commit, machine, packageRoot } from '../bench/facts.ts'
import { HARMS } from '../test/faults/harms.ts'
import { isClean, Lab, type LabReport } from '../test/faults/lab.ts'

const { values: flags } = parseArgs({
  options: {
    minutes: { type: 'string', default: '30' },
    seed: { type: 'string' },
    only: { type: 'string' },
    record: { type: 'boolean', default: false },
  },
})

const minutes = Number(flags.minutes)
if (!(minutes > 0 && minutes <= 24 * 60)) throw new Error('--minutes is a number above 0, at most a day')
const seed = flags.seed === undefined ? 1 + Math.floor(Math.random() * 2 ** 31) : Number(flags.seed)
if (!Number.isInteger(seed) || seed < 1) throw new Error('--seed is a whole number from 1')
const only = flags.only?.split(',')
const unknown = only?.filter((name) => !HARMS.some((harm) => harm.name === name)) ?? []
if (unknown.length > 0)
  throw new Error(`no such fault: ${unknown.join(', ')}; there are: ${HARMS.map(({ name }) => name).join(', ')}`)

console.log(`seed ${seed}, ${minutes} minutes`)
const at = new Date().toISOString()
const report = await Lab.run({
  seed,
  forMs: minutes * 60_000,
  ...(only === undefined ? {} : { harms: only }),
  say: (line) => console.log(`${new Date().toISOString().slice(11, 19)} ${line}`),
})
print(report)
if (flags.record) {
  const line = { run: at, commit: commit(), machine: machine(), ...report, faults: recoveries(report) }
  appendFileSync(join(packageRoot(), 'results', `${at.slice(0, 10)}-faults.jsonl`), `${JSON.stringify(line)}\n`)
}
process.exitCode = isClean(report) ? 0 : 1

function print(report: LabReport): void {
  const table = new Table({
    head: ['fault', 'times', 'recovery s, median', 'most', 'stuck'],
    style: { head: [], border: [], compact: true },
  })
  for (const { fault, times, medianS, mostS, stuck } of recoveries(report))
    table.push([fault, times, medianS?.toFixed(1) ?? '-', mostS?.toFixed(1) ?? '-', stuck])
  console.log(`\n${table.toString()}\n`)
  const { lost, doubled, stuck, missing, ghosts, broken, calls, jobs, executions, leftOut } = report
  console.log(
    `${jobs} jobs acknowledged, ${executions} executions; calls: ${calls.calls}, refused ${calls.refused}, of unknown end ${calls.unknown}`,
  )
  console.log(
    `lost ${lost}, doubled ${doubled}, stuck ${stuck}, acknowledged calls without a job ${missing}, refused calls with a job ${ghosts}`,
  )
  for (const what of broken) console.log(`BROKEN ${what}`)
  if (leftOut.length > 0) console.log(`NOT TRIED ${leftOut.join('; ')}`)
  console.log(
    `seed ${report.seed}, ${Math.round(report.seconds)} s: ${isClean(report) ? 'all is well' : 'SOMETHING IS WRONG'}`,
  )
}

/** By fault, the slowest first. */
function recoveries({ faults }: LabReport) {
  const names = [...new Set(faults.map(({ fault }) => fault))]
  const rows = names.map((name) => {
    const all = faults.filter(({ fault }) => fault === name)
    const seconds = all.flatMap(({ recoveryS }) => recoveryS ?? []).sort((a, b) => a - b)
    return {
      fault: name,
      times: all.length,
      medianS: seconds[Math.floor(seconds.length / 2)] ?? null,
      mostS: seconds.at(-1) ?? null,
      stuck: all.filter(({ recoveryS }) => recoveryS === null).length,
    }
  })
  return rows.sort((a, b) => (b.mostS ?? Number.POSITIVE_INFINITY) - (a.mostS ?? Number.POSITIVE_INFINITY))
}
