"""What the gateway does with a worker that speaks HTTP, and what it keeps itself, is the same."""

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from support import eventually

from e2e.deployment import Deployment, over_http
from e2e.http_worker import ANSWERS, METRICS, MODEL
from smg_proto import smg_pb2 as smg
from smg_proto import smg_pb2_grpc as rpc
from smg_proto.errors import SmgError, from_rpc_error
from smg_proto.testing import FakeVllmEngine

pytestmark = pytest.mark.e2e
KEY = (("authorization", "Bearer key"),)  # which the gateway passes on to the worker


@pytest.fixture(scope="module")
def deployment(
    gateway_python: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    with over_http(gateway_python, tmp_path_factory.mktemp("http")) as found:
        yield found


def failure(call: Any, request: Any) -> SmgError:
    with pytest.raises(Exception) as caught:
        call(request)
    return from_rpc_error(caught.value)  # type: ignore[arg-type]


# --- Inputs ---


def test_reranking_equals(deployment: Deployment) -> None:
    documents = [smg.RerankDocument(text=text) for text in "ab"]
    request = smg.RerankRequest(model=MODEL, query="q", documents=documents)
    there = deployment.http.post("/rerank", model=MODEL, query="q", documents=["a", "b"])
    found = deployment.door.embeddings.Rerank(request)
    assert [(one.index, one.score) for one in found.results] == [
        (one["index"], one["score"]) for one in there["results"]
    ]
    assert [one.index for one in found.results] == [1, 0]


def test_embeddings_and_classes_equal(deployment: Deployment) -> None:
    inputs = [smg.EmbedInput(text="a"), smg.EmbedInput(text="b")]
    request = smg.EmbedRequest(model=MODEL, inputs=inputs, dimensions=2)
    there = deployment.http.post("/v1/embeddings", model=MODEL, input="a", dimensions=2)
    found = deployment.door.embeddings.Embed(request)
    vector = there["data"][0]["embedding"]
    assert [list(one.values) for one in found.embeddings] == [vector, vector]
    assert found.usage.prompt_tokens == 2 * there["usage"]["prompt_tokens"]
    classes = deployment.door.embeddings.Classify(
        smg.ClassifyRequest(model=MODEL, inputs=inputs[:1])
    )
    there = deployment.http.post("/v1/classify", model=MODEL, input="a")
    assert classes.results[0].label == there["data"][0]["label"] == "good"


def test_a_recording_is_transcribed_unary_and_streamed(deployment: Deployment) -> None:
    audio = rpc.AudioServiceStub(deployment.door.channel)
    request = smg.TranscribeRequest(model=MODEL, audio=b"RIFF", file_name="a.wav")
    whole = audio.Transcribe(request)
    expected = ANSWERS["/v1/audio/transcriptions"]
    assert (whole.text, whole.language) == (expected["text"], expected["language"])
    assert whole.duration_seconds == expected["duration"]
    start, *deltas, end = audio.StreamTranscribe(request)
    assert start.HasField("start") and end.HasField("end")
    assert "".join(event.delta.text for event in deltas) == whole.text


def test_decisions_equal(deployment: Deployment) -> None:
    options = [smg.DecisionOption(value="sky"), smg.DecisionOption(value="sea")]
    levels = [smg.DecisionOption(value="low"), smg.DecisionOption(value="high")]
    questions = [
        smg.DecisionQuestion(
            name="p", instructions="Is it blue?", predicate=smg.DecisionPredicate()
        ),
        smg.DecisionQuestion(
            name="c", instructions="Which?", choice=smg.DecisionChoice(options=options)
        ),
        smg.DecisionQuestion(
            name="s", instructions="How blue?", score=smg.DecisionScore(levels=levels)
        ),
    ]
    request = smg.DecideRequest(model=MODEL, input="The sky is blue.", questions=questions)
    body = {
        "model": MODEL,
        "input": "The sky is blue.",
        "questions": [
            {"type": "predicate", "name": "p", "instructions": "Is it blue?"},
            {
                "type": "choice",
                "name": "c",
                "instructions": "Which?",
                "choices": [{"value": "sky"}, {"value": "sea"}],
            },
            {
                "type": "score",
                "name": "s",
                "instructions": "How blue?",
                "levels": [{"label": "low"}, {"label": "high"}],
            },
        ],
    }
    status, there = deployment.http.ask("POST", "/v1/decisions", body)
    assert status == 200, there
    reply = rpc.DecisionServiceStub(deployment.door.channel).Decide(request)
    predicate, choice, score = reply.answers
    expected = there["answers"]
    assert predicate.probability == expected[0]["probability"] == 0.75
    assert choice.choice == expected[1]["choice"] == "sea"
    assert score.score == expected[2]["score"] == 0.25
    for answer, label in ((choice, "value"), (score, "label")):
        wanted = next(each for each in expected if each["name"] == answer.name)
        assert answer.confidence == wanted["confidence"]
        found = [(each.value, each.probability) for each in answer.probabilities]
        assert found == [(each[label], each["probability"]) for each in wanted["probabilities"]]


# --- Sessions ---


def test_a_session_is_relayed_in_both_directions(deployment: Deployment) -> None:
    realtime = rpc.RealtimeServiceStub(deployment.door.channel)
    events = [
        smg.RealtimeClientEvent(connect=smg.RealtimeConnect(model=MODEL)),
        smg.RealtimeClientEvent(audio=b"\0\1sound"),
        smg.RealtimeClientEvent(event_json='{"type":"response.create"}'),
    ]
    found: list[Any] = []
    sent: SimpleQueue[Any] = SimpleQueue()  # a client that ends its events ends the session
    for output in events:
        sent.put(output)
    session = realtime.Converse(iter(sent.get, None), timeout=60, metadata=KEY)
    for event in session:
        found.append(event)
        if event.type == "response.done":
            sent.put(None)
    assert [event.type for event in found] == [
        "session.created",
        "response.output_audio.delta",
        "response.done",
    ]
    assert found[1].audio == b"\0\1sound"


def test_sessions_and_secrets_equal(deployment: Deployment) -> None:
    realtime = rpc.RealtimeServiceStub(deployment.door.channel)
    request = smg.CreateRealtimeSessionRequest(model=MODEL)
    made = realtime.CreateRealtimeSession(request, metadata=KEY)
    body = {"model": MODEL, "type": "realtime"}
    status, there = deployment.http.ask("POST", "/v1/realtime/sessions", body, **dict(KEY))
    assert status == 200 and made.id == there["id"]
    assert made.client_secret == there["client_secret"]["value"] not in made.session_json
    requested = smg.CreateClientSecretRequest(model=MODEL)
    secret = realtime.CreateClientSecret(requested, metadata=KEY)
    assert secret.client_secret == "ek_2"
    transcribing = smg.CreateTranscriptionSessionRequest(model=MODEL)
    assert realtime.CreateTranscriptionSession(transcribing, metadata=KEY).id == "sess_1"


# --- Engines ---


def test_engines_report_the_same(deployment: Deployment) -> None:
    engines = rpc.EngineServiceStub(deployment.door.channel)
    info = engines.GetServerInfo(smg.GetServerInfoRequest())
    assert json.loads(info.json) == deployment.http.ask("GET", "/get_server_info")[1]
    model = engines.GetModelInfo(smg.GetModelInfoRequest())
    assert json.loads(model.json) == deployment.http.ask("GET", "/get_model_info")[1]
    assert engines.CheckGeneration(smg.CheckGenerationRequest()) is not None
    metrics = engines.GetEngineMetrics(smg.GetEngineMetricsRequest()).text
    assert metrics == deployment.http.ask("GET", "/engine_metrics")[1]
    assert METRICS.split()[2] in metrics or not metrics
    assert "1" in engines.StartProfile(smg.StartProfileRequest()).message
    assert "1" in engines.StopProfile(smg.StopProfileRequest()).message


def test_caches_are_flushed_and_loads_are_those_of_the_gateway(deployment: Deployment) -> None:
    assert deployment.door.workers.FlushCache(smg.FlushCacheRequest()).flushed_workers == 1
    found = deployment.door.workers.GetWorkerLoads(smg.GetWorkerLoadsRequest())
    there = deployment.http.ask("GET", "/loads")[1]["loads"]
    assert [load.worker_url for load in found.loads] == [load["worker"] for load in there]


def test_a_worker_is_replaced_and_loses_labels(deployment: Deployment) -> None:
    workers = deployment.door.workers
    (worker,) = workers.ListWorkers(smg.ListWorkersRequest()).workers
    spec = smg.WorkerSpec()
    spec.CopyFrom(worker.spec)
    spec.labels["rack"] = "7"
    workers.ReplaceWorker(smg.ReplaceWorkerRequest(id=worker.id, spec=spec))
    get = smg.GetWorkerRequest(id=worker.id)
    eventually(lambda: workers.GetWorker(get).spec.labels.get("rack") == "7", "it is replaced")
    fewer = smg.UpdateWorkerRequest(id=worker.id, remove_labels=["rack"], api_key="")
    workers.UpdateWorker(fewer)
    eventually(lambda: "rack" not in workers.GetWorker(get).spec.labels, "the label is gone")
    there = deployment.http.ask("GET", f"/workers/{worker.id}")[1]
    assert dict(workers.GetWorker(get).spec.labels) == there["labels"]
    eventually(lambda: workers.GetWorker(get).state == smg.WORKER_STATE_READY, "it is ready again")


# --- What the gateway keeps itself ---


def test_conversations_equal(deployment: Deployment) -> None:
    conversations = rpc.ConversationServiceStub(deployment.door.channel)
    made = conversations.CreateConversation(smg.CreateConversationRequest(metadata={"k": "v"}))
    one = smg.GetConversationRequest(id=made.id)
    there = deployment.http.ask("GET", f"/v1/conversations/{made.id}")[1]
    found = conversations.GetConversation(one)
    assert (found.id, dict(found.metadata)) == (there["id"], there["metadata"])
    assert found.create_time.seconds == there["created_at"]
    update = smg.UpdateConversationRequest(id=made.id, metadata={"k": "w"})
    assert conversations.UpdateConversation(update).metadata["k"] == "w"

    items = [
        smg.ResponseItem(message=smg.ItemMessage(role=smg.ROLE_USER, content=text))
        for text in ("first", "second")
    ]
    add = smg.CreateConversationItemsRequest(id=made.id, items=items)
    added = conversations.CreateConversationItems(add).items
    assert len(added) == 2 and all(item.id for item in added)
    listed = conversations.ListConversationItems(smg.ListConversationItemsRequest(id=made.id))
    there = deployment.http.ask("GET", f"/v1/conversations/{made.id}/items?order=asc")[1]["data"]
    assert [item.id for item in listed.items] == [item["id"] for item in there]
    newest = smg.ListConversationItemsRequest(id=made.id, newest_first=True, page_size=1)
    page = conversations.ListConversationItems(newest)
    assert [item.id for item in page.items] == [listed.items[-1].id]
    rest = smg.ListConversationItemsRequest(
        id=made.id, newest_first=True, page_size=1, page_token=page.next_page_token
    )
    assert conversations.ListConversationItems(rest).items[0].id == listed.items[0].id
    get = smg.GetConversationItemRequest(id=made.id, item_id=added[0].id)
    assert conversations.GetConversationItem(get).message.parts[0].text == "first"
    gone = smg.DeleteConversationItemRequest(id=made.id, item_id=added[0].id)
    assert conversations.DeleteConversationItem(gone).id == made.id
    assert failure(conversations.GetConversationItem, get).reason == "CONVERSATION_NOT_FOUND"

    conversations.DeleteConversation(smg.DeleteConversationRequest(id=made.id))
    assert failure(conversations.GetConversation, one).reason == "CONVERSATION_NOT_FOUND"


def test_tokenizers_are_added_listed_used_and_removed(
    deployment: Deployment, tmp_path: Path
) -> None:
    stub = deployment.door.tokenizer
    source = tmp_path / "tokenizer"
    with zipfile.ZipFile(io.BytesIO(FakeVllmEngine().model.tokenizer.bundle)) as bundle:
        bundle.extractall(source)
    add = smg.CreateTokenizerRequest(name="mine", source=str(source))
    made = stub.CreateTokenizer(add)

    def state() -> int:
        status = smg.GetTokenizerStatusRequest(id=made.id)
        return stub.GetTokenizerStatus(status).state

    eventually(lambda: state() == smg.TOKENIZER_STATE_READY, "it is loaded")
    there = deployment.http.ask("GET", "/v1/tokenizers")[1]["tokenizers"]
    listed = stub.ListTokenizers(smg.ListTokenizersRequest()).tokenizers
    assert [one.id for one in listed] == [one["id"] for one in there]
    assert stub.GetTokenizer(smg.GetTokenizerRequest(id=made.id)).name == "mine"
    assert failure(stub.CreateTokenizer, add).reason == "TOKENIZER_ALREADY_EXISTS"
    tokens = smg.TokenizeRequest(model="mine", texts=["a b"], return_pieces=True)
    found = stub.Tokenize(tokens)
    assert len(found.pieces[0].texts) == len(found.sequences[0].ids) > 0
    stub.DeleteTokenizer(smg.DeleteTokenizerRequest(id=made.id))
    gone = smg.GetTokenizerRequest(id=made.id)
    assert failure(stub.GetTokenizer, gone).reason == "TOKENIZER_NOT_FOUND"
