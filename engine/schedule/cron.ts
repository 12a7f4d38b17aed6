// Reads cron expressions into plans. A plan is a handful of bitmasks and a zone, immutable and shared; occurrences.ts
// walks it. cron-parser reads the expression; before that, everything that we do not promise is refused by name, and
// after that nothing of it is used again: to walk 10,000 schedules over 10 minutes takes 0.45 ms here and 500 ms there
// (2026-11-21, bench/cron.bench.ts).
//
// The dialect
//   [second] minute hour day-of-month month day-of-week, or @yearly @annually @monthly @weekly @daily @midnight @hourly
//   @minutely @secondly @weekdays @weekends. Without a seconds field the second is 0.
//   A field is * or a list of values, ranges a-b and steps */n, a-b/n, a/n (from a to the end). Months and weekdays have
//   English names of three letters; Sunday is 0 and 7, so sat-sun and mon-7 are ranges. ? means * in the day fields.
//   Day of month L is the last day; day of week 5L is the last Friday of the month, 5#2 alone the second Friday.
//   When both day fields restrict (neither is *), a day that satisfies either one counts: the rule of Vixie's cron. It
//   is decided as cron-parser does: only a bare * (or ?, or */1) does not restrict; * with a longer step does, where
//   Vixie's cron would want both fields satisfied.
//
// What happens when clocks change
//   1. An expression that names its hours speaks of local times. Each of its local times happens once: when the local
//      clock first reads it or passes it. So a skipped time fires right after the gap (several skipped ones fire once,
//      together with one due at that very moment), and a repeated time fires the first time only.
//        30 2 * * * in Berlin: 03:00 on the day when 02:00 to 03:00 is skipped; once on the day when it comes twice.
//        0 9 * * * in Apia: the whole 30 December 2011 was skipped, its 09:00 fires at 00:00 on the 31st.
//   2. An expression for all 24 hours (as *, 0-23, or @hourly) speaks of an interval. It follows the clock: it fires
//      whenever the local clock reads a matching time, in both passes of a repeated hour, and owes nothing for a
//      skipped one. Otherwise a job that runs every 5 minutes would pause for an hour each autumn, and one that runs at
//      every half hour would run out of turn each spring.
//   The set of hours decides, not the spelling. 0 */2 * * * names hours.

import { type CronDayOfMonth, type CronDayOfWeek, CronExpressionParser, type CronFieldCollection } from 'cron-parser'
import { EngineError, messageOf } from '../base/errors.ts'
import { findZone, type Zone } from './zone.ts'

/** A parsed schedule. Bit v of a mask stands for value v unless said otherwise. */
export interface CronPlan {
  /** As it was given. */
  readonly expression: string
  /** The zone's name as Intl prefers it. */
  readonly timeZone: string
  readonly zone: Zone
  /** Seconds 0-29 and, from bit 0, 30-59: two small integers are faster than one 64-bit mask. */
  readonly secondsLow: number
  readonly secondsHigh: number
  /** The only second, or -1 when there are several. */
  readonly onlySecond: number
  readonly minutesLow: number
  readonly minutesHigh: number
  readonly hours: number
  /** All 24 hours are set: the expression follows the clock (rule 2 above). */
  readonly everyHour: boolean
  readonly months: number
  /**
   * A day counts when it meets any of the next three masks; a day field that does not restrict is 0 in all of them,
   * unless neither does. Bit d - 1 is day d, bit 31 the last day of the month.
   */
  readonly days: number
  /** Bit w is weekday w (0 Sunday), w + 7 its last one in the month, w + 14 its fifth. */
  readonly weekdays: number
  /** Bit w + 7 * (n - 1) is the n-th weekday w of the month, n from 1 to 4. */
  readonly nthWeekdays: number
}

/**
 * Reads an expression. `timeZone` is an IANA name, default UTC. Equal arguments usually give the same plan, in 0.1 us;
 * a new expression costs about 20 us, so whoever reads thousands at once pauses in between.
 * @throws EngineError VALIDATION; details: field (second, minute, hour, dayOfMonth, month, dayOfWeek, expression or
 * timeZone), value, and allowed, the range that the field takes.
 */
export function parseCron(expression: string, timeZone = 'UTC'): CronPlan {
  if (typeof expression !== 'string') throw refusal('', 'expression', String(expression), 'must be text', 'text')
  if (expression.length > EXPRESSION_CHARS_MAX)
    throw refusal(expression, 'expression', expression, 'is too long', `at most ${EXPRESSION_CHARS_MAX} characters`)
  const zone = findZone(timeZone)
  const key = `${zone.name} ${expression}`
  const known = plans.get(key)
  if (known !== undefined) return known
  const plan = planOf(expression, readFields(expression), zone)
  if (plans.size >= PLANS_KEPT_MAX) plans.delete(plans.keys().next().value!)
  plans.set(key, plan)
  return plan
}

