#!/usr/bin/env node
// The launcher of `node engine ...` and of the command `millrace`. It starts what `npm run build` made, or says how to
// make it. Plain JavaScript, because it runs before anything is built.

import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const main = new URL('../dist/engine/main.js', import.meta.url)
const [major, minor] = process.versions.node.split('.').map(Number)

if (major < 20 || (major === 20 && minor < 19)) {
  process.stderr.write(`millrace needs Node 20.19 or newer; this is ${process.version}.\n`)
  process.exitCode = 78
} else if (!existsSync(fileURLToPath(main))) {
  process.stderr.write(
    'millrace is not built yet. In its folder, run:\n\n  npm ci          installs and builds\n  npm run build   builds again after a change\n',
  )
  process.exitCode = 78
} else {
  await import(main.href)
}
