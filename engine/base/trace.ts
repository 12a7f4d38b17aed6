// The active span of whoever calls, as W3C trace headers. OpenTelemetry's API keeps what was registered in one global,
// made so that several copies of the API find each other; it is read here as one copy more. So nothing is imported,
// nothing is required, and without a tracer it costs one look at a symbol.

/** Where `@opentelemetry/api` 1.x keeps its registrations, and the span within a context. */
const API = Symbol.for('opentelemetry.js.api.1')
const SPAN = Symbol.for('OpenTelemetry Context Key SPAN')

const TRACE_ID = /^(?!0{32})[0-9a-f]{32}$/
const SPAN_ID = /^(?!0{16})[0-9a-f]{16}$/
/** What the recommendation asks everybody to carry at least; a longer list is left behind, the trace is not. */
const TRACESTATE_CHARS_MAX = 512

/** The part of the API that is used. */
interface TracingApi {
  readonly context?: {
    active(): { getValue(key: symbol): unknown }
  }
}

interface SpanContext {
  readonly traceId: string
  readonly spanId: string
  readonly traceFlags: number
  readonly traceState?: { serialize(): string }
}

/** `traceparent`, and `tracestate` when there is one; null without an active span. Never throws: a trace is no reason to fail. */
export function activeTraceHeaders(): { readonly traceparent: string; readonly tracestate?: string } | null {
  const api = (globalThis as { [API]?: TracingApi })[API]
  if (api?.context === undefined) return null
  try {
    const span = api.context.active().getValue(SPAN) as { spanContext(): SpanContext } | undefined
    if (span === undefined) return null
    const { traceId, spanId, traceFlags, traceState } = span.spanContext()
    if (!TRACE_ID.test(traceId) || !SPAN_ID.test(spanId)) return null
    const flags = (traceFlags & 0xff).toString(16).padStart(2, '0')
    const traceparent = `00-${traceId}-${spanId}-${flags}`
    const tracestate = traceState?.serialize()
    return tracestate && tracestate.length <= TRACESTATE_CHARS_MAX ? { traceparent, tracestate } : { traceparent }
  } catch {
    return null
  }
}
