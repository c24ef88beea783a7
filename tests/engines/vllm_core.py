"""Stands in for vLLM's engine core behind the real frontend: python -m engines.vllm_core ADDRESS

Speaks the protocol of vLLM 0.33 over ZeroMQ and msgpack: it joins the frontend's handshake at
ADDRESS, takes requests, aborts and utility calls, and answers with tokens of the small model. What
the frontend does is left to it: text, stop strings, and all that the two contracts say.
"""

import json
import struct
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgpack
import zmq

from engines.standin import CONTEXT, Parent, answer
from smg_proto.testing._generation import Piece, Sampling, Step, score
from smg_proto.testing._json_schema import smallest_text
from smg_proto.testing._model import model

ADD, ABORT, UTILITY = 0, 1, 3  # kinds of requests
STOP, LENGTH, ABORTED = 0, 1, 2  # finish reasons
IDENTITY = (0).to_bytes(2, "little")
READY = {
    "max_model_len": CONTEXT,
    "num_gpu_blocks": 256,
    "block_size": 16,
    "dp_stats_address": None,
    "dtype": "float32",
    "vllm_version": "0.33.0",
    "world_size": 1,
    "data_parallel_size": 1,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "decode_context_parallel_size": 1,
    "data_parallel_rank": 0,
    "max_num_seqs": 256,
    "max_num_batched_tokens": 8192,
    "instance_id": "stand-in",
    "supports_lora": False,
    "max_loras": 0,
}
UTILITIES = {
    "get_supported_tasks": ["generate"],
    "is_sleeping": False,
    "is_scheduler_paused": False,
    "reset_prefix_cache": True,
}


@dataclass
class Request:
    prompt: list[int]
    sent: dict[str, Any]
    began: bool = False
    due: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        sent = self.sent
        self.pieces = answer(
            self.prompt,
            Sampling(
                max_tokens=sent.get("max_tokens"),
                temperature=sent.get("temperature", 1.0),
                top_p=sent.get("top_p", 1.0),
                top_k=max(sent.get("top_k", 0), 0),
                min_p=sent.get("min_p", 0.0),
                frequency_penalty=sent.get("frequency_penalty", 0.0),
                presence_penalty=sent.get("presence_penalty", 0.0),
                repetition_penalty=sent.get("repetition_penalty", 1.0),
                logit_bias=tuple(sorted((sent.get("logit_bias") or {}).items())),
                seed=sent.get("seed") or 0,
                min_tokens=sent.get("min_tokens", 0),
                stop_token_ids=tuple(sent.get("stop_token_ids") or ()),
                ignore_eos=sent.get("_eos_token_id") is None,
                logprobs=sent.get("logprobs"),
                replacement=_constrained(sent.get("structured_outputs") or {}),
            ),
        )

    def output(self, name: str) -> tuple[list[Any], bool]:
        """The next token as the frontend wants it, and whether it is the last."""
        piece = next(self.pieces)
        first, self.began = not self.began, True
        finish = {"stop": STOP, "length": LENGTH}.get(piece.finish_reason)
        stats = {"num_prompt_tokens": len(self.prompt), "num_computed_tokens": len(self.prompt)}
        return [
            name,
            [piece.step.token],
            self._logprobs(piece),
            self._prompt_logprobs() if first else None,
            None,
            finish,
            piece.matched,
            *[None] * 4,
            stats if first else None,
        ], finish is not None

    def _logprobs(self, piece: Piece) -> list[Any] | None:
        count = self.sent.get("logprobs")
        return None if count is None else _table([_row(piece.step, count)], "<i4", "<f4")

    def _prompt_logprobs(self) -> list[Any] | None:
        count = self.sent.get("prompt_logprobs")
        if count is None:
            return None
        rows = [_row(step, count) for step in score(model(), self.prompt, count)]
        return _table(rows, "int32", "float32")


def _constrained(sent: dict[str, Any]) -> str | None:
    """A text that keeps to the constraint; the model is free of those that it does not know."""
    if "json" in sent or sent.get("json_object"):
        schema = sent.get("json", "")
        return smallest_text(schema if isinstance(schema, str) else json.dumps(schema))
    choices: list[str] = sent.get("choice") or []
    return choices[0] if choices else None


