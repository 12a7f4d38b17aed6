// Text for a terminal: cleaned when it is made, with colours as facts beside it and not as escape sequences within it. So
// it can be measured, cut and wrapped, and whatever looks like an escape sequence in it came from nobody but us.

import { styleText } from 'node:util'
import stringWidth from 'string-width'
import { cleanLine } from '../base/clean.ts'

export type Colour = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan'

/** A string is not trusted and is cleaned; a Text is clean. */
export type Part = string | Text

interface Span {
  readonly text: string
  readonly colours: readonly Colour[]
}

const ELLIPSIS = '…'
const graphemes = new Intl.Segmenter('en', { granularity: 'grapheme' })

export class Text {
  readonly #spans: readonly Span[]
  #width = -1

  private constructor(spans: readonly Span[]) {
    this.#spans = spans
  }

  static of(...parts: readonly Part[]): Text {
    const [only] = parts
    if (parts.length === 1 && only instanceof Text) return only
    return new Text(
      parts.flatMap((part) => (typeof part === 'string' ? { text: cleanLine(part), colours: [] } : part.#spans)),
    )
  }

  /** The parts, all in this colour. */
  static styled(colour: Colour, ...parts: readonly Part[]): Text {
    const inner = Text.of(...parts)
    return new Text(inner.#spans.map(({ text, colours }) => ({ text, colours: [...colours, colour] })))
  }

  /** Columns that it takes: 2 for a wide character, 0 for one that joins the one before. */
  get width(): number {
    if (this.#width < 0) this.#width = this.#spans.reduce((sum, { text }) => sum + widthOf(text), 0)
    return this.#width
  }

  /** Without colours. */
  toString(): string {
    return this.#spans.map(({ text }) => text).join('')
  }

  /** With colours, as a terminal takes them. */
  painted(): string {
    return this.#spans
      .map(({ text, colours }) =>
        text === '' || colours.length === 0 ? text : styleText([...colours], text, { validateStream: false }),
      )
      .join('')
  }

  /** At most so many characters, however wide: what nobody will see need not be measured. */
  clipped(chars: number): Text {
    return this.#spans.reduce((sum, { text }) => sum + text.length, 0) <= chars ? this : this.#to(chars)
  }

  /** At most so many columns wide; what is left out is said by an ellipsis. */
  cut(columns: number): Text {
    if (this.width <= columns) return this
    const [head] = this.#split(Math.max(0, columns - 1))
    const end = head.#spans.at(-1)
    return new Text([
      ...head.#spans.slice(0, -1),
      { text: `${end?.text ?? ''}${ELLIPSIS}`, colours: end?.colours ?? [] },
    ])
  }

  /** Lines of at most so many columns, broken between words where it can be. */
  wrapped(columns: number): Text[] {
    const lines: Text[] = []
    let rest: Text = this
    while (rest.width > columns) {
      let [line, after] = rest.#split(Math.max(1, columns))
      const space = line.toString().lastIndexOf(' ')
      if (!after.toString().startsWith(' ') && space > 0) {
        after = rest.#from(space)
        line = rest.#to(space)
      }
      lines.push(line)
      rest = after.#trimmedStart()
    }
    return rest.width > 0 || lines.length === 0 ? [...lines, rest] : lines
  }

  /** Spaces behind it (or before it, for `right`) up to this width. */
  padded(columns: number, align: 'left' | 'right'): Text {
    const gap = { text: ' '.repeat(Math.max(0, columns - this.width)), colours: [] }
    if (gap.text === '') return this
    return new Text(align === 'right' ? [gap, ...this.#spans] : [...this.#spans, gap])
  }

  /** The first so many columns, and the rest. At least one character goes to the first, so that a loop ends. */
  #split(columns: number): [Text, Text] {
    let used = 0
    let at = 0
    for (const { segment } of graphemes.segment(this.toString())) {
      const width = widthOf(segment)
      if (used + width > columns && at > 0) break
      used += width
      at += segment.length
      if (used >= columns) break
    }
    return [this.#to(at), this.#from(at)]
  }

  #to(index: number): Text {
    return this.#mapped((text, at) => text.slice(0, Math.max(0, index - at)))
  }

  #from(index: number): Text {
    return this.#mapped((text, at) => text.slice(Math.max(0, index - at)))
  }

  #trimmedStart(): Text {
    const text = this.toString()
    return this.#from(text.length - text.trimStart().length)
  }

  #mapped(part: (text: string, at: number) => string): Text {
    let at = 0
    const spans: Span[] = []
    for (const { text, colours } of this.#spans) {
      const kept = part(text, at)
      if (kept !== '') spans.push({ text: kept, colours })
      at += text.length
    }
    return new Text(spans)
  }
}

export function styled(colour: Colour, ...parts: readonly Part[]): Text {
  return Text.styled(colour, ...parts)
}

const ASCII = /^[\u0020-\u007e]*$/

function widthOf(text: string): number {
  return ASCII.test(text) ? text.length : stringWidth(text)
}
