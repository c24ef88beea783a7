"""The services without generation: embeddings, tokenizers, parsers, models, workers."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import (
    Cursor,
    Known,
    Names,
    Read,
    Row,
    Table,
    count,
    iso_timestamp,
    nested,
    same,
    timestamp,
)
from smg_proto._http.mapping.common import CHAT_TOOL, KNOWN_USAGE, USAGE, unsent
from smg_proto._http.shapes import as_list, as_object

# --- EmbeddingService: one request per input ---


def embed_input(value: Any, cursor: Cursor) -> Any:
    """One input: a text or token ids."""
    match value.WhichOneof("input"):
        case "text":
            return value.text
        case "token_ids":
            return list(value.token_ids.ids)
        case _:
            cursor.reject("is empty")
            return None


def document(value: Any, cursor: Cursor) -> Any:
    if value.WhichOneof("document") != "text":
        cursor.reject("is empty")
    return value.text


_INPUTS = same("model", "user") | {
    "inputs": Row("input", embed_input),
    "allow_partial": Row("", unsent),
}
EMBED_REQUEST = Table(smg.EmbedRequest, _INPUTS | same("dimensions"), required=["model", "inputs"])
_KNOWN: Known = {
    **dict.fromkeys(["object", "id", "created", "model", "data"]),
    "usage": KNOWN_USAGE,
}
EMBED_REPLY = Table(
    smg.EmbedResponse,
    {
        "model": "model",
        "embeddings": nested("data", Table(smg.Embedding, {"values": "embedding"})),
        "usage": nested("usage", USAGE),
    },
    expected=["data.0.embedding"],
    known=_KNOWN,
)
CLASSIFY_REQUEST = Table(smg.ClassifyRequest, _INPUTS, required=["model", "inputs"])
CLASSIFY_REPLY = Table(
    smg.ClassifyResponse,
    {
        "model": "model",
        "results": nested(
            "data", Table(smg.Classification, {"label": "label", "probabilities": "probs"})
        ),
        "usage": nested("usage", USAGE),
    },
    expected=["data.0"],
    known=_KNOWN,
)
RERANK_REQUEST = Table(
    smg.RerankRequest,
    same("model", "query", "user")
    | {"documents": Row("documents", document), "top_n": Row("top_k")},
    required=["model", "query", "documents"],
    always={"return_documents": False},
)
RERANK_REPLY = Table(
    smg.RerankResponse,
    {
        "model": "model",
        "results": nested(
            "results",
            Table(smg.RerankResult, {"index": Row("index", read=count), "score": "score"}),
        ),
        "usage": nested("usage", USAGE),
    },
    expected=["results"],
    known={
        **dict.fromkeys(["object", "id", "created", "model", "results"]),
        "usage": KNOWN_USAGE,
    },
)

# --- TokenizerService, ParserService ---


def token_ids(value: Any, cursor: Cursor) -> list[int]:
    return list(value.ids)


def read_token_ids(data: Any) -> smg.TokenIds:
    return smg.TokenIds(ids=as_list(data))


_SEQUENCES = Row("tokens", token_ids, read_token_ids)
TOKENIZE_REQUEST = Table(
    smg.TokenizeRequest,
    {"model": Row("model"), "texts": Row("prompt"), "return_pieces": Row("", unsent)},
    required=["model", "texts"],
)
TOKENIZE_REPLY = Table(smg.TokenizeResponse, {"sequences": _SEQUENCES}, expected=["tokens"])
DETOKENIZE_REQUEST = Table(
    smg.DetokenizeRequest,
    same("model", "skip_special_tokens") | {"sequences": _SEQUENCES},
    required=["model", "sequences"],
)
DETOKENIZE_REPLY = Table(smg.DetokenizeResponse, {"texts": "text"}, expected=["text"])

PARSE_REASONING_REQUEST = Table(
    smg.ParseReasoningRequest,
    {"text": "text", "parser": "reasoning_parser"},
    required=["parser"],
    always={"text": ""},
)
PARSE_REASONING_REPLY = Table(
    smg.ParseReasoningResponse,
    {"content": "normal_text", "reasoning_content": "reasoning_text"},
    expected=["normal_text"],
)
PARSE_CALLS_REQUEST = Table(
    smg.ParseToolCallsRequest,
    {"text": Row("text"), "parser": Row("tool_call_parser"), "tools": nested("tools", CHAT_TOOL)},
    required=["parser"],
    always={"text": "", "tools": ()},
)
PARSE_CALLS_REPLY = Table(
    smg.ParseToolCallsResponse,
    {
        "content": "remaining_text",
        "tool_calls": nested(
            "tool_calls",
            Table(smg.ToolCall, {"name": "function.name", "arguments": "function.arguments"}),
        ),
    },
    expected=["tool_calls"],
)

# --- ModelService ---

LISTED_MODEL = Table(smg.Model, same("id", "owned_by"), expected=["id"])
SERVED_MODEL = Table(smg.Model, same("id", "context_length") | {"capabilities": Row("model_type")})
MODEL_LIST = Table(
    smg.ListModelsResponse, {"models": nested("data", LISTED_MODEL)}, expected=["data"]
)

# --- WorkerService ---

_ROLE = Names(
    {
        smg.WORKER_ROLE_REGULAR: "regular",
        smg.WORKER_ROLE_PREFILL: "prefill",
        smg.WORKER_ROLE_DECODE: "decode",
        smg.WORKER_ROLE_ENCODE: "encode",
    }
)
_STATE = Names(
    {
        smg.WORKER_STATE_PENDING: "pending",
        smg.WORKER_STATE_READY: "ready",
        smg.WORKER_STATE_NOT_READY: "not_ready",
        smg.WORKER_STATE_FAILED: "failed",
        smg.WORKER_STATE_DRAINING: "draining",
    }
)
_SPEC = same("url", "labels", "priority", "cost") | {"role": _ROLE.at("worker_type")}
CREATE_WORKER = Table(
    smg.CreateWorkerRequest,
    {
        "spec": nested("", Table(smg.WorkerSpec, _SPEC | same("api_key"), required=["url"])),
        "idempotency_key": Row("", unsent),
    },
    required=["spec"],
)
# The id is in the path.
UPDATE_WORKER = Table(
    smg.UpdateWorkerRequest,
    same("labels", "priority", "cost", "api_key")
    | {"id": Row("", unsent), "remove_labels": Row("", unsent)},
    required=["id"],
)
REPLACE_WORKER = Table(
    smg.ReplaceWorkerRequest,
    {
        "id": Row("", unsent),
        "spec": nested("", Table(smg.WorkerSpec, _SPEC | same("api_key"), required=["url"])),
    },
    required=["id", "spec"],
)


def job_failure(data: Any) -> Any:
    """Why adding a worker failed; None if it has not failed."""
    if data.get("status") != "failed":
        return None
    return smg.Failure(reason="WORKER_ERROR", message=data.get("message") or "")


def conditions(data: Any) -> Any:
    """The conditions that explain a worker's state."""
    job = as_object(data.get("job_status"))
    if "is_healthy" in data:
        yield smg.WorkerCondition(type="Healthy", met=data["is_healthy"])
    if job:
        yield smg.WorkerCondition(
            type=job.get("job_type") or "",
            reason=job.get("status") or "",
            message=job.get("message") or "",
        )
    if data.get("stalled"):
        yield smg.WorkerCondition(type="Stalled", met=True, message=data["stalled"])


