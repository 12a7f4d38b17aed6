// Random numbers that can be had again: the same seed gives the same ones.

export interface Dice {
  /** [0, 1) */
  next(): number
  /** A whole number from `min` to `max`. */
  whole(min: number, max: number): number
  pick<T>(items: readonly T[]): T
}

export function diceOf(seed: number): Dice {
  let state = seed >>> 0
  // xorshift, 32 bits: plenty for choosing faults
  const next = () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) / 2 ** 32
  }
  const whole = (min: number, max: number) => min + Math.floor(next() * (max - min + 1))
  return { next, whole, pick: (items) => items[whole(0, items.length - 1)]! }
}
