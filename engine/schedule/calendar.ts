// The calendar that plans are compared with: days of the local calendar, and the smallest matching local second. Local
// seconds count from 1970-01-01 00:00 on the local clock, so they know nothing of zones.

import type { CronPlan } from './cron.ts'

export const DAY_S = 86_400

/** One day of the calendar and the bits that a plan's day masks are compared with. */
export class CalendarDay {
  /** Days since 1970-01-01. */
  number: number
  monthBit = 0
  dateBits = 0
  weekdayBits = 0
  nthBits = 0
  #year: number
  #month: number
  #date: number

  constructor(number: number) {
    const moment = new Date(number * DAY_S * 1000)
    this.number = number
    this.#year = moment.getUTCFullYear()
    this.#month = moment.getUTCMonth() + 1
    this.#date = moment.getUTCDate()
    this.#setBits()
  }

  next(): void {
    this.number++
    this.#date++
    if (this.#date > daysIn(this.#year, this.#month)) this.#turnMonth()
    this.#setBits()
  }

  nextMonth(): void {
    this.number += daysIn(this.#year, this.#month) + 1 - this.#date
    this.#turnMonth()
    this.#setBits()
  }

  #turnMonth(): void {
    this.#date = 1
    this.#month++
    if (this.#month === 13) {
      this.#month = 1
      this.#year++
    }
  }

  #setBits(): void {
    const date = this.#date
    const length = daysIn(this.#year, this.#month)
    const weekday = (((this.number + 4) % 7) + 7) % 7 // 1970-01-01 was a Thursday
    this.monthBit = 1 << this.#month
    this.dateBits = (1 << (date - 1)) | (date === length ? 1 << 31 : 0)
    this.weekdayBits =
      (1 << weekday) | (date > length - 7 ? 1 << (weekday + 7) : 0) | (date > 28 ? 1 << (weekday + 14) : 0)
    this.nthBits = date <= 28 ? 1 << (weekday + 7 * Math.floor((date - 1) / 7)) : 0
  }
}

function daysIn(year: number, month: number): number {
  if (month === 2) return (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0 ? 29 : 28
  return month === 4 || month === 6 || month === 9 || month === 11 ? 30 : 31
}

/** True when the day counts for the plan; the month is asked apart. */
export function countsDay(plan: CronPlan, day: CalendarDay): boolean {
  return ((plan.days & day.dateBits) | (plan.weekdays & day.weekdayBits) | (plan.nthWeekdays & day.nthBits)) !== 0
}

/** The smallest matching local second at or after `fromS`; Infinity when none comes within 41 years. */
export function nextLocal(plan: CronPlan, fromS: number): number {
  const first = Math.floor(fromS / DAY_S)
  const day = new CalendarDay(first)
  while (day.number - first <= HORIZON_DAYS) {
    if ((plan.months & day.monthBit) === 0) {
      day.nextMonth()
      continue
    }
    if (countsDay(plan, day)) {
      const second = nextSecondOfDay(plan, day.number === first ? fromS - first * DAY_S : 0)
      if (second >= 0) return day.number * DAY_S + second
    }
    day.next()
  }
  return Number.POSITIVE_INFINITY
}

/** A given weekday on 29 February comes every 28 years, and once in 40 where a century skips its leap day. */
const HORIZON_DAYS = 41 * 366

/** The smallest matching second of a day at or after `fromS`, or -1. */
function nextSecondOfDay(plan: CronPlan, fromS: number): number {
  const firstSecond = nextOf60(plan.secondsLow, plan.secondsHigh, 0)
  const inHour = Math.floor(fromS / 3600)
  if ((plan.hours >> inHour) & 1) {
    const inMinute = Math.floor(fromS / 60) % 60
    let minute = nextOf60(plan.minutesLow, plan.minutesHigh, inMinute)
    if (minute === inMinute) {
      const second = nextOf60(plan.secondsLow, plan.secondsHigh, fromS % 60)
      if (second >= 0) return inHour * 3600 + minute * 60 + second
      minute = nextOf60(plan.minutesLow, plan.minutesHigh, inMinute + 1)
    }
    if (minute >= 0) return inHour * 3600 + minute * 60 + firstSecond
  }
  const laterHours = plan.hours & (-1 << (inHour + 1))
  if (laterHours === 0) return -1
  return lowestBit(laterHours) * 3600 + nextOf60(plan.minutesLow, plan.minutesHigh, 0) * 60 + firstSecond
}

function nextOf60(low: number, high: number, from: number): number {
  if (from < 30) {
    const rest = low & (-1 << from)
    if (rest !== 0) return lowestBit(rest)
    return high === 0 ? -1 : 30 + lowestBit(high)
  }
  const rest = from < 60 ? high & (-1 << (from - 30)) : 0
  return rest === 0 ? -1 : 30 + lowestBit(rest)
}

/** The index of the lowest bit that is set; the mask is not 0. */
export function lowestBit(mask: number): number {
  return 31 - Math.clz32(mask & -mask)
}
