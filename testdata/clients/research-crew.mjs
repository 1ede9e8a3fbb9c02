// research-crew looks things up and takes notes. OpenAI Agents SDK + OpenInference.
// A benign agent whose arguments normally come out of tool results.
import { createServer } from 'node:http';
import { OpenAIAgentsInstrumentation } from '@arizeai/openinference-instrumentation-openai-agents';
import * as agents from '@openai/agents';
import OpenAI from 'openai';
import { z } from 'zod';
import { call, failed, playAll, ScriptedModel, seeded, sleep, startTelemetry, tokens } from './harness.mjs';

const rnd = seeded(41);

const web = [
  ['https://hydro.example/tides/2026-outlook', 'Tidal power outlook 2026', 'tidal power', 'Installed tidal capacity grew to 68 MW; two arrays are under construction.'],
  ['https://energyjournal.example/a/tidal-costs', 'What tidal power costs', 'tidal power', 'The levelised cost fell to 0.19 EUR per kWh, still twice that of offshore wind.'],
  ['https://rail.example/night-trains/routes', 'Night train routes', 'night trains', 'Eleven new night routes opened; Hamburg to Milan is the longest.'],
  ['https://blog.sleepers.example/2026/bookings', 'Night train bookings', 'night trains', 'Bookings rose by 14 percent; berths in summer sell out in March.'],
  ['https://soil.example/biochar/field-trials', 'Biochar field trials', 'biochar', 'Yields rose by 9 percent on sandy soil and did not change on clay.'],
  ['https://agri.example/reports/biochar.html', 'Biochar in practice', 'biochar', 'Farmers pay 310 EUR a tonne; transport is a third of that.'],
  ['https://cities.example/trees/survey-7', 'Street tree survey', 'street trees', 'Lime and plane are 41 percent of all street trees; survival after five years is 78 percent.'],
  ['https://shade.example/methods', 'Measuring shade', 'street trees', 'Crown cover is measured from the air in July, between ten and two.'],
  ['https://batteries.example/sodium/overview', 'Sodium cells', 'sodium batteries', 'Sodium cells reach 160 Wh per kg and keep 90 percent at minus 20 degrees.'],
  ['https://grid.example/storage/sodium-pilot', 'A sodium pilot plant', 'sodium batteries', 'The pilot stores 10 MWh; its operator reports no fires in 14 months.'],
  ['https://oceans.example/kelp/farming', 'Kelp farming', 'kelp', 'A hectare yields 20 tonnes; storms are the main risk.'],
  ['https://foodlab.example/kelp-flour', 'Flour made of kelp', 'kelp', 'Up to 4 percent of kelp flour does not change the taste of bread.'],
].map(([url, title, topic, text]) => ({ url, title, topic, text }));
const topics = [...new Set(web.map((page) => page.topic))];
const gone = 'https://archive.example/removed/';
const notes = [];

const tools = [
  agents.tool({
    name: 'web_search',
    description: 'Search the web.',
    parameters: z.object({ query: z.string() }),
    execute: async ({ query }) => {
      await sleep(rnd.int(10, 60));
      const hits = web.filter((page) => query.includes(page.topic)).map(({ url, title }) => ({ url, title }));
      // Search engines know pages that are gone.
      if (query.includes('archive')) hits.unshift({ url: gone + rnd.id(5), title: 'Archived page' });
      return JSON.stringify(rnd.chance(0.5) ? hits.reverse() : hits);
    },
  }),
  agents.tool({
    name: 'fetch_url',
    description: 'Fetch a page.',
    parameters: z.object({ url: z.string() }),
    execute: async ({ url }) => {
      await sleep(rnd.int(10, 60));
      const page = web.find((p) => p.url === url);
      if (!page) throw new Error(`fetch failed: 404 ${url}`);
      return `${page.title}. ${page.text}`;
    },
  }),
  agents.tool({
    name: 'save_note',
    description: 'Save a note.',
    parameters: z.object({ title: z.string(), text: z.string() }),
    execute: async ({ title }) => {
      await sleep(rnd.int(3, 15));
      notes.push(title);
      return `saved as note ${notes.length}`;
    },
  }),
];

const query = (topic) => rnd.pick([topic, `${topic} 2026`, `latest on ${topic}`]);
const summary = (text) => text.slice(text.indexOf('. ') + 2);

function searchOnly() {
  const topic = rnd.pick(topics);
  return {
    prompt: `Where can I read about ${topic}?`,
    *script() {
      const hits = yield call('web_search', { query: query(topic) });
      return hits.map((h) => `${h.title}: ${h.url}`).join('; ');
    },
  };
}

