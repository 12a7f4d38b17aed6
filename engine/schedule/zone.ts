// Time zones as spans of constant offset. Intl knows the rules of every zone but takes a microsecond to say what one
// moment looks like; asked per schedule that is seconds of work. Here it is asked once per zone and block of 32 days,
// and the answer is kept: spans between two transitions. All times in this file are whole seconds since 1970.
//
//   local time
//     4:00 |            /        reached = how far the local clock had come before the span. Below it, local times
//     3:00 |      /|   /         were read before (a repeated hour). When a span starts above it, the local times
//     2:00 |    /  |_/ <- span   in between were never read (a skipped hour).
//     1:00 |  /    repeats 2:00 to 3:00, reached is 3:00
//          +------------------ UTC

import { EngineError, invariant } from '../base/errors.ts'

const DAY_S = 86_400

/** A transition-free span (or a piece of one, cut at a block's edge): start <= t < end, local = t + offset. */
export interface Span {
  readonly startS: number
  readonly endS: number
  readonly offsetS: number
  /** Every local time below this was read or passed before the span started. Equals start + offset almost always. */
  readonly reachedS: number
}

/** One Intl time zone. Get it from `findZone`, so that all plans of a zone share what is known of it. */
export class Zone {
  /** The zone's name as Intl prefers it. */
  readonly name: string
  readonly #format: Intl.DateTimeFormat
  readonly #blocks = new Map<number, readonly Span[]>()

  constructor(format: Intl.DateTimeFormat) {
    this.#format = format
    this.name = format.resolvedOptions().timeZone
  }

  /** The span that holds a moment. */
  spanAt(atS: number): Span {
    if (this.name === 'UTC') return UTC_SPAN
    const spans = this.#block(Math.floor(atS / BLOCK_S))
    let i = spans.length - 1
    while (spans[i]!.startS > atS) i--
    return spans[i]!
  }

  /** The spans that meet [startS, endS), in order and whole: the first may start before, the last may end after. */
  spans(startS: number, endS: number): Span[] {
    const found: Span[] = []
    for (let atS = startS; atS < endS; atS = found.at(-1)!.endS) found.push(this.spanAt(atS))
    return found
  }

  #block(index: number): readonly Span[] {
    let spans = this.#blocks.get(index)
    if (spans === undefined) {
      spans = this.#load(index * BLOCK_S)
      if (this.#blocks.size >= BLOCKS_KEPT_MAX) this.#blocks.delete(this.#blocks.keys().next().value!)
      this.#blocks.set(index, spans)
    }
    return spans
  }

  /** Samples the offset, finds each change to the second, and keeps what lies in the block. */
  #load(blockS: number): readonly Span[] {
    const spans: Span[] = []
    const endS = blockS + BLOCK_S
    let startS = blockS - LOOK_BACK_S
    let offsetS = this.#offsetAt(startS)
    let reachedS = startS + offsetS
    const close = (atS: number) => {
      if (atS > blockS) {
        const cutS = Math.max(startS, blockS)
        const cutReachedS = cutS === startS ? reachedS : Math.max(reachedS, cutS + offsetS)
        spans.push({ startS: cutS, endS: atS, offsetS, reachedS: cutReachedS })
      }
      reachedS = Math.max(reachedS, atS + offsetS)
      startS = atS
    }
    for (let sampleS = startS + SAMPLE_S; sampleS <= endS; sampleS += SAMPLE_S) {
      while (this.#offsetAt(sampleS) !== offsetS) {
        const changeS = this.#changeIn(Math.max(startS, sampleS - SAMPLE_S), sampleS, offsetS)
        close(changeS)
        offsetS = this.#offsetAt(changeS)
      }
    }
    if (startS < endS) close(endS)
    return spans
  }

  /** The first second after `lowS`, at most `highS`, whose offset is another. */
  #changeIn(lowS: number, highS: number, offsetS: number): number {
    let low = lowS
    let high = highS
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2)
      if (this.#offsetAt(middle) === offsetS) low = middle
      else high = middle
    }
    return high
  }

  /** Local time minus UTC, read from digits: 1 us, where formatToParts takes 3.4 (2026-11-21, Node 20.20). */
  #offsetAt(atS: number): number {
    const digits = this.#format.format(atS * 1000).match(/\d+/g)
    invariant(digits?.length === 6, 'Intl writes a moment as month/day/year, hour:minute:second', { zone: this.name })
    const [month, day, year, hour, minute, second] = digits.map(Number) as [
      number,
      number,
      number,
      number,
      number,
      number,
    ]
    return Date.UTC(year, month - 1, day, hour, minute, second) / 1000 - atS
  }
}

/**
 * The zone of an IANA name such as `Europe/Berlin`; upper and lower case do not matter.
 * @throws EngineError VALIDATION (field `timeZone`) when Intl does not know it.
 */
export function findZone(name: string): Zone {
  const known = zonesByAlias.get(name)
  if (known !== undefined) return known
  const format = formatOf(name)
  const canonical = format.resolvedOptions().timeZone
  let zone = zonesByName.get(canonical)
  if (zone === undefined) {
    zone = new Zone(format)
    zonesByName.set(canonical, zone)
  }
  if (zonesByAlias.size < ALIASES_MAX) zonesByAlias.set(name, zone)
  return zone
}

function formatOf(name: string): Intl.DateTimeFormat {
  // Offsets such as +01:00 are refused here because only newer versions of Node would take them.
  if (typeof name === 'string' && /^[A-Za-z][A-Za-z0-9_+/-]{0,63}$/.test(name)) {
    try {
      return new Intl.DateTimeFormat('en-US', {
        timeZone: name,
        hourCycle: 'h23',
        year: 'numeric',
        month: 'numeric',
        day: 'numeric',
        hour: 'numeric',
        minute: 'numeric',
        second: 'numeric',
      })
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
    }
  }
  const value = String(name).slice(0, 80)
  throw new EngineError(
    'VALIDATION',
    `timeZone must be the name of a time zone such as UTC or Europe/Berlin, got ${JSON.stringify(value)}`,
    { field: 'timeZone', value, allowed: 'a name of the IANA time zone database' },
  )
}

/** Long enough for a window and its neighbourhood, short enough to load in a fifth of a millisecond. */
const BLOCK_S = 32 * DAY_S

/** No zone of the database goes somewhere and back within six hours. */
const SAMPLE_S = DAY_S / 4

/** A clock is set back by at most a day, so what a span repeats was read within the two days before. */
const LOOK_BACK_S = 2 * DAY_S

/** Per zone: five years of daily use, a few kilobytes. The oldest goes first. */
const BLOCKS_KEPT_MAX = 64

/** Names as users wrote them; `zonesByName` needs no limit, Intl knows about 600. */
const ALIASES_MAX = 2_000

const UTC_SPAN: Span = Object.freeze({ startS: -1e13, endS: 1e13, offsetS: 0, reachedS: -1e13 })

const zonesByAlias = new Map<string, Zone>()
const zonesByName = new Map<string, Zone>()
