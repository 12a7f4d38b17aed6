// This process as a node: registers a row, renews it, and looks for others that fell silent. A node that cannot renew
// fences itself before others may take over its jobs. A restart on the same machine reopens at once what its predecessor
// had held, because it can see that the process is gone.

import { randomUUID } from 'node:crypto'
import { readFileSync, readlinkSync } from 'node:fs'
import { hostname } from 'node:os'
import { kill, pid } from 'node:process'
import type { Clock } from './base/clock.ts'
import { messageOf } from './base/errors.ts'
import type { Log } from './base/log.ts'
import { Recurring } from './base/recurring.ts'
import { backoffMs } from './store/connection.ts'
import type { NodeFacts } from './store/store.ts'

/** Part of the limit that is kept as distance between "we stop" and "others may take over". */
const FENCE_MARGIN = 0.15
/** Beats in a row that a silent node is left alone because what it left on disk could not be sent. */
const UNDELIVERED_MAX = 3

export interface NodeNeeds {
  readonly clock: Clock
  readonly log: Log
  readonly store: {
    join(facts: NodeFacts): Promise<number>
    beat(
      nodeId: number,
      state: 'live' | 'quiet',
      threads: number,
    ): Promise<{ alive: boolean; silent: number[]; cancels: boolean; overdue: boolean; expiresInMs: number | null }>
    rescue(
      nodeId: number,
      rescuesMax: number,
      sure: boolean,
      blames: boolean,
    ): Promise<{ reopened: number; buried: number; gone: boolean; aside?: number } | null>
    leave(nodeId: number): Promise<boolean>
    nodesOf(machine: string): Promise<{ id: number; pid: number }[]>
  }
  /** Threads that it is to have; said with every beat. */
  threads(): number
  /**
   * Sends what nodes that share our data folder left there when PostgreSQL was away: it counts until their leases are
   * reopened. False: not all of it is sent yet.
   */
  deliver(): Promise<boolean>
  /** We were declared dead, or could not renew in time: everything held must be dropped, unreported. */
  onFenced(reason: string): void
  /** Somebody asks this node to end a job. */
  onCancels(): void
  /** Jobs expire in so many ms; 0: there are some whose time has passed. */
  onOverdue(inMs: number): void
  /** This node is alive, says PostgreSQL: a good moment to compare what it holds. */
  onBeat(): void
  /** Jobs of a dead node are ready again. */
  onRescued(count: number): void
}

export interface NodeSettings {
  readonly nodeHeartbeatMs: number
  readonly nodeLimitMs: number
  readonly rescuesMax: number
  readonly version: string
}

export class Node {
  readonly #needs: NodeNeeds
  readonly #settings: NodeSettings
  #id = 0
  #uid = ''
  #state: 'live' | 'quiet' = 'live'
  #loop: Promise<void> | null = null
  readonly #stop = new AbortController()
  /** Steady time at which the last successful renewal began: the answer may have come late. */
  #renewedAtMs = 0
  /** Since when renewals have succeeded without a gap: only then may we judge others. */
  #steadySinceMs = 0
  #fenced = false
  #undelivered = 0
  /** What this process was before: it has not died of what that held. */
  readonly #former = new Set<number>()
  readonly #failing: Recurring
  readonly counts = { beats: 0, missed: 0, fenced: 0, rescuedNodes: 0, rescuedJobs: 0, poisoned: 0 }

  constructor(needs: NodeNeeds, settings: NodeSettings) {
    this.#needs = needs
    this.#failing = new Recurring(needs.clock, needs.log, 'node.rescue_failed')
    this.#settings = settings
  }

  get id(): number {
    return this.#id
  }

  /** Names this incarnation for ever, unlike the id, which means nothing in another database. */
  get uid(): string {
    return this.#uid
  }

  /** True while this node may hold jobs. */
  get isMember(): boolean {
    return this.#id !== 0 && !this.#fenced
  }