function readFields(expression: string): CronFieldCollection {
  const text = expression.trim().toLowerCase()
  const texts = (MACROS.get(text) ?? text).split(/[ \t]+/)
  if (texts[0]!.startsWith('@'))
    throw refusal(expression, 'expression', texts[0]!, 'is not a known shorthand', [...MACROS.keys()].join(' '))
  if (texts.length !== 5 && texts.length !== 6)
    throw refusal(expression, 'expression', expression, `has ${text === '' ? 0 : texts.length} fields`, FIELD_ORDER)
  if (texts.length === 5) texts.unshift('0')
  const checked = FIELDS.map((field, i) => checkField(expression, field, texts[i]!)).join(' ')
  try {
    return CronExpressionParser.parse(checked, READING).fields
  } catch (error) {
    // After the checks this is one thing: days that none of the months has, such as 31 in February.
    throw refusal(
      expression,
      'dayOfMonth',
      texts[3]!,
      'never comes in these months',
      'a day that exists',
      messageOf(error),
    )
  }
}

interface Field {
  readonly name: string
  readonly min: number
  readonly max: number
  /** How many different values there are; also the longest step and the longest list. */
  readonly count: number
  readonly names?: ReadonlyMap<string, number>
}

/** Refuses what is out of range or out of the dialect, and writes the rest in the words that cron-parser knows. */
function checkField(expression: string, field: Field, text: string): string {
  const isDay = field.name === 'dayOfMonth' || field.name === 'dayOfWeek'
  if (text === '*' || text === '*/1' || (text === '?' && isDay)) return '*'
  const items = text.split(',')
  const allowed = `${field.min}-${field.max}`
  const refuse = (value: string, why: string, range = allowed) => refusal(expression, field.name, value, why, range)
  if (items.length > field.count) throw refuse(text, `lists ${items.length} items`, `at most ${field.count} items`)

  const values = new Set<number | string>()
  let named = 0
  for (let i = 0; i < items.length; i++) {
    const item = items[i]!
    if (item === '') throw refuse(text, 'has an empty list item')
    const special = specialDay(field, item, items.length)
    if (special !== null) {
      items[i] = special
      values.add(special)
      named++
      continue
    }
    const match = ITEM.exec(item)
    if (match === null) {
      const hint = isDay
        ? 'cannot be read (of L, W and #, the forms L, 5L and, alone, 5#2 are known)'
        : 'cannot be read'
      throw refuse(item, hint)
    }
    const [, first = '', last, stepText] = match
    const step = stepText === undefined ? 1 : Number(stepText)
    if (step < 1 || step > field.count) throw refuse(item, `has the step ${step}`, `steps of 1 to ${field.count}`)
    const from = first === '*' ? field.min : valueIn(field, first)
    if (first === '*' && last !== undefined) throw refuse(item, 'mixes * and a range')
    let to = last === undefined ? from : valueIn(field, last)
    if (last === undefined && (first === '*' || stepText !== undefined)) to = field.max
    if (from === null || to === null) throw refuse(item, 'is out of range')
    if (field.name === 'dayOfWeek' && to === 0 && from > 0) to = 7
    if (from > to) throw refuse(item, 'goes backwards')
    for (let value = from; value <= to; value += step, named++)
      values.add(field.name === 'dayOfWeek' ? value % 7 : value)
    items[i] = (to === from ? `${from}` : `${from}-${to}`) + (step === 1 || to === from ? '' : `/${step}`)
  }
  // cron-parser refuses a list that names a value twice, which every other cron takes.
  return (named === values.size ? items : [...values]).join(',')
}

/** `*`, `5`, `mon`, `1-5`, each with an optional step. Digits are few, so that a huge number stays cheap. */
const ITEM = /^(\*|\d{1,4}|[a-z]{3})(?:-(\d{1,4}|[a-z]{3}))?(?:\/(\d{1,4}))?$/

function valueIn(field: Field, text: string): number | null {
  const value = field.names?.get(text) ?? (/^\d/.test(text) ? Number(text) : Number.NaN)
  return value >= field.min && value <= field.max ? value : null
}

