// Reads the repository as text for test/tidy.test.ts: which files there are, what they import, and what their code says
// without its comments and strings. It knows enough of TypeScript to tell those three apart, and no more.

import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs'
import { join, posix } from 'node:path'
import { fileURLToPath } from 'node:url'

export const ROOT = fileURLToPath(new URL('../../..', import.meta.url)) // from dist/test/support/

const NOT_OURS = new Set(['node_modules', 'dist', 'coverage', '.git', '.millrace'])

export interface Source {
  /** From the root, with slashes. */
  readonly path: string
  readonly text: string
  /** The text with comments blanked out; lines stay where they were. */
  readonly code: string
  /** The code with the insides of strings and regular expressions blanked out too. */
  readonly bare: string
}

export interface Import {
  readonly from: string
  /** A path from the root, or the name of a package. */
  readonly to: string
  readonly foreign: boolean
}

/** Every file that belongs to the repository: git's list, or a walk where there is no git. */
export function repositoryFiles(): string[] {
  if (existsSync(join(ROOT, '.git'))) {
    try {
      return execFileSync('git', ['ls-files', '--cached'], {
        cwd: ROOT,
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      })
        .split('\n')
        .filter((path) => path !== '' && statSync(join(ROOT, path), { throwIfNoEntry: false })?.isFile())
    } catch {
      // no git, or a checkout that belongs to somebody else
    }
  }
  return walk('')
}

/** Sources under these folders, in the order of their paths. */
export function sourcesOf(folders: readonly string[]): Source[] {
  return folders
    .flatMap(walk)
    .filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts'))
    .sort()
    .map(readSource)
}

/** Every file under a folder, tracked or not. */
export function filesUnder(folder: string): string[] {
  return walk(folder)
}

export function readText(path: string): string {
  return readFileSync(join(ROOT, path), 'utf8')
}

function walk(folder: string): string[] {
  return readdirSync(join(ROOT, folder)).flatMap((name) => {
    if (NOT_OURS.has(name)) return []
    const path = folder === '' ? name : `${folder}/${name}`
    return statSync(join(ROOT, path)).isDirectory() ? walk(path) : [path]
  })
}

function readSource(path: string): Source {
  const text = readText(path)
  return { path, text, ...strip(text) }
}

/** What a source imports: statements, `import()`, and files that are named by URL, as entries of threads are. */
export function importsOf({ path, code }: Source): Import[] {
  const found = new Set<string>()
  for (const pattern of [
    /^(?:import|export)\b[^'"`;]*?from\s+'([^']+)'/gm,
    /^import\s+'([^']+)'/gm,
    /\bimport\(\s*'([^']+)'\s*\)/g,
    /new URL\(\s*'(\.[^']+\.[jt]s)'\s*,\s*import\.meta\.url/g,
  ])
    for (const match of code.matchAll(pattern)) found.add(match[1]!)
  return [...found].map((name) => {
    const near = name.startsWith('.')
    const to = near ? posix.join(posix.dirname(path), name) : name.startsWith('node:') ? name : packageOf(name)
    return { from: path, to, foreign: !near && !name.startsWith('node:') }
  })
}

function packageOf(name: string): string {
  return name
    .split('/')
    .slice(0, name.startsWith('@') ? 2 : 1)
    .join('/')
}

export function lineOf(text: string, index: number): number {
  return text.slice(0, index).split('\n').length
}

/** A slash after one of these begins a regular expression; after anything else it divides. */
const BEFORE_REGEX = /(?:^|[(,=:[!&|?{};+\n]|\breturn|=>)\s*$/

function strip(text: string): { code: string; bare: string } {
  const code = text.split('')
  const bare = text.split('')
  const blank = (from: number, to: number, target: string[]) => {
    for (let i = from; i < to; i++) if (target[i] !== '\n') target[i] = ' '
  }
  const templates: number[] = [] // depth of braces at which each open template goes on
  let depth = 0
  let i = 0
  const stringEnd = (quote: string, from: number): number => {
    let at = from
    while (at < text.length && text[at] !== quote && text[at] !== '\n') at += text[at] === '\\' ? 2 : 1
    return at
  }
  /** Blanks template text from `from` on; returns where code goes on. */
  const template = (from: number): number => {
    let at = from
    while (at < text.length) {
      if (text[at] === '\\') at += 2
      else if (text[at] === '`') {
        blank(from, at, bare)
        return at + 1
      } else if (text[at] === '$' && text[at + 1] === '{') {
        blank(from, at, bare)
        templates.push(depth++)
        return at + 2
      } else at++
    }
    return at
  }
  while (i < text.length) {
    const char = text[i]!
    if (char === '/' && text[i + 1] === '/') {
      const end = text.indexOf('\n', i) < 0 ? text.length : text.indexOf('\n', i)
      blank(i, end, code)
      blank(i, end, bare)
      i = end
    } else if (char === '/' && text[i + 1] === '*') {
      const end = text.indexOf('*/', i + 2) + 2
      blank(i, end, code)
      blank(i, end, bare)
      i = end
    } else if (char === "'" || char === '"') {
      const end = stringEnd(char, i + 1)
      blank(i + 1, end, bare)
      i = end + 1
    } else if (char === '`') i = template(i + 1)
    else if (char === '/' && BEFORE_REGEX.test(bare.slice(Math.max(0, i - 40), i).join(''))) {
      let end = i + 1
      for (let inClass = false; end < text.length && (inClass || text[end] !== '/') && text[end] !== '\n'; end++) {
        if (text[end] === '\\') end++
        else if (text[end] === '[') inClass = true
        else if (text[end] === ']') inClass = false
      }
      blank(i + 1, end, bare)
      i = end + 1
    } else {
      if (char === '{') depth++
      else if (char === '}') {
        depth--
        if (templates.at(-1) === depth) {
          templates.pop()
          i = template(i + 1)
          continue
        }
      }
      i++
    }
  }
  return { code: code.join(''), bare: bare.join('') }
}
