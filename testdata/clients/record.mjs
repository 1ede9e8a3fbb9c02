// Runs every agent and writes down the OTLP requests they send.
//   node record.mjs [folder for the captures] [names...]
import { spawn } from 'node:child_process';
import { createWriteStream, mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

const captures = [
  ['billing-bot', 'billing-bot.mjs', 'history'],
  ['refund-bot', 'refund-bot.mjs'],
  ['support-desk', 'support-desk.mjs'],
  ['research-crew', 'research-crew.mjs'],
  ['billing-bot-hijacked', 'billing-bot.mjs', 'hijacked'],
  ['billing-bot-control', 'billing-bot.mjs', 'control'],
];

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const [folder = here('../captures'), ...only] = process.argv.slice(2);
mkdirSync(folder, { recursive: true });

let out;
let requests = 0;

// The body is stored as it came, not parsed and written again.
const server = createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const headers = {
    path: request.url,
    'content-type': request.headers['content-type'],
    'user-agent': request.headers['user-agent'],
  };
  out.write(`{"headers":${JSON.stringify(headers)},"otlp":${Buffer.concat(chunks).toString('utf8')}}\n`);
  requests++;
  response.writeHead(200, { 'content-type': 'application/json' }).end('{}');
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));

const env = {
  // Nothing of this machine's environment reaches the SDKs.
  PATH: process.env.PATH,
  OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${server.address().port}`,
};

for (const [name, script, ...args] of captures) {
  if (only.length && !only.includes(name)) continue;
  out = createWriteStream(`${folder}/${name}.jsonl`);
  requests = 0;
  const child = spawn(process.execPath, [here(script), ...args], { env, stdio: ['ignore', 'inherit', 'inherit'] });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  await new Promise((resolve) => out.end(resolve));
  if (code !== 0) throw new Error(`${script} ended with code ${code}`);
  console.log(`${name}: ${requests} requests`);
}
server.close();
