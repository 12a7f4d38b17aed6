// `node dist/scripts/plots.js [folder]`: makes results/README.md's tables and results/*.svg from the newest run of every bench in
// results/*.jsonl. What stands outside the markers in README.md is written by people and left alone.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { init } from 'echarts'
import { packageRoot } from '../bench/facts.ts'
import { GATES, judge } from '../bench/gates.ts'
import { METRICS, type Metric, type ResultLine } from '../bench/harness.ts'
import { OURS } from '../bench/peers/table.ts'
import { benches } from '../bench/table.ts'

const BEGIN = '<!-- made by scripts/plots.ts from here -->'
const END = '<!-- to here -->'

const folder = process.argv[2] ?? join(packageRoot(), 'results')
const newest = newestRuns(folder)
const parts: string[] = [gates([...newest.values()].flat())]
for (const bench of benches) {
  const lines = newest.get(bench.name)
  if (lines === undefined) continue
  const metric = mainMetric(lines)
  const file = `${bench.name}.svg`
  writeFileSync(join(folder, file), plot(bench.says, metric, lines))
  parts.push(
    `## ${bench.name}\n\n${sentence(bench.says)}\n\n![${bench.says}](${file})\n\n${table(lines)}\n\n${circumstances(lines)}`,
  )
}
const readme = join(folder, 'README.md')
const text = readFileSync(readme, 'utf8')
const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
if (begin < 0 || end < begin) throw new Error(`${readme} lacks its markers`)
writeFileSync(readme, `${text.slice(0, begin + BEGIN.length)}\n\n${parts.join('\n\n')}\n\n${text.slice(end)}`)

/** The lines of each bench's last run of the real size; a file may hold several runs. */
function newestRuns(from: string): Map<string, ResultLine[]> {
  const byBench = new Map<string, ResultLine[]>()
  for (const file of readdirSync(from).sort()) {
    if (!file.endsWith('.jsonl')) continue
    for (const row of readFileSync(join(from, file), 'utf8').split('\n')) {
      if (row === '') continue
      const line = JSON.parse(row) as ResultLine
      if (line.size !== 'real') continue
      const known = byBench.get(line.bench)
      if (known === undefined || known[0]!.run < line.run) byBench.set(line.bench, [line])
      else if (known[0]!.run === line.run) known.push(line)
    }
  }
  return byBench
}

function metricsOf(lines: readonly ResultLine[]): Metric[] {
  return (Object.keys(METRICS) as Metric[]).filter((metric) => lines.some((line) => line.metrics[metric]))
}

/** What the plot shows: the first metric in the table's order. */
function mainMetric(lines: readonly ResultLine[]): Metric {
  return metricsOf(lines)[0]!
}

/** Bars of medians, in groups. */
function plot(title: string, metric: Metric, lines: readonly ResultLine[]): string {
  const subjects = [...new Set(lines.map((line) => line.subject))]
  const systems = [...new Set(lines.map((line) => line.system))]
  const find = (system: string, subject: string) =>
    lines.find((line) => line.system === system && line.subject === subject)?.metrics[metric]
  // Groups that span several orders of magnitude are unreadable on a linear scale.
  const medians = lines.flatMap((line) => line.metrics[metric]?.median ?? [])
  const log = Math.max(...medians) > 200 * Math.min(...medians)
  // Many or long names stand on the left of lying bars, where they can be read.
  const lying = subjects.length > 6 || subjects.some((subject) => subject.length > 18)
  const height = lying ? 110 + subjects.length * Math.max(26, systems.length * 20) : 380
  const chart = init(null, null, { renderer: 'svg', ssr: true, width: 860, height })
  const names = {
    type: 'category' as const,
    data: subjects,
    inverse: lying,
    axisLabel: lying ? { width: 290, overflow: 'break' as const } : { interval: 0 },
  }
  const values = {
    type: log ? ('log' as const) : ('value' as const),
    name: METRICS[metric].better === 'more' ? 'more is better' : 'less is better',
    nameLocation: 'middle' as const,
    nameGap: lying ? 28 : 62,
    splitNumber: 4,
  }
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    color: ['#2f6f9f', '#c8803a', '#7d9a58', '#9b6a97', '#8a8f98', '#b9a23f'],
    title: { text: `${title} (${METRICS[metric].unit})`, left: 'center', textStyle: { fontSize: 14 } },
    ...(systems.length > 1 ? { legend: { bottom: 0, data: systems, itemGap: 28 } } : {}),
    grid: { left: lying ? 310 : 90, right: lying ? 90 : 20, top: 50, bottom: systems.length > 1 ? 70 : 50 },
    ...(lying ? { xAxis: values, yAxis: names } : { xAxis: names, yAxis: values }),
    series: systems.map((system) => ({
      name: system,
      type: 'bar' as const,
      barMaxWidth: 56,
      data: subjects.map((subject) => find(system, subject)?.median ?? null),
      label: {
        show: true,
        position: lying ? ('right' as const) : ('top' as const),
        fontSize: 10,
        formatter: ({ value }: { value?: unknown }) => (typeof value === 'number' ? number(value) : ''),
      },
    })),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return `${svg}\n`
}

