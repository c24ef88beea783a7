"""SGLang's own gRPC server over a stand-in: engines.sglang_server MODULE FOLDER [--incremental]

MODULE is the compiled `_grpc` out of SGLang's wheel; FOLDER takes the model's files. The server is
the module's; the handle that it calls answers as SGLang's runtime does, from the small model.
Prints the port with the event "ready".
"""

import argparse
import importlib.util
import json
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engines.standin import CONTEXT, Parent, answer, write_model
from smg_proto.testing._engine.sglang_runtime import (
    Choice,
    Params,
    count_of,
    prompt_of,
    sampling_of,
)
from smg_proto.testing._model import model

Callback = Any  # the module's own kind of object


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
        result = {"model_path": str(self.home), "served_model_name": model().name}
        return json.dumps({**result, "is_generation": True, "model_type": "smg_demo"})

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
        result = {"tokens": tokens, "count": len(tokens)}
        return json.dumps({**result, "max_model_len": CONTEXT, "input_text": text})

    def detokenize(self, tokens: list[int]) -> str:
        return json.dumps({"text": model().tokenizer.decode(tokens)})

    def get_load(self, chunk_callback: Callback, dp_rank: int | None = None) -> None:
        load = {"dp_rank": 0, "num_running_reqs": len(self.running), "num_waiting_reqs": 0}
        chunk_callback(json.dumps([load]).encode(), finished=True)

    def flush_cache(self, chunk_callback: Callback) -> None:
        result = {"success": True, "message": "Cache flushed."}
        chunk_callback(json.dumps(result).encode(), finished=True)

    def _embed(self, sent: Params, tell: Callback) -> None:
        tokens = prompt_of(sent)
        meta = {"id": sent["rid"], "prompt_tokens": len(tokens)}
        tell({"embedding": model().embed(tokens), "meta_info": meta}, finished=True)

    def _generate(self, sent: Params, tell: Callback) -> None:
        rid: str = sent["rid"]
        self.running.add(rid)
        self.parent.tell("start", id=rid)
        how = "end"
        try:
            how = self._answer(sent, tell)
        except ValueError as error:  # as SGLang's runtime tells of what it refuses
            tell({}, finished=True, error=str(error))
        finally:
            self.running.discard(rid)
            self.aborted.discard(rid)
            self.parent.tell(how, id=rid)

    def _answer(self, sent: Params, tell: Callback) -> str:
        """Send the chunks of a request; how it ended."""
        rid: str = sent["rid"]
        room = threading.Event()
        tell.set_on_ready(room.set)
        prompt = prompt_of(sent)
        sampling = sampling_of(sent)
        choices = [Choice(sent, prompt, index) for index in range(count_of(sent))]
        open_choices = [(choice, answer(prompt, sampling, choice.index)) for choice in choices]
        while open_choices:
            time.sleep(self.parent.delay)
            for choice, pieces in list(open_choices):
                choice.take([] if rid in self.aborted else [next(pieces)])
                if choice.reason is not None:
                    open_choices.remove((choice, pieces))
                if sent.get("stream"):
                    chunk = choice.chunk(incremental=self.incremental)
                    status = tell(chunk, finished=not open_choices)
                    if status == type(status).Closed:
                        return "abort"
                    if status == type(status).Pending and open_choices:
                        room.wait()  # the client is slow: the chunk was taken, no other will be
                        room.clear()
        if not sent.get("stream"):
            for number, choice in enumerate(choices, start=1):
                tell(choice.chunk(incremental=False), finished=number == len(choices))
        return "abort" if rid in self.aborted else "end"


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
