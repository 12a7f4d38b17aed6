// Every statement that the engine can send and that changes something, as the sources say it. The table of cuts
// (cuts.ts) must have a row for each, so that a statement that is added later cannot be forgotten.
//
// A statement is known by what it does: the function that it calls (`claim`), the rows that it writes itself
// (`insert running`, `copy attempt`; `purge_dead` when it has a name in engine/store/sql), or its place in a transaction
// (`begin of flush`, `commit of flush`). Functions that the database declares stable or immutable cannot write, and are
// left out.

import { filesUnder, readText, sourcesOf } from '../support/tidy-source.ts'

export interface Statement {
  readonly name: string
  /** Files that send it. */
  readonly files: readonly string[]
}

/** What stands behind names that are put together at run time. */
const COMPOSED: Readonly<Record<string, readonly string[]>> = {
  '${kind}_id': ['queue_id', 'task_id'],
  '${plan}': ['claim', 'claim_of_group', 'claim_of_tasks'],
}

/** Files whose statements no engine sends, and why. */
const NOT_ENGINES: Readonly<Record<string, string>> = {
  'engine/store/virtual-time.ts': 'the clock that a test moves: the whole schema is its own',
}

const WORD = /[a-z_$][a-z0-9_${}]*/.source
const WRITES = new RegExp(
  `\\b(insert into|update|delete from|merge into|truncate|lock table) (?:only |table )?millrace\\.(${WORD})`,
  'g',
)

/** @param reads functions of the database that cannot write */
export function statementsOf(reads: ReadonlySet<string>): Statement[] {
  const files = new Map<string, Set<string>>()
  const note = (name: string, path: string) => {
    const known = files.get(name) ?? new Set()
    files.set(name, known.add(path))
  }
  for (const { path, block, code } of texts()) {
    const text = code.replace(/"(?:\$\{[\w.]+\}|@schema)"\./g, 'millrace.')
    for (const [, name] of text.matchAll(new RegExp(`\\bmillrace\\.(${WORD})\\(`, 'g')))
      for (const called of callsOf(name!, path)) if (!reads.has(called)) note(called, path)
    for (const [, verb, name] of text.matchAll(WRITES)) note(block ?? `${verb!.split(' ')[0]} ${name}`, path)
    for (const [, name] of text.matchAll(/\bcopyIn\([^)]*?\bmillrace\.([a-z_]+)/g)) note(`copy ${name}`, path)
    for (const [, verb, name] of text.matchAll(/\b(nextval|setval)\('millrace\.([a-z_]+)'/g))
      note(`${verb} ${name}`, path)
    for (const [, verb, what] of text.matchAll(/\b(create|alter|drop) (schema|database|table|index|function|role)\b/g))
      note(`${verb} ${what}`, path)
    for (const [, name] of text.matchAll(/exclusive\(\s*'tx ([a-z ]+)'/g)) {
      note(`begin of ${name}`, path)
      note(`commit of ${name}`, path)
    }
    if (/\bpg_notify\(/.test(text)) note('pg_notify', path)
  }
  return [...files]
    .map(([name, paths]) => ({ name, files: [...paths].sort() }))
    .sort((a, b) => (a.name < b.name ? -1 : 1))
}

function callsOf(name: string, path: string): readonly string[] {
  if (!name.includes('$')) return [name]
  const composed = COMPOSED[name]
  if (composed === undefined)
    throw new Error(`${path} puts the name of a function together: say in COMPOSED what millrace.${name} may be`)
  return composed
}

/** Sources without comments, and the blocks of the files of statements, each with its name. */
function texts(): { path: string; block?: string; code: string }[] {
  const blocks = filesUnder('engine/store/sql').flatMap((path) =>
    readText(path)
      .split(/^-- name: /m)
      .slice(1)
      .map((text) => ({ path, block: /^\w+/.exec(text)![0], code: text.replace(/^.*\n/, '').replace(/^--.*$/gm, '') })),
  )
  return [...sourcesOf(['engine', 'threads']), ...blocks].filter(({ path }) => !(path in NOT_ENGINES))
}
