// Reads requests and writes replies, a line of JSON each; see executor.py.
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import {
  createRegistry,
  type DescFile,
  type DescMessage,
  fromBinary,
  fromJson,
  type JsonValue,
  type Message,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";
import { type ChatEvent } from "smg-grpc-proto/smg/v1/chat";
import { collect } from "smg-grpc-proto/smg/v1/streams";

type Request = { message: string; hex?: string; events?: string[]; json: JsonValue };

/** Every generated file of the installed package. */
async function files(): Promise<DescFile[]> {
  const entry = fileURLToPath(import.meta.resolve("smg-grpc-proto/smg/v1/chat"));
  const root = dirname(dirname(dirname(entry)));
  const found: DescFile[] = [];
  for (const name of readdirSync(root, { recursive: true, encoding: "utf8" })) {
    if (name.endsWith("_pb.js")) {
      const module: Record<string, unknown> = await import(join(root, name));
      const names = Object.keys(module).filter((key) => key.startsWith("file_"));
      found.push(...names.map((key) => module[key] as DescFile));
    }
  }
  return found;
}

const registry = createRegistry(...(await files()));

function hexOf(schema: DescMessage, message: Message): string {
  return Buffer.from(toBinary(schema, message)).toString("hex");
}

/** What the events of a stream add up to: of any type, though the types speak of chats. */
async function add(schema: DescMessage, events: string[]): Promise<object> {
  const read = events.map((event) => fromBinary(schema, Buffer.from(event, "hex")) as ChatEvent);
  const stream = collect(read);
  let text = "";
  for await (const delta of stream.textDeltas) {
    text += delta;
    break; // the next loop goes on
  }
  for await (const delta of stream.textDeltas) {
    text += delta;
  }
  const reply = await stream.reply();
  const kind = registry.getMessage(reply.$typeName);
  return kind === undefined ? { error: `no message ${reply.$typeName}` } : { text, hex: hexOf(kind, reply) };
}

async function answer(request: Request): Promise<object> {
  const schema = registry.getMessage(request.message);
  if (schema === undefined) {
    return { error: `no message ${request.message}` };
  }
  if (request.events !== undefined) {
    return add(schema, request.events);
  }
  if (request.hex === undefined) {
    return { hex: hexOf(schema, fromJson(schema, request.json)) };
  }
  const message = fromBinary(schema, Buffer.from(request.hex, "hex"));
  return { json: toJson(schema, message), hex: hexOf(schema, message) };
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply: object;
  try {
    reply = await answer(JSON.parse(line) as Request);
  } catch (error) {
    reply = { error: error instanceof Error ? error.message : String(error) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
