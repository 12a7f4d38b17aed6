// Rules between settings: what each alone may be stands in its row, what they must be to each other stands here.

import { grouped } from './fields.ts'
import type { SettingName, Settings } from './settings.ts'

interface Rule {
  /** The setting that is named as wrong first, then those that it is measured against. */
  readonly settings: readonly [SettingName, ...SettingName[]]
  /** Completes "<first setting> must be ...". */
  readonly rule: string
  readonly holds: (values: Settings) => boolean
}

export const RULES: readonly Rule[] = [
  {
    settings: ['indexRebuildMs', 'lookaheadMs'],
    rule: 'less than lookaheadMs, so that the index never runs out before it is rebuilt',
    holds: (v) => v.indexRebuildMs < v.lookaheadMs,
  },
  {
    settings: ['preScheduleMs', 'lookaheadMs'],
    rule: 'at most lookaheadMs, because what the index does not reach cannot be taken ahead',
    holds: (v) => v.preScheduleMs <= v.lookaheadMs,
  },
  {
    settings: ['nodeHeartbeatMs', 'nodeLimitMs'],
    rule: 'at most a third of nodeLimitMs, so that one lost beat does not cost the node its jobs',
    holds: (v) => v.nodeHeartbeatMs * 3 <= v.nodeLimitMs,
  },
  {
    settings: ['pollMs', 'pollMaxMs'],
    rule: 'at most pollMaxMs',
    holds: (v) => v.pollMs <= v.pollMaxMs,
  },
  {
    settings: ['claimJobsMax', 'heldMax'],
    rule: 'at most heldMax, because what is claimed is held',
    holds: (v) => v.claimJobsMax <= v.heldMax,
  },
  {
    settings: ['flushRows', 'updatesBufferedMax'],
    rule: 'at most updatesBufferedMax, or a flush would never be asked for',
    holds: (v) => v.flushRows <= v.updatesBufferedMax,
  },
  {
    settings: ['directDatabase', 'database'],
    rule: 'set together with database, since both name the same one',
    holds: (v) => v.directDatabase === null || v.database !== null,
  },
]

/** A sentence per broken rule. */
export function brokenRules(values: Settings): { setting: SettingName; rule: string; message: string }[] {
  return RULES.filter((row) => !row.holds(values)).map(({ settings, rule }) => {
    const [first, ...others] = settings
    const given = others.map((name) => `${name} is ${shown(values[name])}`).join(', ')
    return { setting: first, rule, message: `${first} must be ${rule}; it is ${shown(values[first])}, ${given}` }
  })
}

function shown(value: unknown): string {
  return typeof value === 'number' ? grouped(value) : value === null ? 'not set' : 'set'
}
