// Brings work from PostgreSQL to the scheduler: makes due jobs ready, and claims as many as the scheduler wants. When the
// scheduler has room, jobs that become due within a second are claimed ahead, and wait in its memory to the millisecond. It is
// woken by room in the scheduler, by a notification, by the next due time, and by a poll whose interval grows while
// nothing comes; polling is the truth, everything else only makes it earlier.

import type { Clock } from '../base/clock.ts'
import { EngineError } from '../base/errors.ts'
import type { Log } from '../base/log.ts'
import { Recurring } from '../base/recurring.ts'
import { backoffMs } from '../store/connection.ts'
import type { ClaimedChunk, ClaimRequest, Position, Promoted } from '../store/types.ts'
import { DueFloor } from './due-floor.ts'
import { ClaimPositions } from './positions.ts'

/** Jobs that one promotion moves: bounds its transaction. */
const PROMOTE_JOBS = 10_000
/** So long before they are due jobs are claimed, when there is room for them. */
const AHEAD_MS = 1_000
/** What is due that soon is left to come due: others may be at it, and asking for each one would cost more than it gives. */
const AHEAD_EVERY_MS = 250
/** How often the list of queues is read again, in ms, besides when an unknown one is heard of. */
const QUEUES_EVERY_MS = 5_000

export interface ClaimerNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly store: {
    /** The number that was dealt last to what is ready. */
    lastSeq(): Promise<number>
    claim(request: ClaimRequest, after: readonly Position[] | null): Promise<ClaimedChunk[]>
    claimAhead(
      request: Omit<ClaimRequest, 'group'>,
      withinMs: number,
      fromMs: number | null,
    ): Promise<{ chunks: ClaimedChunk[]; nextInMs: number | null }>
    promote(limit: number, fromMs: number | null): Promise<Promoted>
    allQueues(): Promise<{ id: number; name: string; paused: boolean }[]>
    queueIds(names: readonly string[]): Promise<number[]>
    taskIds(names: readonly string[]): Promise<number[]>
    /** What PostgreSQL took for the last claim or promotion, in ms, without connecting. */
    readonly claimAnsweredInMs: number
  }
  /** Runs a statement that takes jobs: when its answer is lost, the node has to find out what it took. */
  taking<T>(take: () => Promise<T>): Promise<T>
  nodeId(): number
  /** Names of the tasks that run here. */
  taskNames(): readonly string[]
  /** How many more jobs of each of these queues this node may hold. */
  seats(limits: Readonly<Record<string, number>>): ReadonlyMap<string, number>
  /** How many jobs the scheduler would take now. */
  wanted(): number
  /** Claimed as node `nodeId`, which may be over by now. */
  arrive(chunks: ClaimedChunk[], nodeId: number): void
  /** The row of this node is gone: somebody declared it dead. */
  onFenced(nodeId: number): void
}

export interface ClaimerSettings {
  readonly queues: readonly string[] | null
  readonly queueConcurrency: Readonly<Record<string, number>> | null
  readonly onlyGroup: string | null
  readonly claimUnknown: boolean
  readonly claimJobsMax: number
  readonly claimBytesMax: number
  readonly pollMs: number
  readonly pollMaxMs: number
  readonly preScheduleMs: number
}

export class Claimer {
  readonly #needs: ClaimerNeeds
  readonly #settings: ClaimerSettings
  #state: 'new' | 'running' | 'quiet' = 'new'
  #loop: Promise<void> = Promise.resolve()
  #ring: (() => void) | null = null
  #rung = false
  #queueIds: readonly number[] = []
  #queuesAtMs = Number.NEGATIVE_INFINITY
  #taskIds: readonly number[] | null = null
  /** Names of the queues of which this node may hold so many jobs only. */
  #limited: ReadonlyMap<number, string> = new Map()
  /** Of a limited queue there may be more than had a seat. */
  #unseated = false
  /** Steady time of the next due job, as far as we know. */
  #dueAtMs = 0
  /** Steady time from which on it is claimed ahead. */
  #aheadAtMs = Number.POSITIVE_INFINITY
  /** Steady time before which nobody asks for what is due soon again. */
  #aheadAgainMs = 0
  #emptyPolls = 0
  #pollAtMs = 0
  /** Something may be ready that has not been asked for yet. */
  #fresh = true
  readonly #failing: Recurring
  readonly #positions = new ClaimPositions()
  readonly #dueFloor = new DueFloor()
  #claimingAs = 0
  /** Claims done, and those that came back empty; for the metrics. */
  readonly counts = { claims: 0, behind: 0, empty: 0, jobs: 0, ahead: 0, promoted: 0, errors: 0 }

