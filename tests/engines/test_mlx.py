"""`mlx.grpc.engine` on our stubs: MLX itself, random weights, behind the published servicer."""

import io
import uuid
import zipfile
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from engines.conftest import Running
from engines.running import Engine
from smg_proto import common_pb2, mlx_engine_pb2_grpc
from smg_proto import mlx_engine_pb2 as pb
from smg_proto.testing._tokenizer import tokenizer

pytestmark = pytest.mark.engines

IDS = tokenizer().encode("One contract")
TIMEOUT = 60

Stub = mlx_engine_pb2_grpc.MlxEngineStub


@pytest.fixture
def engine(running: Running) -> Engine:
    return running("mlx")


@pytest.fixture
def channel(engine: Engine) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(engine.target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> Stub:
    return Stub(channel)


def sent(ids: list[int] = IDS, *, stream: bool = False, **sampling: Any) -> pb.GenerateRequest:
    wanted = pb.SamplingParams(**{"max_tokens": 8, "temperature": 0, **sampling})
    prompt = pb.TokenizedInput(input_ids=ids)
    # The server drops what it holds under an id some time after the reply: an id that is used
    # again at once may lose the second request.
    return pb.GenerateRequest(
        request_id=uuid.uuid4().hex, tokenized=prompt, sampling_params=wanted, stream=stream
    )


def test_a_stream_has_one_token_per_message_and_a_finish_reason(stub: Stub) -> None:
    (whole,) = stub.Generate(sent(), timeout=TIMEOUT)
    *chunks, last = stub.Generate(sent(stream=True), timeout=TIMEOUT)
    assert [len(message.chunk.token_ids) for message in chunks] == [1] * 8
    made = [message.chunk.token_ids[0] for message in chunks]
    assert made == list(whole.complete.output_ids)
    assert [message.chunk.completion_tokens for message in chunks] == [*range(1, 9)]
    assert last.complete.finish_reason == "length" and not last.complete.output_ids


def test_a_stop_token_is_named(stub: Stub) -> None:
    (whole,) = stub.Generate(sent(), timeout=TIMEOUT)
    stop = whole.complete.output_ids[2]
    (reply,) = stub.Generate(sent(stop_token_ids=[stop]), timeout=TIMEOUT)
    assert (reply.complete.finish_reason, reply.complete.matched_stop_token_id) == ("stop", stop)


def test_the_tokenizer_is_the_one_of_the_model(stub: Stub) -> None:
    request = common_pb2.GetTokenizerRequest()
    chunks = list(stub.GetTokenizer(request, timeout=TIMEOUT))
    bundle = io.BytesIO(b"".join(chunk.data for chunk in chunks))
    with zipfile.ZipFile(bundle) as archive:
        found = archive.read("tokenizer.json").decode()
    assert found == tokenizer().to_json()


def test_health_and_reflection_are_there(channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    reply = health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT)
    assert reply.status == health_pb2.HealthCheckResponse.SERVING
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (result,) = stub.ServerReflectionInfo(iter([request]), timeout=TIMEOUT)
    names = {service.name for service in result.list_services_response.service}
    assert "mlx.grpc.engine.MlxEngine" in names


def test_an_id_outside_of_the_vocabulary_ends_the_server(running: Running) -> None:
    # The reason why a client checks ids before it sends them.
    with running.fresh("mlx") as engine, grpc.insecure_channel(engine.target) as channel:
        stub = Stub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.Generate(sent([1_000_000_000]), timeout=TIMEOUT))
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        with pytest.raises(grpc.RpcError) as caught:
            stub.HealthCheck(pb.HealthCheckRequest(), timeout=TIMEOUT)
        error = caught.value
        assert error.code() is grpc.StatusCode.UNAVAILABLE