function table(lines: readonly ResultLine[]): string {
  const metrics = metricsOf(lines)
  const main = metrics[0]!
  const head = ['what', 'system', ...metrics.map((metric) => METRICS[metric].unit), 'least to most', 'ours is']
  const rows = lines.map((line) => {
    const found = line.metrics[main]
    return [
      line.subject,
      line.system,
      ...metrics.map((metric) => number(line.metrics[metric]?.median)),
      found === undefined ? '' : `${number(Math.min(...found.values))} to ${number(Math.max(...found.values))}`,
      advantage(line, lines, main),
    ]
  })
  const align = head.map((_, i) => (i < 2 ? '---' : '--:'))
  return [head, align, ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n')
}

/** How many times better ours is than this peer, in the main metric. */
function advantage(line: ResultLine, lines: readonly ResultLine[], metric: Metric): string {
  const ours = lines.find((other) => other.system === OURS && other.subject === line.subject)?.metrics[metric]
  const theirs = line.metrics[metric]
  if (line.system === OURS || ours === undefined || theirs === undefined) return ''
  const ratio = METRICS[metric].better === 'more' ? ours.median / theirs.median : theirs.median / ours.median
  return `${ratio.toFixed(2)} x`
}

function circumstances(lines: readonly ResultLine[]): string {
  const first = lines[0]!
  const { machine, server } = first
  const versions = Object.assign({}, ...lines.map((line) => line.versions)) as Record<string, string>
  const repetitions = Math.max(
    ...lines.flatMap((line) => Object.values(line.metrics).map(({ values }) => values.length)),
  )
  const facts = [
    `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, ${machine.kernel}`,
    ...(server === null
      ? []
      : [
          `PostgreSQL ${server.version} on the same machine, fsync ${server.fsync}, synchronous_commit ${server.synchronous_commit}`,
        ]),
    Object.entries(versions)
      .map(([name, version]) => `${name} ${version}`)
      .join(', '),
    `commit ${first.commit}`,
    `${first.run.slice(0, 16).replace('T', ' ')} UTC`,
    `medians of ${repetitions}, subjects in turns`,
  ]
  const settings = lines
    .filter((line) => Object.keys(line.settings).length > 0)
    .map((line) => `- ${line.subject}, ${line.system}: \`${JSON.stringify(line.settings)}\``)
  return `<details><summary>circumstances</summary>\n\n${facts.join('; ')}.\n\n${settings.join('\n')}\n\n</details>`
}

function gates(lines: readonly ResultLine[]): string {
  const verdicts = judge(lines)
  const rows = GATES.map((gate) => {
    const verdict = verdicts.find((other) => other.gate === gate)
    const limit = `${gate.atLeast ? '>=' : '<='} ${number(gate.limit)}`
    const found = verdict === undefined ? 'not measured' : number(verdict.found)
    const passed = verdict === undefined ? '' : verdict.passed ? 'yes' : '**no**'
    return `| ${gate.says} | ${gate.kind} | ${found} | ${limit} | ${gate.aim === undefined ? '' : number(gate.aim)} | ${passed} |`
  })
  return `## Gates\n\n| what | kind | found | must be | aim | reached |\n|---|---|--:|--:|--:|---|\n${rows.join('\n')}`
}

function number(value: number | undefined): string {
  if (value === undefined) return ''
  return value.toLocaleString('en', value >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 })
}

function sentence(text: string): string {
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`
}
