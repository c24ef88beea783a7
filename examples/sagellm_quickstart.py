"""sageLLM's types: validate them, convert them, and send them to a vLLM engine.

pip install 'smg-grpc-proto[client,decode]'
python examples/sagellm_quickstart.py                  # types only
python examples/sagellm_quickstart.py localhost:50051  # and a vLLM gRPC server
"""

import sys
import time

from pydantic import ValidationError

from smg_proto import sagellm_pb2
from smg_proto.sagellm import (
    Metrics,
    Request,
    Response,
    SamplingParams,
    create_arguments,
    negotiate_version,
    stream_events,
)


def types() -> None:
    """Convert a response to bytes and back, and validate requests, strictly or not."""
    print("protocol", negotiate_version("0.1"))
    metrics = Metrics(ttft_ms=31.5, throughput_tps=80.0, peak_mem_mb=4096, error_rate=0.0)
    response = Response(
        request_id="r-1",
        trace_id="t-1",
        output_text=" there was",
        output_tokens=[220, 315],
        finish_reason="stop",
        metrics=metrics,
    )
    data = response.to_proto().SerializeToString()
    same = Response.from_proto(sagellm_pb2.Response.FromString(data)) == response
    print(f"{len(data)} bytes, the same again: {same}")

    for changes in ({"max_tokens": 0}, {"rank": 2, "world_size": 2}):
        given = {"request_id": "r", "trace_id": "t", "prompt": "p", "max_tokens": 8} | changes
        try:
            Request.model_validate(given)
            print(changes, "passes;", end=" ")
            Request.model_validate(given, strict=True)
        except ValidationError as error:
            for problem in error.errors():
                print("rejected:", *problem["loc"], problem["msg"])


def ask(host: str, port: int) -> None:
    """Send a request, and print its events with measured metrics."""
    from smg_proto.vllm import TokenDecoder, VLLMGrpcClient

    request = Request(
        request_id="r-2",
        trace_id="t-2",
        prompt="Once upon a time",
        max_tokens=16,
        stream=True,
        sampling_params=SamplingParams(temperature=0.0),
    )
    with VLLMGrpcClient(host, port) as client:
        decoder = TokenDecoder.from_client(client)
        began = time.perf_counter()
        stream = client.completions.create(
            stream=True, decoder=decoder, **create_arguments(request)
        )
        for event in stream_events(stream, request, engine_id=host, started=began):
            print(event.model_dump_json())


if __name__ == "__main__":
    types()
    if len(sys.argv) > 1:
        name, _, number = sys.argv[1].rpartition(":")
        ask(name, int(number))
