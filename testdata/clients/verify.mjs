// Checks the captures.   node verify.mjs [folder]
import { readFileSync, statSync } from 'node:fs';
import { hostname } from 'node:os';
import { fileURLToPath } from 'node:url';

const folder = process.argv[2] ?? fileURLToPath(new URL('../captures', import.meta.url));
const sessions = {
  'billing-bot': 40,
  'refund-bot': 25,
  'support-desk': 25,
  'research-crew': 25,
  'billing-bot-hijacked': 1,
  'billing-bot-control': 1,
};
const stolenTo = 'US133000000121212121212';
const bidi = /[\u202a-\u202e\u2066-\u2069]/;
// What the machine that recorded could leave behind.
const trails = /\/(root|work|tmp|home|Users)\b|node_modules|file:\/\/|127\.0\.0\.1/;
const host = new RegExp(`(?<![\\w-])${RegExp.escape?.(hostname()) ?? hostname()}(?![\\w-])`);

let bad = 0;
const expect = (ok, message) => {
  if (ok) return;
  bad++;
  console.error(`FAIL ${message}`);
};

for (const [name, wanted] of Object.entries(sessions)) {
  const path = `${folder}/${name}.jsonl`;
  const text = readFileSync(path, 'utf8');
  const requests = text.trimEnd().split('\n').map((line) => JSON.parse(line));
  const traces = new Map();
  let spans = 0;
  let failures = 0;
  requests.forEach(({ headers, otlp }, index) => {
    expect(headers.path === '/v1/traces' && headers['content-type'] === 'application/json' && /^OTel-OTLP-Exporter-JavaScript/.test(headers['user-agent']), `${name}: headers of request ${index}`);
    for (const { key } of otlp.resourceSpans.flatMap((r) => r.resource.attributes)) {
      expect(/^(service|telemetry\.sdk)\./.test(key), `${name}: resource attribute ${key}`);
    }
    for (const span of otlp.resourceSpans.flatMap((r) => r.scopeSpans).flatMap((s) => s.spans)) {
      spans++;
      if (span.status?.code === 2) failures++;
      const trace = traces.get(span.traceId) ?? { roots: [], first: index };
      traces.set(span.traceId, trace);
      if (!span.parentSpanId) trace.roots.push(index);
    }
  });
  const all = [...traces.values()];
  expect(all.length === wanted, `${name}: ${all.length} traces, not ${wanted}`);
  expect(all.every((t) => t.roots.length === 1), `${name}: a trace has not exactly one root`);
  const late = all.filter((t) => t.roots[0] > t.first).length;
  const attack = name === 'billing-bot-hijacked';
  expect(text.includes(stolenTo) === attack, `${name}: the attacker's account`);
  expect(bidi.test(text) === attack, `${name}: bidi control character`);
  expect(!trails.test(text), `${name}: contains ${trails.exec(text)?.[0]}`);
  expect(!host.test(text), `${name}: contains the name of this host`);
  const { size } = statSync(path);
  expect(size < 900_000, `${name}: ${size} bytes`);
  console.log(`${name}: ${all.length} sessions, ${spans} spans (${failures} with an error), ${requests.length} requests, ${size} bytes; root later than a child in ${late}`);
}
process.exitCode = bad ? 1 : 0;
