// What the four agents share: the OpenTelemetry set-up, the seeded random
// numbers and the script that stands in for a language model.
import { context } from '@opentelemetry/api';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { defaultResource, resourceFromAttributes } from '@opentelemetry/resources';
import { BatchSpanProcessor, NodeTracerProvider } from '@opentelemetry/sdk-trace-node';

// SDKs put the stack of a failed tool into the span. It would carry the paths
// of the machine that records, so there is none.
Error.stackTraceLimit = 0;

/**
 * Registers a tracer provider that exports OTLP/HTTP JSON to the endpoint in
 * OTEL_EXPORTER_OTLP_ENDPOINT. No resource detector runs: the resource has
 * what is given here and the name of the SDK, nothing of this machine.
 */
export function startTelemetry({ name, namespace, version }) {
  const provider = new NodeTracerProvider({
    resource: defaultResource().merge(resourceFromAttributes({
      'service.name': name,
      'service.namespace': namespace,
      'service.version': version,
      'service.instance.id': `${name}-0`,
    })),
    // The delay is shorter than a session, as it is in production where a
    // session takes minutes and the default delay is five seconds. So children
    // leave in an earlier request than their root, by themselves.
    spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(), { scheduledDelayMillis: 50 })],
  });
  provider.register();
  return provider;
}

/** A small seeded generator (mulberry32), so that every recording has the same sessions. */
export function seeded(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
  return {
    int: (low, high) => low + Math.floor(next() * (high - low + 1)),
    pick: (list) => list[Math.floor(next() * list.length)],
    chance: (p) => next() < p,
    cents: (low, high) => Math.round((low + next() * (high - low)) * 100) / 100,
    id: (length) => Array.from({ length }, () => 'abcdefghijkmnpqrstuvwxyz0123456789'[Math.floor(next() * 34)]).join(''),
  };
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export const call = (name, args = {}) => ({ name, args });

/**
 * A model that follows a script. The script is a generator: it yields one tool
 * call, or a list of calls to be made in parallel, is resumed with what the
 * tools returned, and returns the final answer. It sees nothing but its prompt
 * and the tool results that the SDK hands back, like a real model.
 */
export class ScriptedModel {
  constructor(script, rnd) {
    this.steps = script();
    this.rnd = rnd;
  }

  async turn(resultTexts) {
    await sleep(this.rnd.int(8, 60));
    const results = resultTexts.map(parse);
    const { value, done } = this.steps.next(results.length > 1 ? results : results[0]);
    if (done) return { text: value, calls: [] };
    const calls = [value].flat().map((c) => ({ id: `call_${this.rnd.id(16)}`, ...c }));
    return { text: '', calls };
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/** True if the SDK handed an error to the model in place of a result. */
export const failed = (result) => typeof result === 'string' && /error|failed|no such|timed out|cannot|invalid|exceed/i.test(result);

export const tokens = (value) => Math.ceil((typeof value === 'string' ? value : JSON.stringify(value)).length / 4);

/** Plays the sessions one after the other, each in a trace of its own, and flushes after each. */
export async function playAll(provider, sessions, play) {
  for (const session of sessions) {
    await context.with(context.active(), () => play(session));
    await provider.forceFlush();
    await sleep(5);
  }
  await provider.shutdown();
}
