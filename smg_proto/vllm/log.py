"""Logging under `smg_proto.vllm`: ids, sizes, timing and statuses. Never prompts, completions,
tokens or metadata values. `VLLM_GRPC_LOG=debug` or `info` prints it to standard error.
"""

import logging
import os

from smg_proto import vllm_engine_pb2 as pb
from smg_proto.vllm.errors import VLLMGrpcError

LOGGER = logging.getLogger("smg_proto.vllm")


def set_up() -> None:
    """Follow VLLM_GRPC_LOG. A program that configures logging itself leaves it unset."""
    level = os.environ.get("VLLM_GRPC_LOG", "").upper()
    if level in ("DEBUG", "INFO", "WARNING") and not LOGGER.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        LOGGER.addHandler(handler)
        LOGGER.setLevel(level)


def generate(request: pb.GenerateRequest) -> None:
    if LOGGER.isEnabledFor(logging.DEBUG):
        form = request.WhichOneof("input")
        LOGGER.debug(
            "Generate %s: %s, stream=%s, n=%d",
            request.request_id,
            f"{len(request.tokenized.input_ids)} token ids" if form == "tokenized" else "text",
            request.stream,
            request.sampling_params.n,
        )


def unary(rpc: str) -> None:
    LOGGER.debug("%s", rpc)


def retry(error: VLLMGrpcError, delay: float) -> None:
    LOGGER.info("again in %.2f s after %s (%s)", delay, error.code, error.request_id or "-")