  constructor(needs: ClaimerNeeds, settings: ClaimerSettings) {
    this.#needs = needs
    this.#failing = new Recurring(needs.clock, needs.log, 'claim.failed')
    this.#settings = settings
  }

  start(): void {
    if (this.#state !== 'new') return
    this.#state = 'running'
    this.#loop = this.#run()
  }

  quiet(): void {
    this.#state = 'quiet'
    this.#wake()
  }

  /** Resolves when the claim in flight has arrived. */
  async stop(): Promise<void> {
    this.quiet()
    await this.#loop
  }

  /** The scheduler has room again. */
  room(): void {
    this.#wake()
  }

  /** A job of a limited queue has left. */
  seat(): void {
    if (!this.#unseated) return
    this.#unseated = false
    this.#fresh = true
    this.#wake()
  }

  /** The settings have changed: everything is looked at anew. */
  changed(): void {
    this.#queuesAtMs = Number.NEGATIVE_INFINITY
    this.#pollAtMs = 0
    this.ready(null)
  }

  /** Work became ready in these queues (null: somewhere). */
  ready(queueIds: readonly number[] | null): void {
    const isNews = queueIds === null ? this.#queueIds.length === 0 : queueIds.some((id) => !this.#queueIds.includes(id))
    if (isNews) this.#queuesAtMs = Number.NEGATIVE_INFINITY
    this.#fresh = true
    this.#emptyPolls = 0
    this.#wake()
  }

  /** Jobs have come back to where they were before they were claimed: of a dead node, or of a claim that was lost. */
  returned(): void {
    this.#forget()
    this.ready(null)
  }

  /** A job becomes due in so many ms. */
  dueIn(ms: number): void {
    const at = this.#needs.clock.steadyMs() + ms
    if (at < this.#dueAtMs) {
      this.#dueIs(at)
      this.#wake()
    }
  }

  #dueIs(atMs: number): void {
    this.#dueAtMs = Math.min(this.#dueAtMs, atMs)
    this.#aheadAtMs = Math.min(this.#aheadAtMs, Math.max(atMs - this.#leadMs, this.#aheadAgainMs))
  }

  /** 0: nothing is claimed ahead. Which job of a group is next is decided when its turn comes. */
  get #leadMs(): number {
    return this.#settings.onlyGroup === null ? Math.min(AHEAD_MS, this.#settings.preScheduleMs) : 0
  }

