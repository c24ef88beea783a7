// Calls a gateway that speaks smg.v1 and an engine that speaks vllm.grpc.engine.
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "smg-grpc-proto/google/rpc/error_details";
import { type ChatRequest, ChatRequestSchema, ChatService } from "smg-grpc-proto/smg/v1/chat";
import { CompletionService } from "smg-grpc-proto/smg/v1/completion";
import { Role } from "smg-grpc-proto/smg/v1/content";
import { SamplingParamsSchema } from "smg-grpc-proto/smg/v1/sampling";
import { VllmEngine } from "smg-grpc-proto/vllm/grpc/engine/vllm_engine";

const model = "demo-model";

/** Send a prompt and get its continuation in one reply. */
async function complete(gateway: Transport, model: string): Promise<string> {
  const reply = await createClient(CompletionService, gateway).complete({
    model,
    prompt: "The capital of France is",
    maxTokens: 16,
  });
  return reply.text;
}

function chatRequest(text: string): ChatRequest {
  return create(ChatRequestSchema, {
    model,
    messages: [{ role: Role.USER, content: text }],
  });
}

/** Send a conversation and put the answer together from its pieces. */
async function chat(gateway: Transport, text: string, timeoutMs = 60_000): Promise<string> {
  let answer = "";
  const events = createClient(ChatService, gateway).streamChat(chatRequest(text), { timeoutMs });
  for await (const { event } of events) {
    if (event.case === "delta") {
      answer += event.value.content;
    }
  }
  return answer;
}

/** Ask an engine, without a gateway before it: text in, token ids out. */
async function generate(engine: Transport): Promise<string> {
  const replies = createClient(VllmEngine, engine).generate({
    requestId: "example",
    input: { case: "text", value: "Hello" },
    samplingParams: { temperature: 0, maxTokens: 8 },
    stream: true,
  });
  const tokens: number[] = [];
  for await (const { response } of replies) {
    switch (response.case) {
      case "chunk":
        tokens.push(...response.value.tokenIds);
        break;
      case "complete":
        return `[${tokens.join(" ")}] ${response.value.finishReason}`;
    }
  }
  throw new Error("the stream ended before the generation did");
}

/** Stop a stream early; the server notices and stops generating. */
async function cancelAfterFirst(gateway: Transport): Promise<void> {
  const abort = new AbortController();
  const request = chatRequest("Tell me a long story");
  request.sampling = create(SamplingParamsSchema, { ignoreEos: true });
  const events = createClient(ChatService, gateway).streamChat(request, { signal: abort.signal });
  for await (const _ of events) {
    abort.abort();
  }
}

/** Read the typed details of a failed call. */
async function failure(call: Promise<unknown>): Promise<string> {
  try {
    await call;
  } catch (thrown) {
    const error = ConnectError.from(thrown);
    const reasons = error.findDetails(ErrorInfoSchema).map((info) => info.reason);
    return [Code[error.code], ...reasons].join(" ");
  }
  return "no failure";
}

const [gatewayAddress, engineAddress] = process.argv.slice(2);
if (gatewayAddress === undefined || engineAddress === undefined) {
  console.error("usage: main.js GATEWAY ENGINE, each as host:port");
  process.exit(2);
}
const gateway = createGrpcTransport({ baseUrl: `http://${gatewayAddress}` });
const engine = createGrpcTransport({ baseUrl: `http://${engineAddress}` });

console.log(`completion: ${await complete(gateway, model)}`);
console.log(`chat: ${await chat(gateway, "Who are you?")}`);
console.log(`generate: ${await generate(engine)}`);
console.log(`cancel: ${await failure(cancelAfterFirst(gateway))}`);
console.log(`deadline: ${await failure(chat(gateway, "Take your time", 200))}`);
console.log(`error: ${await failure(complete(gateway, "no-such-model"))}`);
process.exit(0); // Connections are kept for reuse, and would keep the process.
