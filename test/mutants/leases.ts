// Mutations of what keeps two nodes from running the same jobs, and jobs from being stranded: fencing, stray leases, where
// claims begin.

import type { Mutant } from './mutant.ts'

export const LEASE_MUTANTS: readonly Mutant[] = [
  {
    name: 'fencing: no timer while a renewal hangs',
    file: 'engine/node.ts',
    find: `    let guard = watch()
    try {`,
    replace: `    let guard = { cancel() {} }
    try {`,
    test: 'node: a renewal that hangs',
  },
  {
    name: 'fencing: the node stops after others may take over',
    file: 'engine/node.ts',
    find: `const FENCE_MARGIN = 0.15`,
    replace: `const FENCE_MARGIN = -0.15`,
    test: 'node: a renewal that hangs',
  },
  {
    name: 'fencing: the same, seen by two processes',
    file: 'engine/node.ts',
    find: `const FENCE_MARGIN = 0.15`,
    replace: `const FENCE_MARGIN = -0.15`,
    test: 'node: ends its handler before another begins',
  },
  {
    name: 'fencing: a renewal counts from its answer',
    file: 'engine/node.ts',
    find: `      this.#renewedAtMs = began
      guard.cancel()`,
    replace: `      this.#renewedAtMs = clock.steadyMs()
      guard.cancel()`,
    test: 'node: counts from when it was sent',
  },
  {
    name: 'fencing: nobody watches while a rescue hangs',
    file: 'engine/node.ts',
    find: `      guard.cancel()
      guard = watch() // what follows`,
    replace: `      guard.cancel() // what follows`,
    test: 'node: what follows a renewal and hangs',
  },
  {
    name: 'fencing: others are judged at once after an outage',
    file: 'engine/node.ts',
    find: `if (began - this.#renewedAtMs > nodeLimitMs / 2) this.#steadySinceMs = began`,
    replace: ``,
    test: 'node: after an outage others have the time',
  },
  {
    name: 'fencing: a node that has just started judges others',
    file: 'engine/node.ts',
    find: `    this.#steadySinceMs = began
    this.#fenced = false`,
    replace: `    this.#steadySinceMs = Number.NEGATIVE_INFINITY
    this.#fenced = false`,
    test: 'node: just started judges nobody',
  },
  {
    name: 'goodbye: the row goes although something is leased to the node',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `  if exists (select from millrace.lease l where l.node_id = p_node) then return false; end if;`,
    replace: ``,
    test: 'strays: a goodbye leaves the row',
  },
  {
    name: 'goodbye: what is still leased to the node waits for its limit',
    file: 'engine/node.ts',
    find: `(await this.#needs.store.leave(this.#id)) || (await this.reopen(this.#id))`,
    replace: `await this.#needs.store.leave(this.#id)`,
    test: 'strays: gives those jobs back before it goes',
  },
  {
    name: 'strays: a claim that failed is not looked after',
    file: 'engine/strays.ts',
    find: `      this.#looksLeft = LOOKS_AFTER_FAILURE
      this.look()
      throw error`,
    replace: `      throw error`,
    test: 'strays: the answer of a claim is lost',
  },
  {
    name: 'strays: one look is enough',
    file: 'engine/strays.ts',
    find: `nowMs - sinceMs >= patienceMs`,
    replace: `true`,
    test: 'strays: a lease that stays unknown',
  },
  {
    name: 'strays: what arrived during a look is given back',
    file: 'engine/strays.ts',
    find: `      if (known.has(id)) continue`,
    replace: ``,
    test: 'strays: arrives between two looks',
  },
  {
    name: 'strays: a statement without an answer is not waited for',
    file: 'engine/strays.ts',
    find: `this.#isPendingSince(sinceMs) ? this.#answerMs : this.#confirmMs`,
    replace: `this.#confirmMs`,
    test: 'strays: has three seconds',
  },
  {
    name: 'strays: an answer that comes too late is taken in',
    file: 'engine/strays.ts',
    find: `      for (const id of lost) this.#revoked.add(id)`,
    replace: ``,
    test: 'strays: is not taken in',
  },
  {
    name: 'strays: the jobs are charged',
    file: 'engine/strays.ts',
    find: `      if (lost.length > 0) await this.#reopen(nodeId, lost, false)`,
    replace: `      if (lost.length > 0) await this.#reopen(nodeId, lost, true)`,
    test: 'strays: the answer of a claim is lost',
  },
  {
    name: 'strays: jobs made ahead are not looked after',
    file: 'engine/occurrences/early.ts',
    find: `await taking(() => store.prepare(batch.nodeId, items))`,
    replace: `await store.prepare(batch.nodeId, items)`,
    test: 'strays: occurrences made ahead',
  },
  {
    name: 'strays: jobs claimed ahead are not looked after',
    file: 'engine/claimer/claimer.ts',
    find: `await taking(() => store.claimAhead(request, this.#leadMs, fromMs))`,
    replace: `await store.claimAhead(request, this.#leadMs, fromMs)`,
    test: 'strays: a claim ahead of time is lost',
  },
  {
    name: 'strays: a cancel that was asked for is forgotten',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `  perform millrace.end_wish(k.job_id, k.reason) from millrace.cancelling k where k.lease_id = any (p_leases);`,
    replace: ``,
    test: 'strays: a cancel of a job whose claim was lost',
  },
  {
    name: 'positions: a single slow answer counts',
    file: 'engine/claimer/positions.ts',
    find: `this.#fullTookMs = Math.min(tookMs, this.#lastFullTookMs)`,
    replace: `this.#fullTookMs = tookMs`,
    test: 'claimer: one claim that stalls',
  },
  {
    name: 'positions: the front is passed over for as long as a claim is dear',
    file: 'engine/claimer/positions.ts',
    find: `nowMs - this.#fullAtMs >= Math.min(againMs, FULL_EVERY_MAX_MS)`,
    replace: `nowMs - this.#fullAtMs >= againMs`,
    test: 'claimer: no longer than two seconds',
  },
  {
    name: 'positions: remembered after a failure',
    file: 'engine/claimer/claimer.ts',
    find: `    this.#fresh = true
    this.#forget()`,
    replace: `    this.#fresh = true`,
    test: 'claimer: after a failure',
  },
  {
    name: 'positions: remembered when jobs have come back',
    file: 'engine/claimer/claimer.ts',
    find: `  returned(): void {
    this.#forget()`,
    replace: `  returned(): void {`,
    test: 'claimer: after a failure',
  },
  {
    name: 'promotions: the front is passed over for as long as one is dear',
    file: 'engine/claimer/due-floor.ts',
    find: `Math.min(Math.max(FULL_EVERY_MS, this.#tookMs * FULL_SHARE), FULL_EVERY_MAX_MS)`,
    replace: `Math.max(FULL_EVERY_MS, this.#tookMs * FULL_SHARE)`,
    test: 'due-floor: within two seconds',
  },
  {
    name: 'running: a row that a long flush wrote is forgotten',
    file: 'engine/store/store.ts',
    find: `    for (const { leaseId } of flush.running) this.#visible.add(leaseId)`,
    replace: ``,
    test: 'strays: the visible row of a long job',
  },
  {
    name: 'running: a look forgets the rows of leases that are held',
    file: 'engine/store/store.ts',
    find: `if (!held.has(leaseId)) this.#visible.delete(leaseId)`,
    replace: `this.#visible.delete(leaseId)`,
    test: 'strays: the visible row of a long job',
  },
  {
    name: 'claim: a round that took something is the last, whatever stands behind spent tickets',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `v_cut is not null or v_seen < v_before or not v_passed`,
    replace: `v_cut is not null or v_room < v_before or not v_passed`,
    test: 'model: a claim takes all that it may',
  },
  {
    name: 'view: what expired and was requeued stays expired while it is held',
    file: 'engine/store/migrations/0003_views.sql',
    find: `a.outcome not in ('c', 'x'))`,
    replace: `a.outcome not in ('c', 'x', 'e'))`,
    test: 'expiry: held again after it had expired',
  },
  {
    name: 'overlap: what expired and was requeued counts as finished while it is held',
    file: 'engine/store/migrations/0004_schedules.sql',
    find: `a.outcome in ('c', 'x')) then return false`,
    replace: `a.outcome in ('c', 'x', 'e')) then return false`,
    test: 'expiry: held again after it had expired',
  },
]