/** The last day, the last or n-th weekday, as cron-parser writes them; null for everything else. */
function specialDay(field: Field, item: string, items: number): string | null {
  if (field.name === 'dayOfMonth') return item === 'l' ? 'L' : null
  if (field.name !== 'dayOfWeek') return null
  const match = /^([0-7]|[a-z]{3})(?:(l)|#([1-5]))$/.exec(item)
  const weekday = match && valueIn(field, match[1]!)
  if (match === null || weekday === null) return null
  if (match[2] !== undefined) return `${weekday! % 7}L`
  return items === 1 ? `${weekday! % 7}#${match[3]}` : null
}

function planOf(expression: string, fields: CronFieldCollection, zone: Zone): CronPlan {
  const seconds = fields.second.values
  const hours = maskOf(fields.hour.values, 0)
  const months = maskOf(fields.month.values, 0)
  const anyDate = fields.dayOfMonth.isWildcard
  const anyWeekday = fields.dayOfWeek.isWildcard
  const days = anyDate ? (anyWeekday ? -1 : 0) : daysOf(fields.dayOfMonth)
  const [weekdays, nthWeekdays] = anyWeekday ? [0, 0] : weekdaysOf(fields.dayOfWeek)
  if (anyWeekday && !datesExist(days, months))
    throw refusal(expression, 'dayOfMonth', expression, 'names a day that never comes', 'a day that exists')
  return Object.freeze({
    expression,
    timeZone: zone.name,
    zone,
    secondsLow: maskOf(seconds, 0),
    secondsHigh: maskOf(seconds, 30),
    onlySecond: seconds.length === 1 ? seconds[0]! : -1,
    minutesLow: maskOf(fields.minute.values, 0),
    minutesHigh: maskOf(fields.minute.values, 30),
    hours,
    everyHour: hours === 0xffffff,
    months,
    days,
    weekdays,
    nthWeekdays,
  })
}

/** Bits of the values from `first` to `first + 29`. */
function maskOf(values: readonly number[], first: number): number {
  let mask = 0
  for (const value of values) if (value >= first && value < first + 30) mask |= 1 << (value - first)
  return mask
}

function daysOf(field: CronDayOfMonth): number {
  let mask = 0
  for (const value of field.values) mask |= value === 'L' ? 1 << 31 : 1 << (value - 1)
  return mask
}

function weekdaysOf(field: CronDayOfWeek): readonly [weekdays: number, nthWeekdays: number] {
  let mask = 0
  for (const value of field.values as readonly (number | string)[])
    mask |= typeof value === 'number' ? 1 << (value % 7) : 1 << ((Number.parseInt(value, 10) % 7) + 7)
  if (field.nthDay === 0) return [mask, 0]
  return field.nthDay === 5 ? [mask << 14, 0] : [0, mask << (7 * (field.nthDay - 1))]
}

function datesExist(days: number, months: number): boolean {
  return DAYS_IN_MONTH.some((length, month) => (months >> month) & 1 && (days < 0 || days & (2 ** length - 1)))
}

/** One form for every refusal: what was wrong, and what is allowed. */
function refusal(
  expression: string,
  field: string,
  value: string,
  why: string,
  allowed: string,
  cause?: unknown,
): EngineError {
  const clipped = { value: clip(value), expression: clip(expression) }
  const subject = value === expression && field === 'expression' ? 'it' : `${field} ${JSON.stringify(clipped.value)}`
  return new EngineError(
    'VALIDATION',
    `cron expression ${JSON.stringify(clipped.expression)}: ${subject} ${why}; allowed: ${allowed}`,
    { field, allowed, ...clipped },
    cause,
  )
}

function clip(text: string): string {
  return text.length > 80 ? `${text.slice(0, 80)}...` : text
}

/** Every value of every field, written out, takes 526. */
const EXPRESSION_CHARS_MAX = 600

/** Plans that are kept for equal expressions: a rebuild that reads its schedules anew must not parse them anew. */
const PLANS_KEPT_MAX = 16_384

const FIELD_ORDER = '5 fields (minute hour dayOfMonth month dayOfWeek), or 6 with seconds first'

const FIELDS: readonly Field[] = [
  { name: 'second', min: 0, max: 59, count: 60 },
  { name: 'minute', min: 0, max: 59, count: 60 },
  { name: 'hour', min: 0, max: 23, count: 24 },
  { name: 'dayOfMonth', min: 1, max: 31, count: 31 },
  { name: 'month', min: 1, max: 12, count: 12, names: namesOf('jan feb mar apr may jun jul aug sep oct nov dec', 1) },
  { name: 'dayOfWeek', min: 0, max: 7, count: 8, names: namesOf('sun mon tue wed thu fri sat', 0) },
]

function namesOf(words: string, first: number): ReadonlyMap<string, number> {
  return new Map(words.split(' ').map((word, i) => [word, first + i]))
}

const MACROS: ReadonlyMap<string, string> = new Map([
  ['@yearly', '0 0 1 1 *'],
  ['@annually', '0 0 1 1 *'],
  ['@monthly', '0 0 1 * *'],
  ['@weekly', '0 0 * * 0'],
  ['@weekdays', '0 0 * * 1-5'],
  ['@weekends', '0 0 * * 0,6'],
  ['@daily', '0 0 * * *'],
  ['@midnight', '0 0 * * *'],
  ['@hourly', '0 * * * *'],
  ['@minutely', '* * * * *'],
  ['@secondly', '* * * * * *'],
])

/** From index 1. February has its leap day. */
const DAYS_IN_MONTH = [0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]

/** cron-parser wants a date to start from; a fixed one spares it asking for the host's clock and zone. */
const READING = { currentDate: 0, tz: 'UTC' }

const plans = new Map<string, CronPlan>()
