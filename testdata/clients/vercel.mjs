// Runs a scripted session on the Vercel AI SDK.
import { isStepCount, registerTelemetry, ToolLoopAgent } from 'ai';
import { MockLanguageModelV4 } from 'ai/test';
import { OpenTelemetry } from '@ai-sdk/otel';
import { ScriptedModel, tokens } from './harness.mjs';

export function instrument(options) {
  registerTelemetry(new OpenTelemetry(options));
}

export async function play({ agent, instructions, tools, session, rnd }) {
  const scripted = new ScriptedModel(session.script, rnd);
  const model = new MockLanguageModelV4({
    provider: 'scripted.chat',
    modelId: 'scripted-1',
    doGenerate: async ({ prompt }) => answer(await scripted.turn(toolResults(prompt)), prompt, rnd),
  });
  const loop = new ToolLoopAgent({
    id: agent,
    model,
    instructions,
    tools,
    stopWhen: isStepCount(8),
    telemetry: { functionId: agent, includeRuntimeContext: { sessionId: true, userId: true } },
  });
  await loop.generate({
    prompt: session.prompt,
    runtimeContext: { sessionId: session.id, userId: session.user },
  });
}

function toolResults(prompt) {
  const last = prompt.at(-1);
  if (last.role !== 'tool') return [];
  return last.content.map(({ output }) => (typeof output.value === 'string' ? output.value : JSON.stringify(output.value)));
}

function answer({ text, calls }, prompt, rnd) {
  const content = calls.length
    ? calls.map((c) => ({ type: 'tool-call', toolCallId: c.id, toolName: c.name, input: JSON.stringify(c.args) }))
    : [{ type: 'text', text }];
  const input = tokens(prompt);
  const output = tokens(content);
  return {
    content,
    finishReason: calls.length ? { unified: 'tool-calls', raw: 'tool_calls' } : { unified: 'stop', raw: 'stop' },
    usage: {
      inputTokens: { total: input, noCache: input, cacheRead: 0, cacheWrite: 0 },
      outputTokens: { total: output, text: output, reasoning: 0 },
    },
    warnings: [],
    response: { id: `resp_${rnd.id(12)}`, modelId: 'scripted-1' },
  };
}
