// Words of a command line that a person will copy. What comes from the database may hold anything, `; rm -rf ~` too.

const PLAIN = /^[\w@%+=:,./-]+$/

/** The word as a POSIX shell reads it back. */
export function quoted(word: string): string {
  return PLAIN.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
}
