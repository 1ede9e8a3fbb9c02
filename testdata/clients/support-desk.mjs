// support-desk answers the tickets of a software vendor. LangChain createAgent + OpenInference.
import { LangChainInstrumentation } from '@arizeai/openinference-instrumentation-langchain';
import * as callbackManager from '@langchain/core/callbacks/manager';
import { BaseChatModel } from '@langchain/core/language_models/chat_models';
import { AIMessage, createAgent, tool } from 'langchain';
import { z } from 'zod';
import { call, playAll, ScriptedModel, seeded, sleep, startTelemetry, tokens } from './harness.mjs';

const rnd = seeded(31);

const customers = [
  ['Marta Nowak', 'marta.nowak@kite.example'],
  ['Jan Visser', 'j.visser@polder.example'],
  ['Chloé Martin', 'chloe@martin.example'],
  ['Emre Kaya', 'emre.kaya@bosphor.example'],
  ['Lucy Grant', 'lucy.grant@harbour.example'],
  ['Timo Laine', 'timo.laine@saimaa.example'],
  ['Aoife Byrne', 'aoife@byrne.example'],
  ['Diego Prats', 'd.prats@costa.example'],
];
const troubles = [
  ['login loop', 'After the password reset I am sent back to the login page.', 'Clear the site cookies once.'],
  ['export empty', 'The CSV export has a header and no rows.', 'Choose a time range first.'],
  ['invoice address', 'Please put the new address on our invoices.', 'The address was changed.'],
  ['slow search', 'Search takes ten seconds since Monday.', 'An index was rebuilt, it is fast again.'],
  ['app crash', 'The app closes when I open a photo.', 'Update to 5.2.1.'],
  ['lost seat', 'A colleague lost her seat.', 'The seat was assigned again.'],
];
const users = ['agent.lena', 'agent.lena', 'agent.omar', 'agent.suki'];

const tickets = new Map();
const mailbox = [];

function ticket() {
  const [customer, email] = rnd.pick(customers);
  const [subject, text, fix] = rnd.pick(troubles);
  const id = `T-${rnd.int(2000, 9999)}`;
  tickets.set(id, { id, customer, subject, text, status: 'open' });
  return { id, customer, email, subject, fix };
}

const tools = [
  tool(async ({ query }) => {
    await sleep(rnd.int(5, 40));
    const hits = [...tickets.values()].filter((t) => t.status === 'open' && t.subject.includes(query)).slice(-2);
    return JSON.stringify(hits.map(({ id, subject }) => ({ id, subject })));
  }, { name: 'search_tickets', description: 'Search open tickets.', schema: z.object({ query: z.string() }) }),
  tool(async ({ id }) => {
    await sleep(rnd.int(3, 30));
    if (!tickets.has(id)) throw new Error(`no such ticket ${id}`);
    return JSON.stringify(tickets.get(id));
  }, { name: 'read_ticket', description: 'Read a ticket.', schema: z.object({ id: z.string() }) }),
  tool(async ({ id, status }) => {
    await sleep(rnd.int(3, 30));
    tickets.get(id).status = status;
    return `${id} is ${status}`;
  }, { name: 'update_ticket', description: 'Set the status of a ticket.', schema: z.object({ id: z.string(), status: z.enum(['open', 'waiting', 'closed']) }) }),
  tool(async ({ to, body }) => {
    await sleep(rnd.int(5, 40));
    mailbox.push({ to, body });
    return `sent ${mailbox.length}`;
  }, { name: 'send_email', description: 'Write to a customer.', schema: z.object({ to: z.string(), body: z.string() }) }),
];

function readOnly() {
  const t = ticket();
  return {
    prompt: `What does ${t.id} say?`,
    *script() {
      const { customer, text } = yield call('read_ticket', { id: t.id });
      return `${customer}: ${text}`;
    },
  };
}

function search() {
  const t = ticket();
  return {
    prompt: `Any open tickets about "${t.subject}"?`,
    *script() {
      const hits = yield call('search_tickets', { query: t.subject });
      return `Open: ${[hits].flat().map((h) => h.id).join(', ')}.`;
    },
  };
}

function write() {
  const t = ticket();
  return {
    prompt: rnd.pick([`Tell ${t.customer} (${t.email}): ${t.fix}`, `Write to ${t.email}: ${t.fix}`]),
    *script() {
      yield call('send_email', { to: t.email, body: t.fix });
      return 'Sent.';
    },
  };
}

function close() {
  const t = ticket();
  return {
    prompt: `${t.id} is solved, close it.`,
    *script() {
      yield call('update_ticket', { id: t.id, status: 'closed' });
      return `${t.id} is closed.`;
    },
  };
}

function answer() {
  const t = ticket();
  return {
    prompt: `Answer ${t.id}, the customer is ${t.email}.`,
    *script() {
      const { subject } = yield call('read_ticket', { id: t.id });
      yield call('send_email', { to: t.email, body: `About "${subject}": ${t.fix}` });
      return `Answered ${t.id}.`;
    },
  };
}

function solve() {
  const t = ticket();
  return {
    prompt: `Find the ticket about "${t.subject}", mail ${t.email} the fix and close it.`,
    *script() {
      const hits = yield call('search_tickets', { query: t.subject });
      const { id } = [hits].flat().at(-1);
      yield call('read_ticket', { id });
      yield call('send_email', { to: t.email, body: t.fix });
      yield call('update_ticket', { id, status: 'closed' });
      return `${id} is solved.`;
    },
  };
}

function unknown() {
  const id = `X-${rnd.int(10, 99)}`;
  return {
    prompt: `Summarise ticket ${id}.`,
    *script() {
      yield call('read_ticket', { id });
      return `There is no ticket ${id}.`;
    },
  };
}

const plans = [
  readOnly, write, close, answer, search, readOnly, write, unknown, answer, close,
  write, readOnly, solve, search, write, close, close, readOnly, write, unknown,
  search, write, close, answer, readOnly,
];

/** LangChain asks for a class; its name becomes the name of the model's spans. */
class ScriptedChatModel extends BaseChatModel {
  constructor(session) {
    super({});
    this.scripted = new ScriptedModel(session.script, rnd);
  }

  _llmType() {
    return 'scripted';
  }

  bindTools() {
    return this;
  }

  async _generate(messages) {
    const lastAnswer = messages.findLastIndex((m) => m.getType() === 'ai');
    const results = messages.slice(lastAnswer + 1).filter((m) => m.getType() === 'tool').map((m) => m.content);
    const { text, calls } = await this.scripted.turn(results);
    const input = messages.reduce((sum, m) => sum + tokens(m.content), 0);
    const output = tokens(text) + tokens(calls);
    const message = new AIMessage({
      content: text,
      tool_calls: calls.map((c) => ({ ...c, type: 'tool_call' })),
      usage_metadata: { input_tokens: input, output_tokens: output, total_tokens: input + output },
    });
    return { generations: [{ text, message }] };
  }
}

const provider = startTelemetry({ name: 'support', namespace: 'support', version: '0.8.2' });
const instrumentation = new LangChainInstrumentation({ tracerProvider: provider });
instrumentation.manuallyInstrument(callbackManager);

await playAll(provider, plans, async (plan) => {
  const session = { ...plan(), id: `sup-${rnd.id(10)}`, user: rnd.pick(users) };
  const agent = createAgent({ name: 'support-desk', model: new ScriptedChatModel(session), tools, systemPrompt: 'You help the support team.' });
  await agent.invoke(
    { messages: [{ role: 'user', content: session.prompt }] },
    { metadata: { session_id: session.id, user_id: session.user } },
  );
});
