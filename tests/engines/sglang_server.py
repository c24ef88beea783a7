"""SGLang's own gRPC server over a stand-in: python -m engines.sglang_server MODULE FOLDER [--incremental]

MODULE is the compiled `_grpc` out of SGLang's wheel; FOLDER takes the model's files. The server is
the module's; the handle that it calls answers as SGLang's runtime does, from the small model.
Prints the port with the event "ready".
"""

import argparse
import importlib.util
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engines.standin import CONTEXT, Parent, answer, write_model
from smg_proto.testing._generation import Piece, Sampling, Step
from smg_proto.testing._json_schema import smallest_text
from smg_proto.testing._model import model

Callback = Callable[..., Any]


class Handle:
    """What the module asks of the runtime, by the names that it uses."""

    def __init__(self, parent: Parent, folder: Path, incremental: bool) -> None:
        self.parent = parent
        self.incremental = incremental
        self.home = write_model(folder)
        self.aborted: set[str] = set()
        self.running: set[str] = set()
        self.scheduler_info: dict[str, Any] = {}
        config = SimpleNamespace(context_len=CONTEXT)
        self.tokenizer_manager = SimpleNamespace(model_config=config)
        self.server_args = SimpleNamespace(
            tokenizer_path=str(self.home),
            model_path=str(self.home),
            tokenizer_mode="auto",
            served_model_name=model().name,
            skip_tokenizer_init=False,
        )

    def set_engine_state_changed_callback(self, callback: Callback) -> None:
        pass

    def submit_request(
        self, *, req_type: str, req_dict: dict[str, Any], chunk_callback: Callback, **_: Any
    ) -> None:
        work = {"generate": self._generate, "embed": self._embed}[req_type]
        threading.Thread(target=work, args=(req_dict, chunk_callback), daemon=True).start()

    def abort(self, rid: str = "", abort_all: bool = False) -> None:
        self.aborted |= set(self.running) if abort_all else {rid} & self.running

    def get_model_info(self) -> str:
        told = {"model_path": str(self.home), "served_model_name": model().name}
        return json.dumps({**told, "is_generation": True, "model_type": "smg_demo"})

    def get_server_info(self) -> str:
        return json.dumps({"version": "0.5.23", "max_running_requests": 256, "page_size": 16})

    def health_check(self) -> bool:
        return True

    def is_pause(self) -> bool:
        return False

    def list_models(self) -> str:
        name = model().name
        return json.dumps([{"id": name, "root": name, "max_model_len": CONTEXT}])

    def tokenize(self, text: str, add_special_tokens: bool = True) -> str:
        tokens = model().tokenizer.encode(text)
        told = {"tokens": tokens, "count": len(tokens)}
        return json.dumps({**told, "max_model_len": CONTEXT, "input_text": text})

    def detokenize(self, tokens: list[int]) -> str:
        return json.dumps({"text": model().tokenizer.decode(tokens)})

    def get_load(self, chunk_callback: Callback, dp_rank: int | None = None) -> None:
        load = {"dp_rank": 0, "num_running_reqs": len(self.running), "num_waiting_reqs": 0}
        chunk_callback(json.dumps([load]).encode(), finished=True)

    def flush_cache(self, chunk_callback: Callback) -> None:
        told = {"success": True, "message": "Cache flushed."}
        chunk_callback(json.dumps(told).encode(), finished=True)

    def _embed(self, asked: dict[str, Any], tell: Callback) -> None:
        tokens = _prompt(asked)
        meta = {"id": asked["rid"], "prompt_tokens": len(tokens)}
        tell({"embedding": model().embed(tokens), "meta_info": meta}, finished=True)

    def _generate(self, asked: dict[str, Any], tell: Callback) -> None:
        rid: str = asked["rid"]
        self.running.add(rid)
        self.parent.tell("start", id=rid)
        how = "end"
        try:
            how = self._answer(asked, tell)
        except ValueError as error:  # as SGLang's runtime tells of what it refuses
            tell({}, finished=True, error=str(error))
        finally:
            self.running.discard(rid)
            self.aborted.discard(rid)
            self.parent.tell(how, id=rid)

    def _answer(self, asked: dict[str, Any], tell: Callback) -> str:
        """Send the chunks of a request; how it ended."""
        rid: str = asked["rid"]
        prompt = _prompt(asked)
        wanted: dict[str, Any] = asked.get("sampling_params") or {}
        _check(prompt, wanted)
        many = wanted.get("n") or 1
        choices = [_Choice(asked, wanted, prompt, index) for index in range(many)]
        open_choices = list(choices)
        while open_choices:
            time.sleep(self.parent.delay)
            for choice in list(open_choices):
                if rid in self.aborted:
                    choice.abort()
                else:
                    choice.take()
                if choice.ended:
                    open_choices.remove(choice)
                if asked.get("stream"):
                    chunk = choice.chunk(incremental=self.incremental)
                    if _is_closed(tell(chunk, finished=not open_choices)):
                        return "abort"
        if not asked.get("stream"):
            for number, choice in enumerate(choices, start=1):
                tell(choice.chunk(incremental=False), finished=number == many)
        return "abort" if rid in self.aborted else "end"


