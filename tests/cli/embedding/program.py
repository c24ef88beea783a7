"""What a team does with its own messages that embed the contracts; mypy reads it, too."""

import pickle
from collections.abc import Iterator

import grpc
from acme.v1 import job_pb2, job_pb2_grpc, part_pb2
from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message

from smg_proto import smg_pb2, vllm_engine_pb2


class Jobs(job_pb2_grpc.JobsServicer):
    def Run(
        self, request: job_pb2.Job, context: grpc.ServicerContext
    ) -> Iterator[vllm_engine_pb2.GenerateResponse]:
        reason = request.request.request_id
        complete = vllm_engine_pb2.GenerateComplete(finish_reason=reason)
        yield vllm_engine_pb2.GenerateResponse(complete=complete)

    def Say(
        self, request: smg_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> smg_pb2.ChatMessage:
        return request.messages[0]


def main() -> None:
    message = smg_pb2.ChatMessage(role=smg_pb2.ROLE_USER, content="Hello")
    request = vllm_engine_pb2.GenerateRequest(request_id="r1", text="Hello")
    job = job_pb2.Job(name="n", message=message, request=request, named={"a": message})
    same: list[tuple[type[Message], type[Message]]] = [
        (type(job.message), smg_pb2.ChatMessage),
        (type(job.named["a"]), smg_pb2.ChatMessage),
        (type(job.request), vllm_engine_pb2.GenerateRequest),
    ]
    assert all(one is other for one, other in same)
    job.message.CopyFrom(message)
    assert part_pb2.ContentPart is smg_pb2.ContentPart  # imported publicly
    assert pickle.loads(pickle.dumps(job)) == job
    assert pickle.loads(pickle.dumps(job.message)) == message
    assert job_pb2.Job.__module__ == "acme.v1.job_pb2"
    packed = any_pb2.Any()
    packed.Pack(job)
    assert json_format.Parse(json_format.MessageToJson(packed), any_pb2.Any()) == packed
    answer = next(Jobs().Run(job, None))  # type: ignore[arg-type]
    assert answer.complete.finish_reason == "r1"
    assert callable(job_pb2_grpc.JobsStub)
    print("shared")


if __name__ == "__main__":
    main()
