"""A model for real engines: Qwen3 in small, random weights, the tokenizer of the built-in model.

What it says is nonsense, the same nonsense for the same prompt in every engine.
"""

import json
import random
import struct
from array import array
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path

from smg_proto.testing._model import MODEL_NAME
from smg_proto.testing._tokenizer import CONTEXT_LENGTH, tokenizer

SEED = 1234
LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_WIDTH = 2, 64, 2, 1, 32
SPREAD = 0.35  # of the weights: wide enough for the likeliest token to stand out


def write_random_model(folder: Path) -> Path:
    """A folder with configuration, tokenizer and weights, named as the model is served."""
    home = folder / MODEL_NAME
    home.mkdir(parents=True)
    files = tokenizer().files()
    config = json.loads(files["config.json"]) | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": CONTEXT_LENGTH,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    for name, text in {**files, "config.json": json.dumps(config, indent=2)}.items():
        (home / name).write_text(text, encoding="utf-8")
    _write_weights(home / "model.safetensors", _shapes(tokenizer().vocab_size))
    return home


def _shapes(vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (vocabulary, WIDTH),
    }
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        queries, keys = HEADS * HEAD_WIDTH, KV_HEADS * HEAD_WIDTH
        shapes |= {
            f"{layer}.input_layernorm.weight": (WIDTH,),
            f"{layer}.post_attention_layernorm.weight": (WIDTH,),
            f"{layer}.self_attn.q_proj.weight": (queries, WIDTH),
            f"{layer}.self_attn.k_proj.weight": (keys, WIDTH),
            f"{layer}.self_attn.v_proj.weight": (keys, WIDTH),
            f"{layer}.self_attn.o_proj.weight": (WIDTH, queries),
            f"{layer}.self_attn.q_norm.weight": (HEAD_WIDTH,),
            f"{layer}.self_attn.k_norm.weight": (HEAD_WIDTH,),
            f"{layer}.mlp.gate_proj.weight": (2 * WIDTH, WIDTH),
            f"{layer}.mlp.up_proj.weight": (2 * WIDTH, WIDTH),
            f"{layer}.mlp.down_proj.weight": (WIDTH, 2 * WIDTH),
        }
    return shapes


def _write_weights(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """In the format of safetensors: the length of a JSON header, the header, the numbers."""
    draw = random.Random(SEED)
    tensors = {name: _numbers(shape, draw) for name, shape in shapes.items()}
    ends = list(accumulate(len(data) for data in tensors.values()))
    header = {
        name: {"dtype": "F32", "shape": shapes[name], "data_offsets": [end - len(data), end]}
        for (name, data), end in zip(tensors.items(), ends, strict=True)
    }
    result = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    result += b" " * (-len(result) % 8)
    path.write_bytes(struct.pack("<Q", len(result)) + result + b"".join(tensors.values()))


def _numbers(shape: tuple[int, ...], draw: random.Random) -> bytes:
    """Ones for a norm, else normally distributed; little-endian, as the machines here are."""
    if len(shape) == 1:
        return array("f", [1.0] * shape[0]).tobytes()
    return array("f", (draw.gauss(0, SPREAD) for _ in range(shape[0] * shape[1]))).tobytes()