Row = list[tuple[int, float]]


def _row(step: Step, count: int) -> Row:
    """The token itself, then the likeliest: count of them, or fewer if the model knows no more."""
    return [(step.token, step.logprob), *step.top[:count]]


def _table(rows: Sequence[Row], integer: str, real: str) -> list[Any]:
    """Token ids, log probabilities and ranks of the tokens themselves, as arrays."""
    width = max(map(len, rows), default=1)
    rows = [row + row[:1] * (width - len(row)) for row in rows]
    cells = list(chain.from_iterable(rows))
    ranks = [1 + sum(value > row[0][1] for _, value in row[1:]) for row in rows]
    shape = [len(rows), width]
    return [
        _array(integer, shape, struct.pack(f"<{len(cells)}i", *(token for token, _ in cells))),
        _array(real, shape, struct.pack(f"<{len(cells)}f", *(value for _, value in cells))),
        _array(integer, shape[:1], struct.pack(f"<{len(ranks)}i", *ranks)),
        None,
    ]


def _array(kind: str, shape: list[int], data: bytes) -> list[Any]:
    return [kind, shape, msgpack.ExtType(3, data)]


class Core:
    def __init__(self, handshake: str, parent: Parent) -> None:
        self.parent = parent
        self.requests: dict[str, Request] = {}
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        shaking = self._dealer(handshake)
        shaking.send(_status("HELLO"))
        addresses = msgpack.unpackb(shaking.recv())["addresses"]
        self.input = self._dealer(addresses["inputs"][0])
        self.input.send(msgpack.packb(READY))
        self.replies = self.context.socket(zmq.PUSH)
        self.replies.connect(addresses["outputs"][0])
        shaking.send(_status("READY"))
        parent.tell("ready")

    def _dealer(self, address: str) -> "zmq.Socket[bytes]":
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, IDENTITY)
        socket.connect(address)
        return socket

    def serve(self) -> None:
        while True:
            due = min((request.due for request in self.requests.values()), default=None)
            wait = 100 if due is None else max(int((due - time.monotonic()) * 1000), 0)
            while self.input.poll(min(wait, 100)):
                wait = 0
                self._take(self.input.recv_multipart())
            self._step()

    def _take(self, frames: list[bytes]) -> None:
        kind = frames[0][0]
        result: Any = msgpack.unpackb(frames[1], strict_map_key=False)
        if kind == ADD:
            self.requests[result[0]] = Request(result[1], result[3])
            self.parent.tell("start", id=result[0])
        elif kind == ABORT:
            gone = [name for name in result if self.requests.pop(name, None)]
            for name in gone:
                self.parent.tell("abort", id=name)
            if gone:  # the frontend cannot read a message that says nothing
                self._send([[name, [], None, None, None, ABORTED] for name in gone], gone)
        elif kind == UTILITY:
            _, call, name, _ = result
            self._send([], [], [call, None, [None, UTILITIES.get(name)]])

    def _step(self) -> None:
        """One token for each request that is due."""
        now = time.monotonic()
        outputs: list[list[Any]] = []
        ended: list[str] = []
        for name, request in list(self.requests.items()):
            if request.due > now:
                continue
            output, last = request.output(name)
            outputs.append(output)
            request.due = now + self.parent.delay
            if last:
                ended.append(name)
                del self.requests[name]
                self.parent.tell("end", id=name)
        if outputs:
            self._send(outputs, ended)

    def _send(self, outputs: list[list[Any]], ended: list[str], utility: Any = None) -> None:
        message = [0, outputs, None, time.monotonic(), utility, ended or None]
        self.replies.send(msgpack.packb(message))


def _status(status: str) -> bytes:
    result = {"status": status, "local": False, "headless": True, "parallel_config_hash": None}
    packed: bytes = msgpack.packb(result)
    return packed


if __name__ == "__main__":
    Core(sys.argv[1], Parent()).serve()
