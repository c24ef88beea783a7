"""The model of the fake engine: its configuration as vLLM holds it, and its tokenizer's files."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

END = 256
VOCABULARY = 257
CONTEXT = 2048
BLOCK = 16


def model_config(model: Path) -> Any:
    return SimpleNamespace(
        model=str(model),
        served_model_name="echo",
        tokenizer=str(model),
        runner_type="generate",
        max_model_len=CONTEXT,
        get_vocab_size=lambda: VOCABULARY,
        architectures=["EchoForCausalLM"],
        hf_config=SimpleNamespace(
            model_type="echo", eos_token_id=END, pad_token_id=0, bos_token_id=END
        ),
        get_diff_sampling_param=lambda: {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7},
        is_multimodal_model=False,
        supports_multimodal_inputs=False,
        dtype="torch.bfloat16",
    )


def vllm_config(model: Any) -> Any:
    return SimpleNamespace(
        model_config=model,
        parallel_config=SimpleNamespace(data_parallel_size=1, data_parallel_rank=0),
        cache_config=SimpleNamespace(cache_dtype="auto", block_size=BLOCK, num_gpu_blocks=64),
        scheduler_config=SimpleNamespace(max_num_seqs=8, max_num_batched_tokens=CONTEXT),
        structured_outputs_config=SimpleNamespace(reasoning_parser="", enable_in_reasoning=False),
        kv_events_config=None,
        kv_transfer_config=None,
    )


def write_tokenizer(folder: Path) -> None:
    """A model folder whose tokenizer gives each byte its own value as id."""
    folder.mkdir(parents=True, exist_ok=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters |= {byte: chr(256 + place) for place, byte in enumerate(rest)}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    end = {"id": END, "content": "<end>", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [end | flags],
        "pre_tokenizer": level | {"trim_offsets": True},
        "decoder": level | {"trim_offsets": True},
        "model": {
            "type": "BPE",
            "vocab": {letters[byte]: byte for byte in range(256)} | {"<end>": END},
            "merges": [],
        },
    }
    template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    )
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<end>",
        "chat_template": template,
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "echo", "eos_token_id": END}), encoding="utf-8"
    )
