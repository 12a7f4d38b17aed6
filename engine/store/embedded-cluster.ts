// The making of the embedded server's cluster. It appears whole or not at all: initdb works beside it, then a rename.
// It wants a password from everyone, and the password is random, in a file that only we can read.

import { spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import {
  chownSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'
import { type Binaries, serverProcess } from './embedded-binaries.ts'
import type { DataFolder } from './embedded-folder.ts'

/** The superuser. */
export const USER = 'millrace'

const INITDB_MS_MAX = 120_000
const TAIL_BYTES = 4_096

export function clusterPath(folder: string): string {
  return join(folder, 'cluster')
}

/** The superuser's password: read from its file, or made. */
export function passwordOf(folder: string): string {
  const path = join(folder, 'password')
  try {
    return readFileSync(path, 'utf8').trim()
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error
  }
  if (existsSync(clusterPath(folder))) {
    throw new EngineError('EMBEDDED_FAILED', `${path} is gone: restore it, or remove the data folder ${folder}`, {
      path,
    })
  }
  const password = randomBytes(24).toString('base64url')
  writeFileSync(`${path}.part`, `${password}\n`, { mode: 0o600 })
  renameSync(`${path}.part`, path)
  return password
}

/** Makes the cluster when there is none. The caller holds the lock. */
export async function ensureCluster(folder: DataFolder, binaries: Binaries, password: string): Promise<void> {
  const cluster = clusterPath(folder.path)
  removeHalfMade(folder.path)
  if (existsSync(cluster)) return checkCluster(cluster, folder, binaries)

  const work = join(folder.path, `init-${randomBytes(4).toString('hex')}`)
  const [part, passwordFile] = [join(work, 'cluster'), join(work, 'password')]
  try {
    mkdirSync(work, { mode: 0o700 })
    writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 })
    if (folder.account !== null) {
      for (const path of [work, passwordFile]) chownSync(path, folder.account.uid, folder.account.gid)
    }
    // the collation is PostgreSQL's own: the same order and speed on every system
    const locale = binaries.major >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : []
    await runInitdb(binaries, folder, [
      ...['-D', part, '-U', USER, '-E', 'UTF8', '--locale=C', ...locale],
      ...['-A', 'scram-sha-256', '--pwfile', passwordFile, '--no-instructions'],
    ])
    renameSync(part, cluster)
  } finally {
    rmSync(work, { recursive: true, force: true })
  }
}

/** What a killed start left. An orphaned initdb may still write there: then the next start removes it. */
function removeHalfMade(folder: string): void {
  for (const name of readdirSync(folder)) {
    if (!name.startsWith('init-')) continue
    try {
      rmSync(join(folder, name), { recursive: true, force: true })
    } catch {
      // in use: it harms nobody
    }
  }
}

function checkCluster(cluster: string, folder: DataFolder, binaries: Binaries): void {
  const version = readFileSync(join(cluster, 'PG_VERSION'), 'utf8').trim()
  if (version !== String(binaries.major)) {
    throw new EngineError(
      'EMBEDDED_FAILED',
      `the data in ${folder.path} is of PostgreSQL ${version} and the installed server is ${binaries.major}: dump it with the old version, or remove the folder`,
      { path: folder.path, version, installed: String(binaries.major) },
    )
  }
  const uid = folder.account?.uid ?? process.getuid?.()
  const owner = statSync(cluster).uid
  if (uid !== undefined && owner !== uid) {
    throw new EngineError('EMBEDDED_FAILED', `${cluster} belongs to uid ${owner}, the server would run as uid ${uid}`, {
      path: cluster,
      owner,
      uid,
    })
  }
}

function runInitdb(binaries: Binaries, folder: DataFolder, args: string[]): Promise<void> {
  return new Promise((done, fail) => {
    let said = ''
    const failed = (reason: string): void =>
      fail(new EngineError('EMBEDDED_FAILED', `initdb could not make ${folder.path}: ${reason}`, { path: folder.path }))
    try {
      const child = spawn(binaries.initdb, args, {
        ...serverProcess(folder.account),
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: INITDB_MS_MAX,
        killSignal: 'SIGKILL',
      })
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          said = (said + text).slice(-TAIL_BYTES)
        })
      }
      child.on('error', (error) => failed(messageOf(error)))
      child.on('close', (code, signal) => (code === 0 ? done() : failed(`${signal ?? `exit ${code}`}\n${said}`)))
    } catch (error) {
      failed(messageOf(error))
    }
  })
}
