// Plays the table of cuts as tests: one after the other on one stage, as long as they pass.

import { after, test } from 'node:test'
import type { WireFault, WireRequest } from '../support/wire-proxy.ts'
import { CUTS, type Cut, matcherOf } from './cuts.ts'
import { Stage, within } from './stage.ts'

const ROW_MS_MAX = 90_000
const SENT_MS_MAX = 20_000

/** Where a statement is lost. */
export type Where = 'before the server' | 'before the answer'

export function playCuts(where: Where): void {
  let stage: Stage | null = null
  after(async () => {
    await stage?.close()
  })
  for (const cut of CUTS)
    test(`${cut.statement}${cut.as ? ` ${cut.as}` : ''} is lost ${where}`, { timeout: ROW_MS_MAX }, async () => {
      stage ??= await Stage.open()
      try {
        await play(stage, cut, where)
      } catch (error) {
        await stage.close()
        stage = null
        throw error
      }
    })
  test(`the tables are as they should be after everything was lost ${where}`, async () => {
    await stage?.checkFacts()
  })
}

async function play(stage: Stage, cut: Cut, where: Where): Promise<void> {
  const { schema, wire } = stage
  const lost: WireFault[] = []
  // rows that need a schema of their own give it a longer name
  const longer = new RegExp(`"${schema}_[a-z]+"`, 'g')
  const isMeant = cut.where ?? matcherOf(cut.statement, schema)
  const match = (request: WireRequest) => isMeant({ ...request, text: request.text.replace(longer, `"${schema}"`) })
  stage.arm = (times = 1) => {
    const fault =
      where === 'before the server' ? wire.cutBeforeServer(match, times) : wire.cutBeforeAnswer(match, times)
    lost.push(fault)
    return fault
  }
  stage.hold = () => {
    const hold = wire.holdRequest(match)
    lost.push(hold)
    return hold
  }
  try {
    if (cut.engine === null) await stage.noEngine()
    else await stage.engine(cut.engine)
    await cut.play(stage)
    await within(SENT_MS_MAX, 'the statement was sent', lost.at(-1)!.happened)
    for (const fault of lost) fault.cancel()
    await stage.settled()
  } finally {
    for (const fault of lost) fault.cancel()
    await stage.sweep()
  }
}
