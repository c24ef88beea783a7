// Reads requests and writes replies, a line of JSON each; see executor.py.
import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import {
  createRegistry,
  type DescFile,
  fromBinary,
  fromJson,
  type JsonValue,
  toBinary,
  toJson,
} from "@bufbuild/protobuf";

type Request = { message: string; hex?: string; json: JsonValue };

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

function answer(request: Request): object {
  const schema = registry.getMessage(request.message);
  if (schema === undefined) {
    return { error: `no message ${request.message}` };
  }
  if (request.hex === undefined) {
    const message = fromJson(schema, request.json);
    return { hex: Buffer.from(toBinary(schema, message)).toString("hex") };
  }
  const message = fromBinary(schema, Buffer.from(request.hex, "hex"));
  const hex = Buffer.from(toBinary(schema, message)).toString("hex");
  return { json: toJson(schema, message), hex };
}

for await (const line of createInterface({ input: process.stdin })) {
  let reply: object;
  try {
    reply = answer(JSON.parse(line) as Request);
  } catch (error) {
    reply = { error: String(error) };
  }
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
