"""The fake gateway answers every RPC of smg.v1; what it stores, replays and remembers is there."""

import grpc
import pytest
from frontdoor.calls import CONVERSATIONS, REQUESTS, STREAMS

from smg_proto import smg_pb2 as pb
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.testing import Answer, FakeGateway

MODEL = "demo-model"


@pytest.mark.parametrize("name", [*REQUESTS, *STREAMS, *CONVERSATIONS])
def test_every_rpc_is_served(channel: grpc.Channel, name: str) -> None:
    """Whatever it says of this request, it is not that nobody has written it."""
    service, _, method = name.partition(".")
    ask = getattr(getattr(rpc, f"{service}Stub")(channel), method)
    try:
        if name in CONVERSATIONS:
            next(ask(iter(CONVERSATIONS[name])))
        elif name in STREAMS:
            stream = ask(STREAMS[name])
            next(stream)
            stream.cancel()
        else:
            ask(REQUESTS[name])
    except grpc.RpcError as error:
        assert error.code() in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
        )


def test_a_conversation_is_stored_and_continued(
    channel: grpc.Channel, gateway: FakeGateway
) -> None:
    stub = rpc.ConversationServiceStub(channel)
    output = pb.ResponseItem(message=pb.ItemMessage(role=pb.ROLE_USER, content="Hi"))
    made = stub.CreateConversation(
        pb.CreateConversationRequest(metadata={"k": "v"}, items=[output])
    )
    gateway.script.add(Answer("Hello."))
    request = pb.CreateResponseRequest(model=MODEL, input="Again", conversation_id=made.id)
    assert rpc.ResponseServiceStub(channel).CreateResponse(request).conversation_id == made.id
    items = stub.ListConversationItems(pb.ListConversationItemsRequest(id=made.id)).items
    assert items[0].message.content == "Hi" and items[-1].message.parts[0].text == "Hello."
    assert all(item.id for item in items)
    page = pb.ListConversationItemsRequest(id=made.id, page_size=1, newest_first=True)
    newest = stub.ListConversationItems(page)
    assert [item.id for item in newest.items] == [items[-1].id] and newest.next_page_token
    one = pb.DeleteConversationItemRequest(id=made.id, item_id=items[0].id)
    assert stub.DeleteConversationItem(one).metadata == {"k": "v"}
    with pytest.raises(grpc.RpcError):
        stub.GetConversationItem(pb.GetConversationItemRequest(id=made.id, item_id=items[0].id))


def test_a_response_is_replayed_after_an_event(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.ResponseServiceStub(channel)
    gateway.script.add(Answer("one two three"))
    request = pb.CreateResponseRequest(model=MODEL, input="a")
    events = list(stub.StreamResponse(request))
    ident = events[0].start.id
    assert list(stub.WatchResponse(pb.WatchResponseRequest(id=ident))) == events
    later = pb.WatchResponseRequest(id=ident, starting_after=events[1].sequence_number)
    assert list(stub.WatchResponse(later)) == events[2:]


def test_a_background_response_is_watched_to_its_end(
    channel: grpc.Channel, gateway: FakeGateway
) -> None:
    stub = rpc.ResponseServiceStub(channel)
    gateway.script.add(Answer("one two three four five"))
    request = pb.CreateResponseRequest(model=MODEL, input="a", background=True)
    ident = stub.CreateResponse(request).id
    *_, last = stub.WatchResponse(pb.WatchResponseRequest(id=ident))
    assert last.end.status == pb.RESPONSE_STATUS_COMPLETED


def test_a_request_with_an_idempotency_key_runs_once(channel: grpc.Channel) -> None:
    responses, workers = rpc.ResponseServiceStub(channel), rpc.WorkerServiceStub(channel)
    request = pb.CreateResponseRequest(model=MODEL, input="a", idempotency_key="k")
    assert responses.CreateResponse(request).id == responses.CreateResponse(request).id
    spec = pb.WorkerSpec(url="grpc://once:1")
    create = pb.CreateWorkerRequest(spec=spec, idempotency_key="k")
    assert workers.CreateWorker(create).id == workers.CreateWorker(create).id


def test_workers_are_watched(channel: grpc.Channel) -> None:
    stub = rpc.WorkerServiceStub(channel)
    watch = stub.WatchWorkers(pb.WatchWorkersRequest(), timeout=60)
    ready = pb.WorkerEvent(ready=pb.WatchReady())
    there = [event.worker for event in iter(lambda: next(watch), ready)]
    assert there[0].runtime == "vllm"
    made = stub.CreateWorker(pb.CreateWorkerRequest(spec=pb.WorkerSpec(url="grpc://watched:1")))
    assert next(watch).worker.id == made.id
    spec = pb.WorkerSpec(url="grpc://b:1", labels={"zone": "z"})
    stub.ReplaceWorker(pb.ReplaceWorkerRequest(id=made.id, spec=spec))
    assert dict(next(watch).worker.spec.labels) == {"zone": "z"}
    stub.DeleteWorker(pb.DeleteWorkerRequest(id=made.id))
    assert next(watch).removed_id == made.id
    watch.cancel()


def test_a_script_sets_the_transcription(channel: grpc.Channel, gateway: FakeGateway) -> None:
    stub = rpc.AudioServiceStub(channel)
    gateway.script.add(Answer("so it is"), rpc="Transcribe")
    request = pb.TranscribeRequest(model=MODEL, audio=b"RIFF")
    assert stub.Transcribe(request).text == "so it is"