function look() {
  const topic = rnd.pick(topics);
  return {
    prompt: rnd.pick([`What is new about ${topic}?`, `Give me one fact about ${topic}.`]),
    *script() {
      const hits = yield call('web_search', { query: query(topic) });
      return summary(yield call('fetch_url', { url: hits[0].url }));
    },
  };
}

function note() {
  const topic = rnd.pick(topics);
  return {
    prompt: `Look into ${topic} and save a note.`,
    *script() {
      const hits = yield call('web_search', { query: query(topic) });
      const text = yield call('fetch_url', { url: hits[0].url });
      yield call('save_note', { title: hits[0].title, text: summary(text) });
      return `I saved a note about ${topic}.`;
    },
  };
}

function compare() {
  const topic = rnd.pick(topics);
  return {
    prompt: `Compare two sources on ${topic}, keep a note.`,
    *script() {
      const [first, second] = yield call('web_search', { query: query(topic) });
      const [a, b] = yield [call('fetch_url', { url: first.url }), call('fetch_url', { url: second.url })];
      yield call('save_note', { title: `Two sources on ${topic}`, text: `${summary(a)} ${summary(b)}` });
      return `Both are in the note on ${topic}.`;
    },
  };
}

function given() {
  const page = rnd.pick(web);
  return {
    prompt: `Summarise ${page.url} please.`,
    *script() {
      return summary(yield call('fetch_url', { url: page.url }));
    },
  };
}

function deadLink() {
  const topic = rnd.pick(topics);
  return {
    prompt: `Search the archive for ${topic}.`,
    *script() {
      const hits = yield call('web_search', { query: `archive ${topic}` });
      const first = yield call('fetch_url', { url: hits[0].url });
      if (!failed(first)) return summary(first);
      return summary(yield call('fetch_url', { url: hits[1].url }));
    },
  };
}

const plans = [
  look, searchOnly, note, given, look, compare, note, look, deadLink, searchOnly,
  note, look, given, compare, note, look, note, searchOnly, look, note,
  deadLink, given, compare, look, note,
];

// A server in place of the provider's, so that the SDK's own model class runs
// and writes its spans.
let scripted;
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { model, input } = JSON.parse(Buffer.concat(chunks).toString('utf8'));
  const lastCall = input.findLastIndex((item) => item.type === 'function_call');
  const results = input.slice(lastCall + 1).filter((item) => item.type === 'function_call_output').map((item) => item.output);
  const { text, calls } = await scripted.turn(results);
  const output = calls.length
    ? calls.map((c) => ({ type: 'function_call', id: `fc_${rnd.id(8)}`, call_id: c.id, name: c.name, arguments: JSON.stringify(c.args), status: 'completed' }))
    : [{ type: 'message', id: `msg_${rnd.id(8)}`, role: 'assistant', status: 'completed', content: [{ type: 'output_text', text, annotations: [] }] }];
  const used = { input_tokens: tokens(input), output_tokens: tokens(output) };
  response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify({
    id: `resp_${rnd.id(12)}`,
    object: 'response',
    created_at: Math.floor(Date.now() / 1000),
    status: 'completed',
    model,
    output,
    parallel_tool_calls: true,
    tool_choice: 'auto',
    usage: {
      ...used,
      total_tokens: used.input_tokens + used.output_tokens,
      input_tokens_details: { cached_tokens: 0 },
      output_tokens_details: { reasoning_tokens: 0 },
    },
  }));
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const provider = startTelemetry({ name: 'research', namespace: 'research', version: '2.0.3' });
// This also replaces the SDK's own exporter, which would send to the provider.
new OpenAIAgentsInstrumentation({ tracerProvider: provider }).manuallyInstrument(agents);
agents.setDefaultOpenAIClient(new OpenAI({ apiKey: 'none', baseURL: `http://127.0.0.1:${server.address().port}/v1`, maxRetries: 0 }));

const agent = new agents.Agent({ name: 'research-crew', instructions: 'You research and take notes.', model: 'scripted-1', tools });

await playAll(provider, plans, async (plan) => {
  const session = { ...plan(), id: `res-${rnd.id(10)}` };
  scripted = new ScriptedModel(session.script, rnd);
  await agents.withTrace('Research', () => agents.run(agent, session.prompt), { groupId: session.id });
});
server.close();
server.closeAllConnections();
