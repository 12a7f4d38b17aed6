// A process of its own that fills an outbox: `write` goes on until it is killed; `fill` writes ever larger flushes until
// the outbox says no, and then sends what is in it. Each number that it prints is a flush that was confirmed.

import { writeSync } from 'node:fs'
import { systemClock } from '../../engine/base/clock.ts'
import { EngineError } from '../../engine/base/errors.ts'
import { silentLog } from '../../engine/base/log.ts'
import { Outbox } from '../../engine/syncer/outbox.ts'
import { OutcomePage } from '../../engine/syncer/outcome-page.ts'
import { chunkOf } from './flush-model.ts'

const [, , role, folder] = process.argv
const outbox = new Outbox(
  { folder: folder! },
  () => ({ schema: 'millrace', storeId: 'store', nodeUid: 'uid' }),
  systemClock,
  silentLog,
)
const say = (line: string) => writeSync(1, `${line}\n`)
for (let no = 1; no <= 10_000; no++) {
  const text = Buffer.from(`"${'x'.repeat(role === 'fill' ? no * 50_000 : 30_000)}"`)
  const page = new OutcomePage()
  page.completed(5, chunkOf(1), no, 0, 1, 2, text, 0, text.length)
  try {
    await outbox.put(5, page.toFlush(no))
  } catch (error) {
    if (error instanceof EngineError) say(`failed ${error.code} ${String(error.details.cause)}`)
    break
  }
  say(String(no))
}
await outbox.replay(async (record) => say(`sent ${record.flush.no}`))