  /** Sends what was left on disk, reopens what predecessors on this machine held, registers, and begins to renew. */
  async start(): Promise<void> {
    const gone = (await this.#needs.store.nodesOf(machineId())).filter((node) => !isAlive(node.pid))
    // who is gone has left all that it will: who goes from here on may have left more than we sent, and is silent later
    if (await this.#needs.deliver()) for (const node of gone) await this.#rescue(node.id, true, true)
    await this.join()
    this.#loop = this.#run()
  }

  /** Registers a fresh row; also after having been fenced. */
  async join(): Promise<void> {
    const { clock, store, threads } = this.#needs
    const { nodeLimitMs, version } = this.#settings
    const began = clock.steadyMs()
    const uid = randomUUID()
    if (this.#id !== 0) this.#former.add(this.#id)
    this.#id = await store.join({
      uid,
      host: hostname(),
      machine: machineId(),
      pid,
      version,
      threads: threads(),
      limitMs: nodeLimitMs,
    })
    this.#uid = uid
    this.#renewedAtMs = began
    this.#steadySinceMs = began
    this.#fenced = false
  }

  /**
   * Opens again what this process held as the node that it was. It has not died of it, so no job is charged. False: somebody
   * holds it, or a part of it, just now.
   */
  async reopen(nodeId: number): Promise<boolean> {
    if (await this.#rescue(nodeId, true, false)) return true
    return !(await this.#needs.store.nodesOf(machineId())).some(({ id }) => id === nodeId)
  }

  quiet(): void {
    this.#state = 'quiet'
  }

  /** Stops renewing. `leave` removes the row when nothing is leased to it any more. */
  async stop(leave: boolean): Promise<void> {
    this.#stop.abort()
    await this.#loop
    if (!leave || !this.isMember) return
    const gone = await this.#leave().catch(() => false)
    if (!gone) this.#needs.log.warn({ node: this.#id }, 'node.left_with_leases')
  }

  /** What is still leased to this node is of no use to it any more: it goes back, and charges no job. */
  async #leave(): Promise<boolean> {
    return (await this.#needs.store.leave(this.#id)) || (await this.reopen(this.#id))
  }

  async #run(): Promise<void> {
    const { clock } = this.#needs
    let failures = 0
    while (!this.#stop.signal.aborted) {
      const { nodeHeartbeatMs } = this.#settings
      const pauseMs = failures === 0 ? nodeHeartbeatMs : Math.min(nodeHeartbeatMs, backoffMs(failures))
      // a pause must not outlast the time that is left: the last try fences, and not one pause later
      const leftMs = this.#fenced ? pauseMs : Math.max(0, this.#fenceAtMs() - clock.steadyMs())
      await clock.sleep(Math.min(pauseMs, leftMs), this.#stop.signal)
      if (this.#stop.signal.aborted) return
      if (this.#fenced) continue // until the engine has registered us again
      failures = (await this.#beat()) ? 0 : failures + 1
    }
  }

  async #beat(): Promise<boolean> {
    const { clock, store, log } = this.#needs
    const { nodeLimitMs } = this.#settings
    const began = clock.steadyMs()
    const id = this.#id
    const watch = () =>
      clock.after(Math.max(0, this.#fenceAtMs() - clock.steadyMs()), () =>
        this.#fence(`no renewal for ${Math.round(nodeLimitMs * (1 - FENCE_MARGIN))} ms`),
      )
    let guard = watch()
    try {
      const { alive, silent, cancels, overdue, expiresInMs } = await store.beat(id, this.#state, this.#needs.threads())
      this.counts.beats++
      if (this.#fenced || id !== this.#id) return true
      if (!alive) {
        this.#fence('another node declared this one dead')
        return true
      }
      if (began - this.#renewedAtMs > nodeLimitMs / 2) this.#steadySinceMs = began
      this.#renewedAtMs = began
      guard.cancel()
      guard = watch() // what follows may take its time, measured from this renewal
      if (cancels) this.#needs.onCancels()
      if (overdue) this.#needs.onOverdue(0)
      else if (expiresInMs !== null && expiresInMs <= this.#settings.nodeHeartbeatMs) this.#needs.onOverdue(expiresInMs)
      this.#needs.onBeat()
      // after an outage everybody looks silent: give them the time that we would want
      if (silent.length > 0 && began - this.#steadySinceMs >= nodeLimitMs && (await this.#isDelivered()))
        for (const other of silent) await this.#rescueOther(other)
      return true
    } catch (error) {
      this.counts.missed++
      if (this.counts.missed % 10 === 1) log.warn({ error: messageOf(error) }, 'node.beat_failed')
      if (clock.steadyMs() >= this.#fenceAtMs()) this.#fence('PostgreSQL did not answer for too long')
      return false
    } finally {
      guard.cancel()
    }
  }

  #fenceAtMs(): number {
    return this.#renewedAtMs + this.#settings.nodeLimitMs * (1 - FENCE_MARGIN)
  }

  #fence(reason: string): void {
    if (this.#fenced || this.#stop.signal.aborted) return
    this.#fenced = true
    this.counts.fenced++
    this.#needs.log.error({ node: this.#id, reason }, 'node.fenced')
    this.#needs.onFenced(reason)
  }

  /** Waits for it no longer than a beat may be late. */
  async #isDelivered(): Promise<boolean> {
    const { clock, log, deliver } = this.#needs
    const over = new AbortController()
    const delivered = deliver().catch((error) => {
      log.warn({ error: messageOf(error) }, 'outbox.not_replayed')
      return false
    })
    const late = clock
      .sleep(this.#settings.nodeHeartbeatMs, AbortSignal.any([over.signal, this.#stop.signal]))
      .then(() => false)
    const isAll = await Promise.race([delivered, late])
    over.abort()
    this.#undelivered = isAll ? 0 : this.#undelivered + 1
    if (isAll || this.#stop.signal.aborted || this.#undelivered <= UNDELIVERED_MAX) return isAll
    this.#undelivered = 0
    return true
  }

  /** One node that cannot be rescued keeps nobody from rescuing the next, and says nothing about our own renewals. */
  async #rescueOther(nodeId: number): Promise<void> {
    try {
      await this.#rescue(nodeId, false, !this.#former.has(nodeId))
      this.#failing.succeeded()
    } catch (error) {
      this.#failing.failed(error, { node: nodeId })
    }
  }

  /** False: not, or not everything. */
  async #rescue(nodeId: number, sure: boolean, blames: boolean): Promise<boolean> {
    const { store, log } = this.#needs
    const done = await store.rescue(nodeId, this.#settings.rescuesMax, sure, blames)
    if (!done) return false
    if (done.gone) this.counts.rescuedNodes++
    this.counts.rescuedJobs += done.reopened
    this.counts.poisoned += done.buried
    const facts = { node: nodeId, reopened: done.reopened, poisoned: done.buried }
    log[done.buried > 0 ? 'error' : 'warn'](facts, 'node.rescued')
    if (done.aside !== undefined) log.error({ node: nodeId, jobs: done.aside, code: 'ROW_INVALID' }, 'rows.set_aside')
    if (done.reopened > 0) this.#needs.onRescued(done.reopened)
    return done.gone
  }
}

function isAlive(otherPid: number): boolean {
  if (otherPid === pid) return true
  try {
    kill(otherPid, 0)
    return true
  } catch (error) {
    return (error as { code?: string }).code === 'EPERM'
  }
}

let machine: string | null = null

/** Names this machine, its boot and its process namespace: only there a process id means anything. */
function machineId(): string {
  machine ??= [hostname(), fileText('/proc/sys/kernel/random/boot_id'), linkText('/proc/self/ns/pid')].join(' ')
  return machine
}

function fileText(path: string): string {
  try {
    return readFileSync(path, 'utf8').trim()
  } catch {
    return ''
  }
}

function linkText(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}
