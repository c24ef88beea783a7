"""The services that generate nothing: embeddings, tokenizers, parsers, models, workers."""

from typing import Any

from smg_proto import smg_pb2 as smg
from smg_proto._http.fields import Enum, IsoTime, Row, Table, Wrapped, same
from smg_proto._http.mapping.common import CHAT_TOOL, USAGE, ReadOnly, Unsent
from smg_proto._http.shapes import dig

# --- EmbeddingService: one request for each input ---

EMBED_REQUEST = Table(
    smg.EmbedRequest,
    same("model", "dimensions") | {"inputs": Row("input")},
    required=["model", "inputs"],
)
EMBED_REPLY = Table(
    smg.EmbedResponse,
    {
        "model": "model",
        "embeddings": Row("data", Table(smg.Embedding, {"values": "embedding"})),
        "usage": Row("usage", USAGE),
    },
)
CLASSIFY_REQUEST = Table(
    smg.ClassifyRequest, {"model": "model", "inputs": "input"}, required=["model", "inputs"]
)
CLASSIFY_REPLY = Table(
    smg.ClassifyResponse,
    {
        "model": "model",
        "results": Row(
            "data", Table(smg.Classification, {"label": "label", "probabilities": "probs"})
        ),
        "usage": Row("usage", USAGE),
    },
)
RERANK_REQUEST = Table(
    smg.RerankRequest,
    same("model", "query", "documents") | {"top_n": Row("top_k")},
    required=["model", "query", "documents"],
    always={"return_documents": False},
)
RERANK_REPLY = Table(
    smg.RerankResponse,
    {
        "model": "model",
        "results": Row("results", Table(smg.RerankResult, same("index", "score"))),
    },
)

# --- TokenizerService, ParserService ---

_IDS = Wrapped(smg.TokenIds, "ids")
TOKENIZE_REQUEST = Table(
    smg.TokenizeRequest, {"model": "model", "texts": "prompt"}, required=["model", "texts"]
)
TOKENIZE_REPLY = Table(smg.TokenizeResponse, {"sequences": Row("tokens", _IDS)})
DETOKENIZE_REQUEST = Table(
    smg.DetokenizeRequest,
    same("model", "skip_special_tokens") | {"sequences": Row("tokens", _IDS)},
    required=["model", "sequences"],
)
DETOKENIZE_REPLY = Table(smg.DetokenizeResponse, {"texts": "text"})

PARSE_REASONING_REQUEST = Table(
    smg.ParseReasoningRequest,
    {"text": "text", "parser": "reasoning_parser"},
    required=["parser"],
    always={"text": ""},
)
PARSE_REASONING_REPLY = Table(
    smg.ParseReasoningResponse,
    {"content": "normal_text", "reasoning_content": "reasoning_text"},
)
PARSE_CALLS_REQUEST = Table(
    smg.ParseToolCallsRequest,
    {"text": "text", "parser": "tool_call_parser", "tools": Row("tools", CHAT_TOOL)},
    required=["parser"],
    always={"text": "", "tools": []},
)
PARSE_CALLS_REPLY = Table(
    smg.ParseToolCallsResponse,
    {
        "content": "remaining_text",
        "tool_calls": Row(
            "tool_calls",
            Table(smg.ToolCall, {"name": "function.name", "arguments": "function.arguments"}),
        ),
    },
)

# --- ModelService ---

LISTED_MODEL = Table(smg.Model, same("id", "owned_by"))
SERVED_MODEL = Table(smg.Model, same("id", "context_length") | {"capabilities": Row("model_type")})
MODEL_LIST = Table(smg.ListModelsResponse, {"models": Row("data", LISTED_MODEL)})

# --- WorkerService ---

_ROLE = Enum(
    {
        smg.WORKER_ROLE_REGULAR: "regular",
        smg.WORKER_ROLE_PREFILL: "prefill",
        smg.WORKER_ROLE_DECODE: "decode",
        smg.WORKER_ROLE_ENCODE: "encode",
    }
)
_STATE = Enum(
    {
        smg.WORKER_STATE_PENDING: "pending",
        smg.WORKER_STATE_READY: "ready",
        smg.WORKER_STATE_NOT_READY: "not_ready",
        smg.WORKER_STATE_FAILED: "failed",
        smg.WORKER_STATE_DRAINING: "draining",
    }
)
_SPEC = same("url", "labels", "priority", "cost") | {"role": Row("worker_type", _ROLE)}
CREATE_WORKER = Table(
    smg.CreateWorkerRequest,
    {"spec": Row("", Table(smg.WorkerSpec, _SPEC | same("api_key"), required=["url"]))},
    required=["spec"],
)
# The id is in the path.
UPDATE_WORKER = Table(
    smg.UpdateWorkerRequest,
    same("labels", "priority", "cost", "api_key") | {"id": Row("", Unsent())},
    required=["id"],
)
_WORKER_ROWS = {
    "id": Row("id"),
    "spec": Row("", Table(smg.WorkerSpec, _SPEC)),
    "state": Row("status", _STATE),
    "active_requests": Row("load"),
}
# While a worker is pending, what is said of its kind is a placeholder.
PENDING_WORKER = Table(smg.Worker, _WORKER_ROWS)
REACHED_WORKER = Table(
    smg.Worker,
    _WORKER_ROWS
    | {
        "connection_mode": Row("connection_mode"),
        "runtime": Row("runtime_type"),
        "models": Row("models", SERVED_MODEL),
    },
)


def worker_table(data: Any) -> Table[smg.Worker]:
    return PENDING_WORKER if dig(data, "status") == "pending" else REACHED_WORKER


class AnyWorker(ReadOnly):
    def read(self, data: Any) -> Any:
        return worker_table(data).read(data)


WORKER_LIST = Table(smg.ListWorkersResponse, {"workers": Row("workers", AnyWorker())})
LOADS = Table(
    smg.GetWorkerLoadsResponse,
    {
        "read_time": Row("timestamp", IsoTime()),
        "loads": Row(
            "loads",
            Table(
                smg.WorkerLoad,
                same(
                    "dp_rank",
                    "max_running_requests",
                    "token_usage",
                    "cache_hit_rate",
                    "utilization",
                )
                | {
                    "worker_url": Row("worker"),
                    "running_requests": Row("num_running_reqs"),
                    "waiting_requests": Row("num_waiting_reqs"),
                    "used_tokens": Row("num_used_tokens"),
                    "max_tokens": Row("max_total_num_tokens"),
                    "generation_throughput": Row("gen_throughput"),
                },
            ),
        ),
    },
)


class FlushError(ReadOnly):
    def read(self, data: Any) -> Any:
        return smg.Error(reason="WORKER_ERROR", message=data)


FLUSHED = Table(
    smg.FlushCacheResponse,
    {
        "flushed_workers": "workers_flushed",
        "failures": Row(
            "failed",
            Table(smg.WorkerFailure, {"worker_url": "worker", "error": Row("error", FlushError())}),
        ),
    },
)
