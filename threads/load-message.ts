// Why a task file did not load, and where. When an import fails, Node does not tell the place of a syntax error: it prints it
// only where the process dies of it. V8 knows the place, and its inspector tells it within the thread, without a port.

import type { Session } from 'node:inspector/promises'
import { fileURLToPath } from 'node:url'

/** Name and message of what the import of `file` threw, and its place where that is known. */
export async function loadMessage(error: unknown, file: string): Promise<string> {
  try {
    if (!(error instanceof Error)) return String(error)
    const said = `${error.name}: ${error.message}`
    const place =
      headOf(error) ?? frameOf(error, file) ?? (error instanceof SyntaxError ? await placeOf(error, file) : null)
    return place === null ? said : `${said} (${place})`
  } catch {
    return 'the file threw something that cannot be printed'
  }
}

/** What Node itself puts before the stack of some errors. */
function headOf(error: Error): string | null {
  return /^((?:file:|\/|[A-Za-z]:\\)[^\n]*:\d+)\n/.exec(error.stack ?? '')?.[1] ?? null
}

/** The first frame of its stack that stands in this file, else in any: a module that did not parse has none. */
function frameOf(error: Error, file: string): string | null {
  const frames = [...(error.stack ?? '').matchAll(FRAME)].map((match) => match[1]!)
  const own = [file, fileURLToPath(file)]
  return frames.find((frame) => own.some((name) => frame.startsWith(`${name}:`))) ?? frames[0] ?? null
}

const FRAME = /^ +at (?:.*\()?((?:file:|\/|[A-Za-z]:\\)[^()\n]*:\d+:\d+)\)?$/gm

/** Where a module did not parse. Null: not known. */
async function placeOf(error: SyntaxError, file: string): Promise<string | null> {
  const inspector = await import('node:inspector/promises').catch(() => null) // a Node may have been built without it
  if (inspector === null) return null
  const session = new inspector.Session()
  const parsed = new Map<string, string>()
  const failed = new Set<string>()
  session.on('Debugger.scriptParsed', ({ params }) => void parsed.set(params.scriptId, params.url))
  session.on('Debugger.scriptFailedToParse', ({ params }) => void failed.add(params.url))
  session.connect()
  try {
    const found = await detailsOf(session, error)
    if (found === null) return null
    await session.post('Debugger.enable')
    let script = parsed.get(found.scriptId)
    // a script that failed to parse is told only when it fails: if it is this file, it fails again under another URL
    if (script === undefined) {
      await import(`${file}?again`).catch(() => {})
      if (failed.has(`${file}?again`)) script = file
    }
    const place = `${found.lineNumber + 1}:${found.columnNumber + 1}`
    return script === undefined ? `line ${place} of a file that it imports` : `${script}:${place}`
  } catch {
    return null
  } finally {
    session.disconnect()
  }
}

interface Details {
  readonly scriptId: string
  /** From 0. */
  readonly lineNumber: number
  readonly columnNumber: number
}

/** Where the session finds the error: an expression of it reaches nothing but globals. */
const KEY = '__millraceSyntaxError'

async function detailsOf(session: Session, error: SyntaxError): Promise<Details | null> {
  const globals = globalThis as Record<string, unknown>
  globals[KEY] = error
  try {
    const { result } = await session.post('Runtime.evaluate', { expression: `globalThis.${KEY}`, silent: true })
    const post = session.post.bind(session) as (method: string, params: object) => Promise<unknown>
    const answer = (await post('Runtime.getExceptionDetails', { errorObjectId: result.objectId })) as {
      exceptionDetails?: Details
    }
    const details = answer.exceptionDetails
    return details === undefined || details.lineNumber < 0 ? null : details
  } finally {
    delete globals[KEY]
  }
}