  #wake(): void {
    this.#rung = true
    this.#ring?.()
  }

  async #run(): Promise<void> {
    while (this.#state === 'running') {
      this.#rung = false
      let waitMs: number
      try {
        waitMs = await this.#pass()
        this.#failing.succeeded()
      } catch (error) {
        waitMs = this.#afterFailure(error)
      }
      if (this.#state === 'running' && !this.#rung && waitMs > 0) await this.#sleep(waitMs)
    }
  }

  /** One look at the database; answers how long to wait before the next. */
  async #pass(): Promise<number> {
    const { clock } = this.#needs
    const now = clock.steadyMs()
    const polls = now >= this.#pollAtMs
    const knowsNone = polls && this.#queueIds.length === 0
    const isOld = knowsNone || now - this.#queuesAtMs > QUEUES_EVERY_MS
    // what has just become ready in a queue that is known does not wait until the list is read again
    const claimsFirst = isOld && this.#fresh && this.#queueIds.length > 0 && Number.isFinite(this.#queuesAtMs)
    if (isOld && !claimsFirst) await this.#learnQueues(now)
    const wanted = Math.min(this.#needs.wanted(), this.#settings.claimJobsMax)
    if (wanted > 0 && (this.#fresh || polls) && this.#queueIds.length > 0) await this.#claim(wanted)
    if (claimsFirst) await this.#learnQueues(now)
    if (polls || clock.steadyMs() >= this.#dueAtMs) await this.#promote()
    if (clock.steadyMs() >= this.#aheadAtMs) await this.#claimAhead()
    if (polls) this.#planPoll()
    // without queues there was no claim that could have had an answer: asking on would never let anybody else run
    if (this.#fresh && this.#queueIds.length > 0 && this.#needs.wanted() > 0) return 0
    return Math.max(0, Math.min(this.#pollAtMs, this.#dueAtMs, this.#aheadAtMs) - clock.steadyMs())
  }

  async #claim(wanted: number): Promise<void> {
    this.#fresh = false // a notification that comes from here on asks for another claim
    const { clock } = this.#needs
    if (this.#positions.wantsMark(clock.steadyMs())) {
      const seq = await this.#needs.store.lastSeq()
      this.#positions.mark(seq, clock.steadyMs())
    }
    // one who takes any task, or one group alone, asks in other ways
    const from =
      this.#taskIds === null || this.#settings.onlyGroup !== null ? null : this.#positions.next(clock.steadyMs())
    const chunks: ClaimedChunk[] = []
    const { jobs, queueIds, tookMs } = await this.#claimInTurn(wanted, from, chunks)
    this.#positions.claimed(from, { queueIds, chunks, jobs, mayLeave: this.#fresh, tookMs, nowMs: clock.steadyMs() })
  }

  async #claimInTurn(
    wanted: number,
    from: readonly Position[] | null,
    all: ClaimedChunk[],
  ): Promise<{ jobs: number; queueIds: number[]; tookMs: number }> {
    let jobs = 0
    let tookMs = 0
    const asked: number[] = []
    for (const { queueIds, seats } of this.#turns()) {
      const left = wanted - jobs
      if (left <= 0) {
        this.#fresh = true
        break
      }
      const taken = seats === 0 ? 0 : await this.#claimFrom(queueIds, Math.min(left, seats), from, all)
      if (seats > 0) {
        asked.push(...queueIds)
        tookMs += this.#needs.store.claimAnsweredInMs
      }
      if (seats < left && taken >= seats) this.#unseated = true
      jobs += taken
    }
    return { jobs, queueIds: asked, tookMs }
  }

  async #claimFrom(
    queueIds: readonly number[],
    wanted: number,
    after: readonly Position[] | null,
    all: ClaimedChunk[],
  ): Promise<number> {
    const nodeId = this.#needs.nodeId()
    this.#claimingAs = nodeId
    const request = {
      nodeId,
      queueIds,
      taskIds: this.#taskIds,
      jobsMax: wanted,
      bytesMax: this.#settings.claimBytesMax,
      group: this.#settings.onlyGroup,
    }
    const { store, taking } = this.#needs
    const chunks = await taking(() => store.claim(request, after))
    let jobs = 0
    for (const chunk of chunks) {
      jobs += chunk.count
      all.push(chunk)
    }
    this.counts.claims++
    if (after !== null) this.counts.behind++
    this.counts.jobs += jobs
    if (jobs === 0) {
      this.counts.empty++
      return 0
    }
    this.#emptyPolls = 0
    // less than was asked for: nothing is left, unless the bytes were the limit
    if (jobs >= wanted || bytesOf(chunks) * 2 >= this.#settings.claimBytesMax) this.#fresh = true
    this.#needs.arrive(chunks, nodeId)
    return jobs
  }

  /** Which queues are claimed from together, in their order: a limited one by itself, as it has seats of its own. */
  #turns(): { queueIds: number[]; seats: number }[] {
    const inTurn = this.#inTurn()
    const limits = this.#settings.queueConcurrency
    if (limits === null || this.#limited.size === 0) return [{ queueIds: [...inTurn], seats: Number.POSITIVE_INFINITY }]
    const seats = this.#needs.seats(limits)
    const turns: { queueIds: number[]; seats: number }[] = []
    let open: number[] | null = null
    for (const id of inTurn) {
      const name = this.#limited.get(id)
      if (name !== undefined) {
        turns.push({ queueIds: [id], seats: Math.max(0, seats.get(name) ?? 0) })
        open = null
      } else if (open !== null) open.push(id)
      else {
        open = [id]
        turns.push({ queueIds: open, seats: Number.POSITIVE_INFINITY })
      }
    }
    return turns
  }

  /** Takes what becomes due soon; what there is no room for becomes due like everything. */
  async #claimAhead(): Promise<void> {
    const { clock, store, taking } = this.#needs
    this.#aheadAtMs = Number.POSITIVE_INFINITY
    const wanted = Math.min(this.#needs.wanted(), this.#settings.claimJobsMax)
    if (this.#leadMs === 0 || wanted === 0 || this.#queueIds.length === 0) return
    this.#aheadAgainMs = clock.steadyMs() + AHEAD_EVERY_MS
    this.#dueAtMs = Number.POSITIVE_INFINITY // what is taken now does not become due there; what is left is told
    const nodeId = this.#needs.nodeId()
    this.#claimingAs = nodeId
    const request = {
      nodeId,
      queueIds: this.#queueIds.filter((id) => !this.#limited.has(id)), // those have seats, not time
      taskIds: this.#taskIds,
      jobsMax: wanted,
      bytesMax: this.#settings.claimBytesMax,
    }
    const fromMs = this.#dueFloor.next(clock.steadyMs())
    const { chunks, nextInMs } = await taking(() => store.claimAhead(request, this.#leadMs, fromMs))
    this.counts.claims++
    for (const { count } of chunks) this.counts.ahead += count
    if (nextInMs !== null) this.#dueIs(clock.steadyMs() + Math.max(0, nextInMs))
    if (chunks.length > 0) this.#needs.arrive(chunks, nodeId)
  }

  /** Queues that the user listed are asked in his order; otherwise each begins in turn, so that none starves another. */
  #inTurn(): readonly number[] {
    const ids = this.#queueIds
    if (this.#settings.queues !== null || ids.length < 2) return ids
    const first = this.counts.claims % ids.length
    return [...ids.slice(first), ...ids.slice(0, first)]
  }

  async #promote(): Promise<void> {
    const { clock, log, store } = this.#needs
    this.#dueAtMs = Number.POSITIVE_INFINITY
    this.#aheadAtMs = Number.POSITIVE_INFINITY
    const from = this.#dueFloor.next(clock.steadyMs())
    const { moved, queues, nextInMs, nowMs: atWallMs, aside = 0 } = await store.promote(PROMOTE_JOBS, from)
    if (aside > 0) log.error({ jobs: aside, code: 'ROW_INVALID' }, 'rows.set_aside')
    const tookMs = store.claimAnsweredInMs
    // its clock was read at its end
    this.#dueFloor.promoted(from, {
      moved,
      mayLeave: moved >= PROMOTE_JOBS,
      atWallMs: atWallMs - tookMs,
      tookMs,
      nowMs: clock.steadyMs(),
    })
    this.counts.promoted += moved
    if (moved > 0) this.ready(queues)
    if (nextInMs !== null) this.#dueIs(clock.steadyMs() + Math.max(0, nextInMs))
  }

  #planPoll(): void {
    const { pollMs, pollMaxMs } = this.#settings
    const interval = Math.min(pollMaxMs, pollMs * 2 ** Math.min(this.#emptyPolls++, 20))
    // spread, so that many nodes do not ask at the same moment
    this.#pollAtMs = this.#needs.clock.steadyMs() + interval * (0.8 + Math.random() * 0.4)
  }

  async #learnQueues(now: number): Promise<void> {
    const { store } = this.#needs
    const { queues, claimUnknown, queueConcurrency } = this.#settings
    this.#queuesAtMs = now // first: what is heard of meanwhile asks for another look
    // the user's order is the order in which queues are asked
    this.#queueIds = queues ? await store.queueIds(queues) : (await store.allQueues()).map((queue) => queue.id)
    const taskIds = claimUnknown ? null : await store.taskIds(this.#needs.taskNames())
    // what was passed over so far may be for us now
    if (taskIds?.join() !== this.#taskIds?.join()) this.#forget()
    this.#taskIds = taskIds
    const limited = Object.keys(queueConcurrency ?? {})
    const ids = limited.length === 0 ? [] : await store.queueIds(limited)
    this.#limited = new Map(ids.map((id, at) => [id, limited[at]!]))
  }

  /** Everything is looked for from the beginning again. */
  #forget(): void {
    this.#positions.clear()
    this.#dueFloor.clear()
  }

  #afterFailure(error: unknown): number {
    this.counts.errors++
    this.#fresh = true
    this.#forget()
    if (error instanceof EngineError && error.code === 'NODE_FENCED') {
      this.#needs.onFenced(this.#claimingAs)
      return backoffMs(3)
    }
    this.#failing.failed(error)
    this.#dueAtMs = Math.min(this.#dueAtMs, this.#needs.clock.steadyMs() + 1_000)
    return backoffMs(this.#failing.failures)
  }

  #sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = this.#needs.clock.after(ms, () => this.#ring?.())
      this.#ring = () => {
        this.#ring = null
        timer.cancel()
        resolve()
      }
    })
  }
}

/** As PostgreSQL counts them. */
function bytesOf(chunks: readonly ClaimedChunk[]): number {
  return chunks.reduce((sum, { payloads }) => sum + Buffer.byteLength(payloads), 0)
}
