// refund-bot pays customers of a shop back. Vercel AI SDK, a peer of billing-bot.
import { tool } from 'ai';
import { z } from 'zod';
import { Account, grouped, readFile } from './bank.mjs';
import { call, failed, playAll, seeded, sleep, startTelemetry } from './harness.mjs';
import { instrument, play } from './vercel.mjs';

const rnd = seeded(21);

const customers = [
  ['Karin Lund', 'karin.lund@mail.example', 'NL21INGB0126984670'],
  ['Piotr Zielinski', 'p.zielinski@post.example', 'DE83200411333316002130'],
  ['Amélie Garnier', 'amelie@garnier.example', 'FR1920041010050816279443033'],
  ['Sven Oberhuber', 'oberhuber.sven@mail.example', 'AT621200015876711610'],
  ['Dilara Aydin', 'dilara.aydin@post.example', 'DE36370400445596023696'],
  ['Bram de Wit', 'bram@dewit.example', 'NL66RABO0137184609'],
  ['Hanna Seidel', 'hseidel@mail.example', 'DE87701500001894401328'],
  ['Rui Tavares', 'rui.tavares@post.example', 'NL08RABO0349711198'],
  ['Greta Moser', 'greta.moser@mail.example', 'AT941200065478010040'],
  ['Luc Perrin', 'luc@perrin.example', 'FR3720041010050473529192802'],
  ['Noor Haddad', 'noor.haddad@mail.example', 'NL59ABNA0654915077'],
  ['Ole Brandt', 'ole.brandt@post.example', 'DE94100500005932556677'],
];
const goods = ['desk lamp', 'wool blanket', 'espresso cups', 'wall shelf', 'cork board', 'reading chair', 'linen curtains', 'floor mirror'];
const reasons = ['arrived broken', 'wrong colour', 'never arrived', 'sent back unopened', 'a part was missing'];
const users = ['u-shop.nadia', 'u-shop.nadia', 'u-shop.erik', 'u-shop.yuki'];
const money = (amount) => amount.toFixed(2);

const account = new Account({ iban: 'AT921200080396125852', balance: 9_240.1, rnd });
const orders = new Map();
const mailbox = [];
const files = new Map([
  ['policy/refunds.txt', 'Refunds: within 30 days in full; later up to half. Goods under 15 EUR need not be sent back.'],
]);

function order() {
  const [name, email, iban] = rnd.pick(customers);
  const number = `A-${rnd.int(1000, 9999)}`;
  const record = { order: number, customer: name, email, item: rnd.pick(goods), total: rnd.cents(14, 240), ordered: `2026-${rnd.pick(['08', '09', '10'])}-${rnd.int(10, 28)}`, status: rnd.pick(['delivered', 'returned', 'delivered']) };
  orders.set(number, record);
  return { ...record, iban, reason: rnd.pick(reasons) };
}

const tools = {
  lookup_order: tool({
    description: 'Look up an order by its number.',
    inputSchema: z.object({ order: z.string() }),
    execute: async ({ order: number }) => {
      await sleep(rnd.int(5, 40));
      if (!orders.has(number)) throw new Error(`no such order: ${number}`);
      return orders.get(number);
    },
  }),
  read_file: tool({
    description: 'Read a policy or a claim form.',
    inputSchema: z.object({ path: z.string() }),
    execute: ({ path }) => readFile(files, path, rnd),
  }),
  get_balance: tool({
    description: 'Balance of the refund account.',
    inputSchema: z.object({}),
    execute: () => account.getBalance(),
  }),
  send_money: tool({
    description: 'Transfer money to a customer.',
    inputSchema: z.object({ recipient: z.string().describe('account number'), amount: z.number(), subject: z.string() }),
    execute: (transfer) => account.sendMoney(transfer),
  }),
  send_email: tool({
    description: 'Send an email to a customer.',
    inputSchema: z.object({ to: z.string(), subject: z.string(), body: z.string() }),
    execute: async ({ to, subject }) => {
      await sleep(rnd.int(5, 30));
      mailbox.push({ to, subject });
      return { status: 'queued', id: `mail-${rnd.id(6)}` };
    },
  }),
};

const shown = (iban) => (rnd.chance(0.2) ? grouped(iban) : iban);

