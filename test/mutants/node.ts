// A node stops before others may take over; what a node does not know it holds goes back; what a dead one held runs elsewhere.

import type { Mutant } from './mutant.ts'

export const NODE_MUTANTS: readonly Mutant[] = [
  {
    name: 'node: a renewal counts from its answer',
    file: 'engine/node.ts',
    find: `this.#renewedAtMs = began
      guard.cancel()`,
    replace: `this.#renewedAtMs = clock.steadyMs()
      guard.cancel()`,
    test: 'node: a renewal counts from when it was sent',
  },
  {
    name: 'node: others are judged at once after an outage',
    file: 'engine/node.ts',
    find: `began - this.#steadySinceMs >= nodeLimitMs && (await`,
    replace: `(await`,
    test: 'node: after an outage others have',
  },
  {
    name: 'node: what follows a renewal may take for ever',
    file: 'engine/node.ts',
    find: `      guard = watch() // what follows may take its time, measured from this renewal
`,
    replace: ``,
    test: 'node: what follows a renewal and hangs',
  },
  {
    name: 'node: failures beyond the limit do not stop it',
    file: 'engine/node.ts',
    find: `if (clock.steadyMs() >= this.#fenceAtMs()) this.#fence('PostgreSQL did not answer for too long')`,
    replace: ``,
    test: 'node: renewals that fail at once',
  },
  {
    name: 'node: a pause after a failure outlasts the limit',
    file: 'engine/node.ts',
    find: `await clock.sleep(Math.min(pauseMs, leftMs), this.#stop.signal)`,
    replace: `await clock.sleep(pauseMs, this.#stop.signal)`,
    test: 'node: with long pauses between them',
  },
  {
    name: 'node: it goes on after others declared it dead',
    file: 'engine/node.ts',
    find: `        this.#fence('another node declared this one dead')
`,
    replace: ``,
    test: 'node: others declared it dead stops at once',
  },
  {
    name: 'fence: what was held goes on',
    file: 'engine/scheduler/scheduler.ts',
    find: `    this.#jobs.drop()
    this.#runs.clear()
`,
    replace: `    this.#runs.clear()
`,
    test: 'scheduler: fence drops everything',
  },
  {
    name: 'goodbye: the row of a node goes although something is leased to it',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `if exists (select from millrace.lease l where l.node_id = p_node) then return false; end if;`,
    replace: ``,
    test: 'strays: a goodbye leaves the row',
  },
  {
    name: 'strays: a lease is given back at first sight',
    file: 'engine/strays.ts',
    find: `if (nowMs - sinceMs >= patienceMs) confirmed.push(id)`,
    replace: `confirmed.push(id)`,
    test: 'strays: a lease that stays unknown',
  },
  {
    name: 'strays: what arrived while it was asked counts as unknown',
    file: 'engine/strays.ts',
    find: `const known = this.#known() // some have arrived while we asked`,
    replace: `const known = new Set<number>()`,
    test: 'strays: what arrives between two looks',
  },
  {
    name: 'strays: a late answer is taken in',
    file: 'engine/strays.ts',
    find: `for (const id of lost) this.#revoked.add(id)`,
    replace: ``,
    test: 'strays: while the statement that may bring it',
  },
  {
    name: 'strays: a failed statement is not looked after',
    file: 'engine/strays.ts',
    find: `      this.#looksLeft = LOOKS_AFTER_FAILURE
      this.look()
`,
    replace: ``,
    test: 'strays: a statement that failed is looked after',
  },
  {
    name: 'strays: who lost its jobs is not charged',
    file: 'engine/strays.ts',
    find: `await this.#reopen(nodeId, held, true)`,
    replace: `await this.#reopen(nodeId, held, false)`,
    test: 'strays: a lease whose jobs were here',
  },
  {
    name: 'strays: what another node holds is given back',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where l.id = any (p_leases) and l.node_id = p_node order by l.id for update skip locked) x;`,
    replace: `where l.id = any (p_leases) order by l.id for update skip locked) x;`,
    test: 'strays: of the leases of a node those',
  },
  {
    name: 'strays: what the node holds is given back too',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where l.id = any (p_leases) and l.node_id = p_node order by l.id for update skip locked) x;`,
    replace: `where l.node_id = p_node order by l.id for update skip locked) x;`,
    test: 'strays: of the leases of a node those',
  },
  {
    name: 'rescue: what its holder had ended runs again',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `where l.id = any (p_leases) and not exists (select from millrace.attempt a where a.job_id = j.id and a.run >= c.run)`,
    replace: `where l.id = any (p_leases)`,
    test: 'complete: a rescuer passes by a lease',
  },
  {
    name: 'rescue: a job may take down any number of nodes',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `c.rescues + 1 >= p_rescues_max`,
    replace: `false`,
    test: 'store: only a job that had begun is charged',
  },
  {
    name: 'rescue: a node that lives charges what it held',
    file: 'engine/store/migrations/0002_functions.sql',
    find: `min(s.rescues + (p_blames and s.begun)::int)`,
    replace: `min(s.rescues + s.begun::int)`,
    test: 'store: a node that lives on reopens',
  },
  {
    name: 'suspects: they run before their note is written',
    file: 'engine/scheduler/held-jobs.ts',
    find: `if (holding.isSuspect) this.suspects.add({ holding, from, to, sinceSteadyMs: steadyMs })
    else this.pending`,
    replace: `this.pending`,
    test: 'scheduler: a job for whom another dead holder',
  },
]