class _Choice:
    """One sequence of a request: what it has so far, and what has been sent of it."""

    def __init__(
        self, asked: dict[str, Any], wanted: dict[str, Any], prompt: list[int], index: int
    ) -> None:
        self.asked, self.prompt, self.index = asked, prompt, index
        self.pieces = answer(prompt, _sampling(asked, wanted), index)
        self.made: list[Piece] = []
        self.sent = 0
        self.reason: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        return self.reason is not None

    def take(self) -> None:
        piece = next(self.pieces)
        self.made.append(piece)
        if piece.finish_reason == "length":
            self.reason = {"type": "length", "length": len(self.made)}
        elif piece.finish_reason:
            matched = piece.step.token if piece.matched is None else piece.matched
            self.reason = {"type": "stop", "matched": matched}

    def abort(self) -> None:
        self.reason = {"type": "abort", "message": "Abort by user request"}

    def chunk(self, *, incremental: bool) -> dict[str, Any]:
        """All so far, unless the server was started to send what is new only."""
        pieces = self.made[self.sent :] if incremental else self.made
        self.sent = len(self.made)
        meta: dict[str, Any] = {
            "id": self.asked["rid"],
            "finish_reason": self.reason,
            "prompt_tokens": len(self.prompt),
            "completion_tokens": len(self.made),
            "cached_tokens": 0,
            "weight_version": "default",
        }
        if self.asked.get("return_logprob"):
            meta |= self._logprobs(pieces)
        return {
            "text": "".join(piece.text for piece in pieces),
            "output_ids": [piece.step.token for piece in pieces],
            "meta_info": meta,
            "index": self.index,
        }

    def _logprobs(self, pieces: list[Piece]) -> dict[str, Any]:
        named = bool(self.asked.get("return_text_in_logprobs"))

        def row(token: int, value: float) -> list[Any]:
            return [value, token, model().tokenizer.decode([token]) if named else None]

        def top(step: Step) -> list[list[Any]]:
            return [row(*item) for item in step.top]

        told: dict[str, Any] = {
            "output_token_logprobs": [row(p.step.token, p.step.logprob) for p in pieces]
        }
        if self.asked.get("top_logprobs_num"):
            told["output_top_logprobs"] = [top(piece.step) for piece in pieces]
        return told


def _prompt(asked: dict[str, Any]) -> list[int]:
    ids: list[int] | None = asked.get("input_ids")
    return model().tokenizer.encode(asked["text"]) if ids is None else ids


def _sampling(asked: dict[str, Any], wanted: dict[str, Any]) -> Sampling:
    stop = wanted.get("stop") or ()
    return Sampling(
        max_tokens=wanted.get("max_new_tokens", 128),
        temperature=wanted.get("temperature", 1.0),
        top_p=wanted.get("top_p", 1.0),
        top_k=max(wanted.get("top_k", -1), 0),
        min_p=wanted.get("min_p", 0.0),
        frequency_penalty=wanted.get("frequency_penalty", 0.0),
        presence_penalty=wanted.get("presence_penalty", 0.0),
        repetition_penalty=wanted.get("repetition_penalty", 1.0),
        seed=wanted.get("sampling_seed") or 0,
        min_tokens=wanted.get("min_new_tokens", 0),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        stop_token_ids=tuple(wanted.get("stop_token_ids") or ()),
        ignore_eos=wanted.get("ignore_eos", False),
        logprobs=asked.get("top_logprobs_num") or 0,
        whole=_constrained(wanted),
    )


def _constrained(wanted: dict[str, Any]) -> str | None:
    """A text that keeps to the constraint. The server turns a choice into a regex of its own."""
    if schema := wanted.get("json_schema"):
        return smallest_text(schema)
    if choice := re.fullmatch(r"\(\?:(.+?)(?:\|.*)?\)", wanted.get("regex") or ""):
        return re.sub(r"\\(.)", r"\1", choice[1])
    if any(wanted.get(key) for key in ("regex", "ebnf", "structural_tag")):
        raise ValueError("The stand-in keeps to no grammar.")
    return None


def _check(prompt: list[int], wanted: dict[str, Any]) -> None:
    """What SGLang's runtime refuses, in its own words or near them."""
    if not prompt:
        raise ValueError("The input is empty.")
    if len(prompt) >= CONTEXT:
        raise ValueError(
            f"The input ({len(prompt)} tokens) is longer than the model's context length "
            f"({CONTEXT} tokens)."
        )
    if any(not 0 <= token < model().tokenizer.vocab_size for token in prompt):
        raise ValueError("The input_ids contain values outside of the vocabulary.")
    if wanted.get("temperature", 1.0) < 0:
        raise ValueError(f"temperature must be non-negative, got {wanted['temperature']}.")
    if not 0 < wanted.get("top_p", 1.0) <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {wanted['top_p']}.")
    if wanted.get("max_new_tokens", 128) < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {wanted['max_new_tokens']}.")


def _is_closed(status: Any) -> bool:
    return status is not None and status == type(status).Closed


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("_grpc", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("module", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--incremental", action="store_true")
    args = parser.parse_args()
    module = load(args.module)
    parent = Parent()
    handle = Handle(parent, args.folder, args.incremental)
    with socket.socket() as found:  # the module does not say which port it took
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = module.start_server("127.0.0.1", port, handle, worker_threads=1)
    parent.tell("ready", port=port)
    threading.Event().wait()
    del server


if __name__ == "__main__":
    main()
