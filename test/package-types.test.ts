// The types of the package as its users get it: packed, beside nothing but @types/node, in projects as strict as they come
// and of every module system. The declarations name no other package, so nobody needs the types of what the engine uses.

import assert from 'node:assert/strict'
import { execFile, spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const ROOT = fileURLToPath(new URL('../../', import.meta.url))
const FIXTURES = join(ROOT, 'test', 'types')
const COMPILER = join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc')
const MINUTE = 60_000

const folder = mkdtempSync(join(tmpdir(), 'millrace-package-types-'))
const unpacked = join(folder, 'package')

interface Manifest {
  readonly exports: Readonly<Record<string, { readonly types: string } | string>>
  readonly dependencies: Readonly<Record<string, string>>
}
let manifest!: Manifest

before(async () => {
  const words = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder]
  const { stdout } = await promisify(execFile)('npm', words, { cwd: ROOT, timeout: MINUTE })
  const [{ filename }] = JSON.parse(stdout) as [{ filename: string }]
  const { status, stderr } = spawnSync('tar', ['-xzf', join(folder, filename), '-C', folder], { encoding: 'utf8' })
  assert.equal(status, 0, stderr)
  manifest = JSON.parse(readFileSync(join(unpacked, 'package.json'), 'utf8')) as Manifest
})

after(() => rmSync(folder, { recursive: true, force: true }))

/** A project that has the package, and of other packages only those that are named, as they are installed here. */
function project(name: string, type: 'module' | 'commonjs', packages: readonly string[]): string {
  const home = join(folder, name)
  for (const installed of packages) {
    const place = join(home, 'node_modules', installed)
    mkdirSync(dirname(place), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules', installed), place)
  }
  cpSync(unpacked, join(home, 'node_modules', 'millrace'), { recursive: true })
  writeFileSync(join(home, 'package.json'), JSON.stringify({ name, private: true, type }))
  return home
}

/** What the fixtures say must compile, as a user writes it. */
function writeSources(home: string, isCommonJs: boolean): void {
  for (const name of ['right.ts', 'tasks.ts']) {
    let text = readFileSync(join(FIXTURES, name), 'utf8')
    text = text.replaceAll('../../engine/index.ts', 'millrace').replaceAll('./tasks.ts', './tasks.js')
    if (isCommonJs) text = text.replaceAll('import.meta.url', "'file://' + __filename")
    writeFileSync(join(home, name), text)
  }
  const adapters = ['drizzle', 'knex', 'kysely', 'postgres', 'prisma']
  const lines = [
    `import { createTestKit, type TestKit, type VirtualClock, waitForJob } from 'millrace/testing'`,
    ...adapters.map(
      (name) => `import { from${name[0]!.toUpperCase()}${name.slice(1)} } from 'millrace/adapters/${name}'`,
    ),
    `import { tick } from './tasks.js'`,
    `export async function trial(): Promise<VirtualClock> {`,
    `  const kit: TestKit<{ tick: unknown }> = await createTestKit({ tasks: [tick] })`,
    `  const { id } = await kit.enqueue('tick')`,
    `  await waitForJob(kit.engine, id)`,
    `  return kit.clock`,
    `}`,
    `export { fromDrizzle, fromKnex, fromKysely, fromPostgres, fromPrisma }`,
  ]
  writeFileSync(join(home, 'other.ts'), lines.join('\n'))
}

function compile(home: string, more: Record<string, unknown>): { status: number | null; out: string } {
  const compilerOptions = {
    target: 'es2022',
    types: ['node'],
    strict: true,
    skipLibCheck: false,
    exactOptionalPropertyTypes: true,
    noUncheckedIndexedAccess: true,
    noPropertyAccessFromIndexSignature: true,
    outDir: 'built',
    rootDir: '.',
    ...more,
  }
  writeFileSync(join(home, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts'] }))
  const { status, stdout, stderr } = spawnSync(process.execPath, [COMPILER, '--pretty', 'false', '-p', home], {
    cwd: home,
    encoding: 'utf8',
    timeout: 2 * MINUTE,
  })
  return { status, out: stdout + stderr }
}

for (const [name, type, options] of [
  ['nodenext', 'module', { module: 'nodenext' }],
  ['node20', 'module', { module: 'node20' }],
  ['bundler', 'module', { module: 'esnext', moduleResolution: 'bundler' }],
  ['commonjs', 'commonjs', { module: 'nodenext' }],
] as const)
  test(`a strict ${name} project with @types/node alone compiles against the package`, { timeout: 3 * MINUTE }, () => {
    const home = project(name, type, ['@types/node', 'undici-types'])
    writeSources(home, type === 'commonjs')
    const { status, out } = compile(home, options)
    assert.equal(status, 0, out)
    assert.ok(existsSync(join(home, 'built', 'right.js')))
  })

test('a CommonJS program requires the package, with its types', { timeout: 3 * MINUTE }, () => {
  const home = project('required', 'commonjs', ['@types/node', 'undici-types', ...Object.keys(manifest.dependencies)])
  const lines = [
    `import millrace = require('millrace')`,
    `const add = millrace.defineTask({ name: 'add', module: 'file://' + __filename, run: ({ a }: { a: number }) => a + 1 })`,
    `const client = millrace.createClient({ tasks: [add], database: 'postgres://localhost/none' })`,
    `const wrong = () => client.enqueue('add', { a: 'one' }) // WRONG`,
    `console.log(typeof client.enqueue, typeof wrong, add.name)`,
  ]
  const source = lines.join('\n')
  writeFileSync(join(home, 'main.ts'), source)
  assert.match(
    compile(home, { module: 'nodenext' }).out,
    /^main\.ts\(4,\d+\): error TS2322: Type 'string' is not assignable/,
  )
  writeFileSync(join(home, 'main.ts'), source.replace(`'one'`, '1'))
  const { status, out } = compile(home, { module: 'nodenext' })
  assert.equal(status, 0, out)
  const ran = spawnSync(process.execPath, [join(home, 'built', 'main.js')], { encoding: 'utf8', timeout: MINUTE })
  assert.deepEqual([ran.stdout, ran.status], ['function function add\n', 0], ran.stderr)
})

test('the declarations that users get name no package but Node itself', () => {
  const from = new Map<string, string | null>()
  for (const entry of Object.values(manifest.exports)) {
    if (typeof entry === 'string') continue
    if (!entry.types.includes('*')) from.set(join(unpacked, entry.types), null)
    else
      for (const name of ['drizzle', 'knex', 'kysely', 'postgres', 'prisma'])
        from.set(join(unpacked, entry.types.replace('*', name)), null)
  }
  assert.ok(from.size >= 7)
  const foreign: string[] = []
  for (const file of from.keys()) {
    const text = readFileSync(file, 'utf8')
    for (const [, specifier] of text.matchAll(/(?:\bfrom\s*|\bimport\(\s*|\bimport\s+)['"]([^'"]+)['"]/g)) {
      if (specifier!.startsWith('.')) {
        const next = resolve(dirname(file), specifier!).replace(/\.[jt]s$/, '.d.ts')
        assert.ok(existsSync(next), `${next} is in the package`)
        if (!from.has(next)) from.set(next, file)
      } else if (!builtinModules.includes(specifier!.replace(/^node:/, '')))
        foreign.push(`${specifier} in ${relative(unpacked, file)}, by way of ${from.get(file) ?? 'itself'}`)
    }
  }
  assert.deepEqual(foreign, [])
  assert.ok(from.size > 15)
})
