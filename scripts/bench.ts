// `npm run bench`: runs the benchmarks, prints what they found, appends a line per result to results/<day>-<bench>.jsonl,
// and judges the gates.
//
//   npm run bench -- --only drain,latency --size smoke|real --reps 3 --systems millrace,pg-boss --gates --dry
//
// DATABASE_URL names the server; without it an embedded one runs in a temporary folder. A bench that fails is told and
// the rest goes on; the exit code says so. --gates also fails when a gate is missed, --dry writes nothing, --out FOLDER
// writes elsewhere than to results/.

import { appendFileSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import Table from 'cli-table3'
import { packageRoot } from '../bench/facts.ts'
import { judge } from '../bench/gates.ts'
import { Harness, METRICS, type Metric, type ResultLine, type Size } from '../bench/harness.ts'
import { openServer } from '../bench/server.ts'
import { benches } from '../bench/table.ts'

/** A frame without colours and lines between rows, so that a table reads well in a log. */
const PLAIN = { head: [], border: [], compact: true }

const { values: flags } = parseArgs({
  options: {
    only: { type: 'string' },
    size: { type: 'string', default: 'real' },
    reps: { type: 'string', default: '3' },
    systems: { type: 'string' },
    gates: { type: 'boolean', default: false },
    dry: { type: 'boolean', default: false },
    out: { type: 'string', default: join(packageRoot(), 'results') },
  },
})

const size = flags.size
if (size !== 'smoke' && size !== 'real') throw new Error('--size is smoke or real')
const repetitions = Number(flags.reps)
if (!Number.isInteger(repetitions) || repetitions < 1) throw new Error('--reps is a whole number from 1')
const only = flags.only?.split(',')
const unknown = only?.filter((name) => !benches.some((bench) => bench.name === name)) ?? []
if (unknown.length > 0)
  throw new Error(`no such bench: ${unknown.join(', ')}; there are ${benches.map((b) => b.name).join(', ')}`)

const harness = new Harness({
  size: size satisfies Size,
  repetitions,
  openServer: () => openServer(process.env.DATABASE_URL),
  ...(flags.systems === undefined ? {} : { systems: flags.systems.split(',') }),
  say: (text) => console.error(text),
})
let failed = false
try {
  for (const bench of benches) {
    if (only !== undefined && !only.includes(bench.name)) continue
    const before = harness.lines.length
    const startMs = performance.now()
    try {
      await bench.run(harness)
    } catch (error) {
      failed = true
      console.error(`${bench.name} failed:`, error)
    }
    const lines = harness.lines.slice(before)
    print(bench.name, bench.says, lines, (performance.now() - startMs) / 1e3)
    if (!flags.dry) append(bench.name, lines)
  }
} finally {
  await harness.close()
}

const verdicts = judge(harness.lines)
if (verdicts.length > 0) {
  const table = new Table({ head: ['gate', 'kind', 'found', 'limit', ''], style: PLAIN })
  for (const { gate, found, passed } of verdicts) {
    table.push([
      gate.says,
      gate.kind,
      String(found),
      `${gate.atLeast ? '>=' : '<='} ${gate.limit}`,
      passed ? 'ok' : 'MISSED',
    ])
  }
  console.log(table.toString())
}
if (failed || (flags.gates && verdicts.some(({ passed }) => !passed))) process.exitCode = 1

function print(name: string, says: string, lines: readonly ResultLine[], seconds: number): void {
  if (lines.length === 0) return
  const metrics = (Object.keys(METRICS) as Metric[]).filter((metric) => lines.some((line) => line.metrics[metric]))
  const table = new Table({ head: ['what', 'system', ...metrics.map((metric) => METRICS[metric].unit)], style: PLAIN })
  for (const line of lines) {
    table.push([
      line.subject,
      line.system,
      ...metrics.map((metric) => line.metrics[metric]?.median.toLocaleString('en') ?? ''),
    ])
  }
  console.log(`\n${name}: ${says} (medians of ${repetitions}, ${Math.round(seconds)} s)\n${table.toString()}`)
}

function append(name: string, lines: readonly ResultLine[]): void {
  if (lines.length === 0) return
  mkdirSync(flags.out, { recursive: true })
  const file = join(flags.out, `${lines[0]!.run.slice(0, 10)}-${name}.jsonl`)
  appendFileSync(file, lines.map((line) => `${JSON.stringify(line)}\n`).join(''))
}
