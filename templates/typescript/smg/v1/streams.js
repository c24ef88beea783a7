// The events of a stream of smg.v1, and the reply that they add up to.

import { clone, create, merge } from "@bufbuild/protobuf";
import { ChatChoiceSchema, ChatMessageSchema, ChatResponseSchema } from "./chat_pb.js";
import { CompletionChoiceSchema, CompletionResponseSchema } from "./completion_pb.js";
import { ContentPartSchema, ReasoningSchema, Role } from "./content_pb.js";
import { MessageBlockSchema, MessageResponseSchema } from "./message_pb.js";
import { ItemMessageSchema, ResponseItemSchema, ResponseSchema } from "./response_pb.js";
import { ToolCallSchema } from "./tool_pb.js";

export class StreamError extends Error {
  constructor(what, event) {
    super(`event ${event}: ${what}`);
    this.name = "StreamError";
    this.what = what;
    this.event = event;
  }
}

export function collect(events) {
  return new Stream(events);
}

class Stream {
  #read;
  #type = "";
  #count = 0;
  #start;
  #end;
  #between = [];

  constructor(events) {
    this.#read = this.#reading(events);
  }

  async *#reading(events) {
    for await (const event of events) {
      this.#take(event);
      yield event;
    }
    this.#finished();
  }

  #finished() {
    if (this.#end === undefined) {
      throw this.#error("the stream stopped before its end");
    }
  }

  /** Without `return`, which would end the events for good where a loop is left. */
  [Symbol.asyncIterator]() {
    return { next: () => this.#read.next() };
  }

  get textDeltas() {
    return texts(this);
  }

  async reply() {
    for await (const _ of this);
    this.#finished(); // again: the events may have ended with an error before
    const [schema, join] = streams[this.#type];
    const reply = clone(schema, this.#start);
    merge(schema, reply, clone(schema, this.#end));
    join(reply, this.#end, this.#between);
    return reply;
  }

  #take(event) {
    this.#type = event.$typeName;
    this.#count += 1;
    const { case: kind, value: content } = event.event;
    if (kind === undefined) {
      return; // of a newer kind
    }
    if (this.#end !== undefined) {
      throw this.#error(`${inProto(kind)} after end`);
    }
    if (kind === "start") {
      if (this.#start !== undefined) {
        throw this.#error("a second start");
      }
      this.#start = content;
    } else if (this.#start === undefined) {
      throw this.#error(`${inProto(kind)} before start`);
    } else if (kind === "end") {
      this.#end = content;
    } else {
      this.#between.push({ event: this.#count, kind, content });
    }
  }

  #error(what) {
    return new StreamError(what, this.#count);
  }
}

async function* texts(events) {
  for await (const { event } of events) {
    if (event.case === "delta") {
      const text = textOf(event.value);
      if (text !== "") {
        yield text;
      }
    }
  }
}

/** The next piece of the text: of the first choice, where there are several. */
function textOf(delta) {
  switch (delta.$typeName) {
    case "smg.v1.ChatDelta":
      return delta.index === 0 ? delta.content : "";
    case "smg.v1.CompletionDelta":
      return delta.index === 0 ? delta.text : "";
    default:
      return delta.delta.case === "text" ? delta.delta.value : "";
  }
}

// --- The replies: what start and end say, and between them what the pieces join to ---

const streams = {
  "smg.v1.ChatEvent": [ChatResponseSchema, joinChat],
  "smg.v1.CompletionEvent": [CompletionResponseSchema, joinCompletion],
  "smg.v1.MessageEvent": [MessageResponseSchema, joinMessage],
  "smg.v1.ResponseEvent": [ResponseSchema, joinResponse],
};

function joinChat(reply, end, between) {
  reply.choices = choices(ChatChoiceSchema, end, between).map(({ content: choice, deltas }) => {
    const message = (choice.message ??= create(ChatMessageSchema));
    message.role = Role.ASSISTANT;
    for (const name of ["content", "reasoningContent", "refusal"]) {
      message[name] += join(deltas, name);
    }
    extend(message, deltas, "annotations");
    extend(choice, deltas, "logprobs");
    extend(choice, deltas, "tokenIds");
    const calls = new Map();
    for (const piece of deltas.flatMap((delta) => delta.toolCalls)) {
      const call = calls.get(piece.index) ?? create(ToolCallSchema);
      call.id ||= piece.id;
      call.name ||= piece.name;
      call.arguments += piece.arguments;
      calls.set(piece.index, call);
    }
    message.toolCalls.push(...inOrder(calls));
    return choice;
  });
}

function joinCompletion(reply, end, between) {
  const found = choices(CompletionChoiceSchema, end, between);
  for (const { content: choice, deltas } of found) {
    choice.text += join(deltas, "text");
    extend(choice, deltas, "logprobs");
    extend(choice, deltas, "tokenIds");
  }
  reply.choices = found.map(({ content }) => content);
  if (found.length > 0) {
    const { text, logprobs, tokenIds } = reply.choices[0];
    Object.assign(reply, { text, logprobs, tokenIds });
  }
  if (!found.some(({ ended }) => ended)) {
    reply.choices = []; // one text, which is that of the reply
  }
}

function joinMessage(reply, _, between) {
  reply.blocks = parts(MessageBlockSchema, "block", between).map(({ content: block, deltas }) => {
    for (const { delta } of deltas) {
      switch (delta.case) {
        case "text":
          block.block.value += delta.value;
          break;
        case "reasoning":
          block.block.value.text += delta.value;
          break;
        case "signature":
        case "arguments":
          block.block.value[delta.case] += delta.value;
          break;
        case "annotation":
          block.annotations.push(delta.value);
          break;
      }
    }
    return block;
  });
}

function joinResponse(reply, _, between) {
  reply.output = parts(ResponseItemSchema, "item", between).map(({ content: item, deltas }) => {
    const said = new Map();
    const summaries = new Map();
    for (const { delta, contentIndex } of deltas) {
      const part = () => {
        const found = said.get(contentIndex) ?? create(ContentPartSchema);
        said.set(contentIndex, found);
        return found;
      };
      switch (delta.case) {
        case "text":
        case "refusal": {
          const at = part();
          const before = at.part.case === delta.case ? at.part.value : "";
          at.part = { case: delta.case, value: before + delta.value };
          break;
        }
        case "annotation":
          part().annotations.push(delta.value);
          break;
        case "reasoning":
          item.item.value.text += delta.value;
          break;
        case "reasoningSummary":
          summaries.set(contentIndex, (summaries.get(contentIndex) ?? "") + delta.value);
          break;
        case "arguments":
          item.item.value.arguments += delta.value;
          break;
      }
    }
    if (said.size > 0) item.item.value.parts.push(...inOrder(said));
    if (summaries.size > 0) item.item.value.summary.push(...inOrder(summaries));
    return item;
  });
}

/** The choices of a chat or a completion, in order: what the end of each says, and its deltas. */
function choices(schema, end, between) {
  const found = new Map();
  const at = (index) => {
    if (!found.has(index)) {
      found.set(index, { content: create(schema, { index }), deltas: [], ended: false });
    }
    return found.get(index);
  };
  const ends = [];
  for (const { kind, content } of between) {
    if (kind === "delta") {
      at(content.index).deltas.push(content);
    } else {
      ends.push(content);
    }
  }
  for (const said of [...ends, ...end.choices]) {
    Object.assign(at(said.index), { content: clone(schema, said), ended: true });
  }
  return inOrder(found);
}

/** The blocks or items of a reply, in order: what is known of each as a whole, and its deltas. */
function parts(schema, what, between) {
  const found = new Map();
  for (const { event, kind, content } of between) {
    const index = content.index ?? content.outputIndex;
    const known = found.get(index);
    const starts = kind === `${what}Start`;
    if (starts || kind === "itemEnd") { // all of the item; resumed streams may lack its start
      if (starts && known) {
        throw new StreamError(`${what} ${index} starts twice`, event);
      }
      const whole = content[what] ? clone(schema, content[what]) : create(schema);
      found.set(index, { content: whole, deltas: [], ended: !starts });
    } else if (!known || known.ended) {
      const state = known ? "ended" : "not started";
      throw new StreamError(`${inProto(kind)} of ${what} ${index}, which has ${state}`, event);
    } else if (kind === "delta") {
      known.deltas.push({ ...content, event });
    } else {
      known.ended = true;
    }
  }
  for (const [index, { content, deltas }] of found) {
    for (const { delta, event } of deltas) {
      const kind = kinds[what][delta.case];
      if (kind === undefined) {
        continue; // opaque, of a newer kind, or an annotation, which blocks of any kind have
      }
      content[what].case ??= kind;
      content[what].value ??= empty[kind]();
      if (content[what].case !== kind) {
        const [name, is] = [delta.case, content[what].case].map(inProto);
        throw new StreamError(`${name} of ${what} ${index}, which is ${is}`, event);
      }
    }
  }
  return inOrder(found);
}

// The kind of block or item that a kind of delta is for, and an empty one of each.
const kinds = {
  block: { text: "text", reasoning: "reasoning", signature: "reasoning", arguments: "toolCall" },
  item: {
    text: "message",
    refusal: "message",
    annotation: "message",
    reasoning: "reasoning",
    reasoningSummary: "reasoning",
    arguments: "toolCall",
  },
};
const empty = {
  text: () => "",
  message: () => create(ItemMessageSchema),
  reasoning: () => create(ReasoningSchema),
  toolCall: () => create(ToolCallSchema),
};

/** The values of a map in the order of its keys. */
function inOrder(map) {
  return [...map].sort(([a], [b]) => a - b).map(([, value]) => value);
}

function join(deltas, name) {
  return deltas.map((delta) => delta[name]).join("");
}

function extend(message, deltas, name) {
  message[name] = message[name].concat(deltas.flatMap((delta) => delta[name]));
}

/** The name of a field as proto spells it. */
function inProto(name) {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}
