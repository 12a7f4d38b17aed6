// The queue through which the main thread's own senders reach the scheduler (threads have their rings). First in,
// first out, bounded: when it is full, `trySend` refuses by value and `send` waits for its turn, at most a timeout.
// Nobody overtakes a waiting sender. It never drops what it accepted.

import type { Clock, Timer } from '../engine/base/clock.ts'
import { invariant } from '../engine/base/errors.ts'

export interface InboxOptions {
  /** Messages it holds, from 1. As many senders may wait for room; further ones are refused at once. */
  messagesMax: number
  /** How long `send` waits for room unless told otherwise. */
  sendTimeoutMs: number
  clock: Clock
  /** Called after each accepted message: wakes the loop. */
  onSend?: () => void
}

export interface InboxStats {
  /** Messages accepted. */
  totalSent: number
  totalReceived: number
  /** Sends that gave up: their time was over, or too many waited before them. */
  timeoutCount: number
  /** Depth at the last updateDepthStats(), and the greatest of all of those. */
  currentDepth: number
  maxDepthSeen: number
}

interface WaitingSender<Message> {
  readonly message: Message
  readonly settle: (isSent: boolean) => void
}

export class Inbox<Message> {
  readonly #options: InboxOptions
  readonly #slots: (Message | undefined)[]
  #head = 0
  #depth = 0
  readonly #senders = new Set<WaitingSender<Message>>()
  readonly #receivers: ((message: Message) => void)[] = []
  #totalSent = 0
  #totalReceived = 0
  #timeoutCount = 0
  #currentDepth = 0
  #maxDepthSeen = 0

  constructor(options: InboxOptions) {
    invariant(Number.isInteger(options.messagesMax) && options.messagesMax >= 1, 'an inbox holds at least one message')
    this.#options = options
    this.#slots = new Array(options.messagesMax)
  }

  /** Messages that wait now. */
  get depth(): number {
    return this.#depth
  }

  /** True when the message was accepted; false when there is no room. */
  trySend(message: Message): boolean {
    const receiver = this.#receivers.shift()
    if (receiver !== undefined) {
      this.#totalSent++
      this.#totalReceived++
      receiver(message)
      return true
    }
    if (this.#depth === this.#options.messagesMax) return false
    this.#put(message)
    this.#options.onSend?.()
    return true
  }

  /** Resolves true when the message was accepted, false when there was no room for `timeoutMs`. */
  send(message: Message, timeoutMs: number = this.#options.sendTimeoutMs): Promise<boolean> {
    if (this.trySend(message)) return Promise.resolve(true)
    if (timeoutMs <= 0 || this.#senders.size >= this.#options.messagesMax) {
      this.#timeoutCount++
      return Promise.resolve(false)
    }
    return new Promise((resolve) => {
      const sender: WaitingSender<Message> = {
        message,
        settle: (isSent) => {
          timer.cancel()
          resolve(isSent)
        },
      }
      const timer: Timer = this.#options.clock.after(timeoutMs, () => {
        this.#senders.delete(sender)
        this.#timeoutCount++
        sender.settle(false)
      })
      this.#senders.add(sender)
    })
  }

  /** The oldest message, or undefined when there is none. */
  tryReceive(): Message | undefined {
    if (this.#depth === 0) return undefined
    const message = this.#slots[this.#head] as Message
    this.#slots[this.#head] = undefined
    this.#head = (this.#head + 1) % this.#options.messagesMax
    this.#depth--
    this.#totalReceived++
    this.#admit()
    return message
  }

  /** The oldest message; waits until there is one. */
  receive(): Promise<Message> {
    const message = this.tryReceive()
    if (message !== undefined) return Promise.resolve(message)
    invariant(this.#receivers.length < this.#options.messagesMax, 'no more receivers wait than messages may')
    return new Promise((resolve) => {
      this.#receivers.push(resolve)
    })
  }

  /** Hands over the messages that waited when it was called, at most `limit`; returns how many. */
  drain(visit: (message: Message) => void, limit: number): number {
    const count = Math.min(this.#depth, limit)
    for (let done = 0; done < count; done++) visit(this.tryReceive()!)
    return count
  }

  /** Samples the depth; the loop calls it once per iteration. */
  updateDepthStats(): void {
    this.#currentDepth = this.#depth
    if (this.#depth > this.#maxDepthSeen) this.#maxDepthSeen = this.#depth
  }

  stats(): InboxStats {
    return {
      totalSent: this.#totalSent,
      totalReceived: this.#totalReceived,
      timeoutCount: this.#timeoutCount,
      currentDepth: this.#currentDepth,
      maxDepthSeen: this.#maxDepthSeen,
    }
  }

  #put(message: Message): void {
    this.#slots[(this.#head + this.#depth) % this.#options.messagesMax] = message
    this.#depth++
    this.#totalSent++
  }

  /** Room was made: the sender that waits longest goes first, so the queue stays full while anybody waits. */
  #admit(): void {
    for (const sender of this.#senders) {
      this.#senders.delete(sender)
      this.#put(sender.message)
      sender.settle(true)
      this.#options.onSend?.()
      return
    }
  }
}
