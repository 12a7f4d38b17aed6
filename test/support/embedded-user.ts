// One process that uses an embedded server, for tests that start several and kill some:
//   node embedded-user.js <data folder>
// prints one line of JSON when it is open (or its error), closes when its standard input ends, and then says so.

import { once } from 'node:events'
import { codeOf, messageOf } from '../../engine/base/errors.ts'
import { openEmbedded } from '../../engine/store/embedded.ts'

try {
  const { close, ...server } = await openEmbedded({ dataDir: process.argv[2]! })
  console.log(JSON.stringify(server))
  process.stdin.resume()
  await once(process.stdin, 'end')
  await close()
  console.log(JSON.stringify({ closed: true }))
} catch (error) {
  console.log(JSON.stringify({ error: codeOf(error), message: messageOf(error) }))
  process.exitCode = 1
}
