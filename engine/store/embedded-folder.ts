// Where the embedded server keeps its data, and under which account it runs. PostgreSQL refuses to run as root, so
// root lends it another account; that account must be able to walk to the folder. When it cannot (a checkout below a
// closed home), the data goes to a folder under the system's temporary files, always the same one for the same wish.
//
//   <folder>/            ours: 0700, or 0711 when the server has another account and must pass through
//     password           of the superuser `millrace`, 0600
//     server.log         what PostgreSQL says, bounded
//     users/ lock/ watch/  claims: who uses the server, who starts or stops it, who watches it
//     cluster/           PostgreSQL's own data folder, its account's, 0700
//     native-<version>/  a copy of the binaries, only where the installed ones cannot be used

import { createHash } from 'node:crypto'
import { chmodSync, chownSync, lstatSync, mkdirSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, dirname, join, resolve } from 'node:path'
import { codeOf, EngineError, messageOf } from '../base/errors.ts'

/** The account that the server runs under. */
export interface Account {
  readonly uid: number
  readonly gid: number
  readonly name: string
}

export interface DataFolder {
  readonly path: string
  /** null: the server runs under our own account. */
  readonly account: Account | null
  /** The wished path, when the data could not be put there. */
  readonly movedFrom: string | null
}

/** Finds or makes the folder. Throws EMBEDDED_FAILED when there is none that is ours. */
export function openDataFolder(wished: string): DataFolder {
  const path = realPath(resolve(wished))
  const account = isRoot() ? lentAccount() : null
  if (account === null) return { path: claimFolder(path, 0o700), account, movedFrom: null }
  const owner = clusterOwner(path) ?? account
  if (isReachable(dirname(path), owner)) return { path: claimFolder(path, 0o711), account: owner, movedFrom: null }
  const fallback = fallbackPath(path)
  return {
    path: claimFolder(fallback, 0o711),
    account: clusterOwner(fallback) ?? account,
    movedFrom: path,
  }
}

/** True when the account may pass through every folder from the root down to `path`, those that do not exist yet aside. */
function isReachable(path: string, account: Account): boolean {
  for (let at = path; ; at = dirname(at)) {
    const stat = statSync(at, { throwIfNoEntry: false })
    if (stat !== undefined) {
      const bit = stat.uid === account.uid ? 0o100 : stat.gid === account.gid ? 0o010 : 0o001
      if ((stat.mode & bit) === 0) return false
    }
    if (at === dirname(at)) return true
  }
}

function isRoot(): boolean {
  return process.getuid?.() === 0
}

/** The first of `postgres` and `nobody` that this system has. Accounts are never made. */
function lentAccount(): Account {
  const accounts = systemAccounts()
  for (const wanted of ['postgres', 'nobody']) {
    const account = accounts.find(({ name, uid }) => name === wanted && uid > 0)
    if (account !== undefined) return account
  }
  throw new EngineError(
    'EMBEDDED_UNAVAILABLE',
    'PostgreSQL does not run as root, and this system has no account "postgres" or "nobody" to lend it: run millrace as an ordinary user, or set DATABASE_URL',
  )
}

/** A cluster that exists keeps its account, whatever accounts have come since. */
function clusterOwner(path: string): Account | null {
  const stat = statSync(join(path, 'cluster'), { throwIfNoEntry: false })
  if (stat === undefined || stat.uid === 0) return null
  const name = systemAccounts().find(({ uid }) => uid === stat.uid)?.name
  return { uid: stat.uid, gid: stat.gid, name: name ?? `uid ${stat.uid}` }
}

function systemAccounts(): Account[] {
  const lines = readFileSync('/etc/passwd', 'utf8').split('\n')
  return lines.map((line) => {
    const [name = '', , uid, gid] = line.split(':')
    return { name, uid: Number(uid), gid: Number(gid) }
  })
}

/** The same path for the same wish. Only where nobody else can rename our folder away: a sticky one. */
function fallbackPath(wished: string): string {
  const parent = ['/var/tmp', '/tmp', tmpdir()].find((path) => {
    const stat = statSync(path, { throwIfNoEntry: false })
    return stat?.isDirectory() && (stat.mode & 0o001) !== 0 && ((stat.mode & 0o1000) !== 0 || (stat.mode & 0o002) === 0)
  })
  if (parent === undefined) throw new EngineError('EMBEDDED_FAILED', `no folder that the server's account can reach`)
  return join(realpathSync(parent), `millrace-${createHash('sha256').update(wished).digest('hex').slice(0, 12)}`)
}

/** Makes the folder, or makes sure that it is ours, a real folder, and closed to others. */
function claimFolder(path: string, mode: number): string {
  try {
    makeFolders(path)
    const stat = lstatSync(path)
    const uid = process.getuid?.() ?? stat.uid
    if (!stat.isDirectory()) throw new EngineError('EMBEDDED_FAILED', `${path} is not a folder`)
    if (stat.uid !== uid) {
      // an empty one was only prepared for us (a volume); one with data belongs to whoever made it
      if (uid !== 0 || readdirSync(path).length > 0) {
        throw new EngineError(
          'EMBEDDED_FAILED',
          `the data folder ${path} belongs to uid ${stat.uid} and this process runs as uid ${uid}: run as that user, or choose another data folder`,
          { path, owner: stat.uid, uid },
        )
      }
      chownSync(path, 0, 0)
    }
    if (process.platform !== 'win32') chmodSync(path, mode)
    return path
  } catch (error) {
    if (error instanceof EngineError) throw error
    throw new EngineError(
      'EMBEDDED_FAILED',
      `the data folder ${path} cannot be used (${messageOf(error)}): choose another, or set DATABASE_URL`,
      { path },
      error,
    )
  }
}

/** Like mkdir -p, but what root makes on the way can be walked through by the server's account, whatever the umask. */
function makeFolders(path: string): void {
  try {
    mkdirSync(path)
    if (isRoot()) chmodSync(path, 0o755)
  } catch (error) {
    if (codeOf(error) === 'EEXIST') return
    if (codeOf(error) !== 'ENOENT') throw error
    makeFolders(dirname(path))
    makeFolders(path)
  }
}

/** The path without links, as far as it exists: two names of one folder are one folder. */
function realPath(path: string): string {
  try {
    return realpathSync(path)
  } catch {
    const parent = dirname(path)
    return parent === path ? path : join(realPath(parent), basename(path))
  }
}