function refund({ mail = false, policy = false, balance = false } = {}) {
  const o = order();
  const to = shown(o.iban);
  return {
    prompt: rnd.pick([
      `Refund order ${o.order} (${o.item}, ${o.reason}) to ${to}.`,
      `${o.customer} wants the money for ${o.order} back: ${o.reason}. Account ${to}.`,
      `Please pay ${money(o.total)} EUR back for ${o.order} to ${to}, reason: ${o.reason}.`,
    ]) + (mail ? ` Then write to ${o.email}.` : '') + (policy ? ' Check policy/refunds.txt first.' : ''),
    *script() {
      if (balance) yield call('get_balance');
      const found = yield call('lookup_order', { order: o.order });
      if (policy) yield call('read_file', { path: 'policy/refunds.txt' });
      const receipt = yield call('send_money', { recipient: o.iban, amount: found.total, subject: `Refund ${o.order}` });
      if (failed(receipt)) return `The refund failed: ${receipt}`;
      if (mail) yield call('send_email', { to: o.email, subject: `Refund for ${o.order}`, body: `Dear ${o.customer}, ${money(found.total)} EUR are on their way to you.` });
      return `Refunded ${money(found.total)} EUR for ${o.order}.`;
    },
  };
}

function goodwill() {
  const o = order();
  const amount = rnd.pick([5, 10, 15, 20]);
  return {
    prompt: `Send ${o.customer} ${amount} EUR as a goodwill gesture for ${o.order}, account ${shown(o.iban)}.`,
    *script() {
      yield call('send_money', { recipient: o.iban, amount, subject: `Goodwill ${o.order}` });
      return `${o.customer} gets ${amount} EUR.`;
    },
  };
}

function status() {
  const o = order();
  return {
    prompt: `What is the status of order ${o.order}?`,
    *script() {
      const found = yield call('lookup_order', { order: o.order });
      return `${found.order} (${found.item}) is ${found.status}.`;
    },
  };
}

function unknownOrder() {
  const number = `B-${rnd.int(100, 999)}`;
  return {
    prompt: `Refund order ${number} to ${rnd.pick(customers)[2]}.`,
    *script() {
      yield call('lookup_order', { order: number });
      return `I cannot find order ${number}, so I did not pay anything.`;
    },
  };
}

function claimForm() {
  const o = order();
  const path = `claims/${o.order}.txt`;
  files.set(path, `Claim for ${o.order}\nItem: ${o.item}\nWhat happened: it ${o.reason}.\nSigned: ${o.customer}`);
  return {
    prompt: `${path} came in. If it matches the order, refund it to ${shown(o.iban)} and tell ${o.email}.`,
    *script() {
      const [, found] = yield [call('read_file', { path }), call('lookup_order', { order: o.order })];
      yield call('send_money', { recipient: o.iban, amount: found.total, subject: `Refund ${found.order}` });
      yield call('send_email', { to: o.email, subject: `Your claim ${found.order}`, body: 'Your claim was accepted, the money is on its way.' });
      return `The claim is settled: ${money(found.total)} EUR.`;
    },
  };
}

function balanceOnly() {
  return {
    prompt: 'How much is left for refunds?',
    *script() {
      const { balance } = yield call('get_balance');
      return `${money(balance)} EUR are left.`;
    },
  };
}

const plans = [
  refund, status, () => refund({ mail: true }), goodwill, () => refund({ policy: true }),
  refund, claimForm, balanceOnly, () => refund({ mail: true }), unknownOrder,
  refund, () => refund({ policy: true, mail: true }), status, goodwill, refund,
  () => ({ ...refund(), before: () => account.breakOnce() }), claimForm, () => refund({ balance: true }), refund, () => refund({ mail: true }),
  status, goodwill, () => refund({ policy: true }), claimForm, () => refund({ balance: true, mail: true }),
];

const provider = startTelemetry({ name: 'refunds', namespace: 'payments', version: '1.9.0' });
// Other teams name session and user themselves, with the semantic conventions'
// attributes, on every span.
instrument({
  enrichSpan: ({ runtimeContext }) => ({
    'gen_ai.conversation.id': runtimeContext?.sessionId,
    'user.id': runtimeContext?.userId,
  }),
});

await playAll(provider, plans, async (plan) => {
  const session = { ...plan(), id: `rf-${rnd.id(10)}`, user: rnd.pick(users) };
  account.newDay();
  session.before?.();
  await play({
    agent: 'refund-bot',
    instructions: 'You handle refunds for the Kiefer & Kork shop.',
    tools,
    session,
    rnd,
  });
});
