// The events of a stream of smg.v1, and the reply that they add up to.
//
//     const stream = collect(client.streamChat(request));
//     for await (const text of stream.textDeltas) {
//       process.stdout.write(text);
//     }
//     const reply = await stream.reply();

import type { ChatEvent, ChatResponse } from "./chat_pb.js";
import type { CompletionEvent, CompletionResponse } from "./completion_pb.js";
import type { MessageEvent, MessageResponse } from "./message_pb.js";
import type { Response, ResponseEvent } from "./response_pb.js";

/** Events that are no stream of smg.v1. */
export declare class StreamError extends Error {
  /** What is wrong. */
  readonly what: string;
  /** Which event, counted from 1; of a stream that stops too early the last. */
  readonly event: number;
}

/** The events of a call of type E, which add up to a reply of type R. */
export interface Stream<E, R> extends AsyncIterable<E> {
  /** The text of the reply as it grows: of its first choice, and without reasoning. */
  readonly textDeltas: AsyncIterable<string>;
  /** What the unary call would have returned. Reads what is left of the stream. */
  reply(): Promise<R>;
}

type Events<E> = AsyncIterable<E> | Iterable<E>;

/**
 * Read the events of a call, or of a list. A loop that was left goes on with the next one. To end the
 * call early, abort its signal.
 */
export declare function collect(events: Events<ChatEvent>): Stream<ChatEvent, ChatResponse>;
export declare function collect(
  events: Events<CompletionEvent>,
): Stream<CompletionEvent, CompletionResponse>;
export declare function collect(
  events: Events<MessageEvent>,
): Stream<MessageEvent, MessageResponse>;
export declare function collect(events: Events<ResponseEvent>): Stream<ResponseEvent, Response>;