# While a worker is pending, the gateway returns placeholders for its mode, runtime and models.
_WORKER_ROWS = {
    "id": Row("id"),
    "spec": nested("", Table(smg.WorkerSpec, _SPEC)),
    "state": _STATE.at("status"),
    "active_requests": Row("load", read=count),
    "error": Row("job_status", read=job_failure),
    "state_time": Row("job_status.timestamp", read=timestamp),
    "conditions": Row("", read=conditions, whole=True),
}
PENDING_WORKER = Table(smg.Worker, _WORKER_ROWS)
WORKER = Table(
    smg.Worker,
    _WORKER_ROWS
    | {
        "connection_mode": Row("connection_mode"),
        "runtime": Row("runtime_type"),
        "models": nested("models", SERVED_MODEL),
    },
)


def read_worker(data: Any) -> smg.Worker:
    """A worker. It must have an id."""
    worker = (PENDING_WORKER if data.get("status") == "pending" else WORKER).read(data)
    if not worker.id:
        raise LookupError("a worker without an id")
    if worker.HasField("error"):
        worker.state = smg.WORKER_STATE_FAILED
    return worker


def accepted_worker(data: Any) -> str:
    """The id of a worker that the gateway accepted and will add."""
    id = data["worker_id"]
    if not (isinstance(id, str) and id):
        raise TypeError("not an id")
    return id


