// What must become of jobs, as plainly as it can be said: one record per job and one method per thing that can happen to
// it. test/model.test.ts does the same things to PostgreSQL, and compares. It knows nothing of tables, chunks or tickets.

import assert from 'node:assert/strict'

/** Places as a person sees them; waiting for a group's turn is waiting. */
export type Place = 'later' | 'waiting' | 'held' | 'retrying' | 'completed' | 'failed' | 'cancelled' | 'expired'

export interface ModelJob {
  readonly id: number
  readonly group: string | null
  readonly groupLimit: number
  readonly skips: boolean
  readonly key: string | null
  expires: boolean
  place: Place
  attempt: number
  run: number
  rescues: number
  /** Who holds it. */
  node: number | null
  /** A holder's death would be charged to it, although it is not the first. */
  noted: boolean
  /** Somebody asked for its end while it was held. */
  unwanted: boolean
}

export const ENDED: ReadonlySet<Place> = new Set(['completed', 'failed', 'cancelled', 'expired'])

export class JobModel {
  readonly jobs = new Map<number, ModelJob>()

  add(job: Pick<ModelJob, 'id' | 'group' | 'groupLimit' | 'skips' | 'key' | 'expires'>, delayed: boolean): void {
    const place = delayed ? 'later' : 'waiting'
    const fresh = { attempt: 1, run: 1, rescues: 0, node: null, noted: false, unwanted: false }
    this.jobs.set(job.id, { ...job, ...fresh, place })
  }

  job(id: number): ModelJob {
    const job = this.jobs.get(id)
    assert.ok(job, `job ${id} was never enqueued`)
    return job
  }

  where(...places: Place[]): ModelJob[] {
    return [...this.jobs.values()].filter(({ place }) => places.includes(place))
  }

  heldBy(node: number): ModelJob[] {
    return this.where('held').filter((job) => job.node === node)
  }

  /** The unfinished job that has the key. */
  holderOf(key: string): ModelJob | undefined {
    return [...this.jobs.values()].find((job) => job.key === key && !ENDED.has(job.place))
  }

  claimed(id: number, node: number, attempt: number, run: number): void {
    const job = this.job(id)
    assert.equal(job.place, 'waiting', `job ${id} was claimed and is ${job.place}`)
    assert.deepEqual([attempt, run], [job.attempt, job.run], `attempt and run of job ${id}`)
    Object.assign(job, { place: 'held', node, noted: false, unwanted: false })
  }

  end(job: ModelJob, place: Place): void {
    Object.assign(job, { place, node: null, noted: false, unwanted: false })
  }

  /** Its time has passed before it ran: what is told of it afterwards is how often it had been tried. */
  expire(job: ModelJob): void {
    job.attempt--
    this.end(job, 'expired')
  }

  /** A failed attempt that is followed by another. */
  retry(job: ModelJob): void {
    if (job.unwanted) this.#cancelledNext(job, 1)
    else Object.assign(job, { place: 'retrying', attempt: job.attempt + 1, run: job.run + 1, node: null, noted: false })
  }

  /** Given back uncharged; `began`: it had started, so the next holding is another run. */
  giveBack(job: ModelJob, began: boolean): void {
    if (job.unwanted) this.#cancelledNext(job, 0)
    else Object.assign(job, { place: 'waiting', run: job.run + (began ? 1 : 0), node: null, noted: false })
  }

  /** Its holder died. */
  rescue(job: ModelJob, rescuesMax: number): void {
    const began = job.rescues === 0 || job.noted
    if (began && job.rescues + 1 >= rescuesMax && !job.unwanted) this.end(job, 'failed')
    else {
      if (began) job.rescues++
      this.giveBack(job, began)
    }
  }

  /** Answers what the one who asks is told. */
  cancel(job: ModelJob): 'cancelled' | 'held' | 'finished' {
    if (ENDED.has(job.place)) return 'finished'
    if (job.place === 'held') {
      job.unwanted = true
      return 'held'
    }
    this.end(job, 'cancelled')
    return 'cancelled'
  }

  requeue(job: ModelJob): void {
    if (job.place === 'expired') job.expires = false
    Object.assign(job, { place: 'waiting', attempt: 1, run: job.run + 1, rescues: 0 })
  }

  #cancelledNext(job: ModelJob, charge: number): void {
    job.attempt += charge
    this.end(job, 'cancelled')
  }
}