WORKER_LIST = Table(
    smg.ListWorkersResponse, {"workers": Row("workers", read=read_worker)}, expected=["workers"]
)
_LOAD = Table(
    smg.WorkerLoad,
    same("dp_rank", "max_running_requests", "utilization")
    | {
        "worker_url": Row("worker"),
        "running_requests": Row("num_running_reqs"),
        "waiting_requests": Row("num_waiting_reqs"),
        "kv_used_tokens": Row("num_used_tokens"),
        "kv_capacity_tokens": Row("max_total_num_tokens"),
        "kv_usage": Row("token_usage"),
        "kv_hit_rate": Row("cache_hit_rate"),
        "generation_throughput": Row("gen_throughput"),
    },
)
LOADS = Table(
    smg.GetWorkerLoadsResponse,
    {"read_time": Row("timestamp", read=iso_timestamp), "loads": nested("loads", _LOAD)},
    expected=["loads"],
)


def flush_error(data: Any) -> smg.Failure:
    return smg.Failure(reason="WORKER_ERROR", message=data)


_FLUSH_FAILURE = Table(
    smg.WorkerFailure, {"worker_url": Row("worker"), "error": Row("error", read=flush_error)}
)
FLUSHED = Table(
    smg.FlushCacheResponse,
    {
        "flushed_workers": Row("workers_flushed", read=count),
        "failures": nested("failed", _FLUSH_FAILURE),
    },
    expected=["workers_flushed"],
)

# --- Tokenizers of the gateway ---

_TOKENIZER_STATE = Names(
    {
        smg.TOKENIZER_STATE_PENDING: "pending",
        smg.TOKENIZER_STATE_LOADING: "processing",
        smg.TOKENIZER_STATE_READY: "completed",
        smg.TOKENIZER_STATE_FAILED: "failed",
    }
)
TOKENIZER = Table(smg.Tokenizer, same("id", "name", "source", "vocab_size"), expected=["id"])
TOKENIZER_LIST = Table(
    smg.ListTokenizersResponse,
    {"tokenizers": nested("tokenizers", TOKENIZER)},
    expected=["tokenizers"],
)
CREATE_TOKENIZER = Table(
    smg.CreateTokenizerRequest,
    same("name", "source", "chat_template_path"),
    required=["name", "source"],
)
TOKENIZER_STATUS = Table(
    smg.TokenizerStatus,
    same("id", "message", "vocab_size") | {"state": _TOKENIZER_STATE.at("status")},
    expected=["id", "status"],
)

# --- EngineService ---


def first_text(*names: str) -> Read:
    """Reads the first of these members that is a text."""

    def read(data: Any) -> Any:
        return next((data[name] for name in names if isinstance(data.get(name), str)), None)

    return read


SERVER_INFO = Table(
    smg.ServerInfo,
    {
        "model": Row("", read=first_text("served_model_name", "model_id", "model_path")),
        "version": Row("", read=first_text("version")),
    },
)
MODEL_INFO = Table(
    smg.ModelInfo,
    {
        "model_path": Row("", read=first_text("model_path")),
        "tokenizer_path": Row("", read=first_text("tokenizer_path")),
        "is_generation": Row("is_generation"),
    },
)
