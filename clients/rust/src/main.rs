//! Calls a gateway that speaks smg.v1 and an engine that speaks vllm.grpc.engine.

use std::time::Duration;

use smg_grpc_proto::smg::v1::chat_event::Event;
use smg_grpc_proto::smg::v1::chat_service_client::ChatServiceClient;
use smg_grpc_proto::smg::v1::completion_service_client::CompletionServiceClient;
use smg_grpc_proto::smg::v1::{ChatMessage, ChatRequest, CompletionRequest, Role, SamplingParams};
use smg_grpc_proto::vllm::grpc::engine::generate_request::Input;
use smg_grpc_proto::vllm::grpc::engine::generate_response::Response;
use smg_grpc_proto::vllm::grpc::engine::vllm_engine_client::VllmEngineClient;
use smg_grpc_proto::vllm::grpc::engine::{self, GenerateRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

const MODEL: &str = "demo-model";

/// Sends a prompt and gets its continuation in one reply.
async fn complete(gateway: Channel, model: &str) -> Result<String, Status> {
    let request = CompletionRequest {
        model: model.into(),
        prompt: "The capital of France is".into(),
        max_tokens: Some(16),
        ..Default::default()
    };
    let reply = CompletionServiceClient::new(gateway)
        .complete(request)
        .await?;
    Ok(reply.into_inner().text)
}

fn chat_request(text: &str) -> ChatRequest {
    ChatRequest {
        model: MODEL.into(),
        messages: vec![ChatMessage {
            role: Role::User.into(),
            content: text.into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// Sends a conversation and puts the answer together from its pieces.
async fn chat(gateway: Channel, request: Request<ChatRequest>) -> Result<String, Status> {
    let mut events = ChatServiceClient::new(gateway)
        .stream_chat(request)
        .await?
        .into_inner();
    let mut answer = String::new();
    while let Some(reply) = events.message().await? {
        if let Some(Event::Delta(delta)) = reply.event {
            answer += &delta.content;
        }
    }
    Ok(answer)
}

/// Asks an engine, without a gateway before it: text in, token ids out.
async fn generate(engine: Channel) -> Result<String, Status> {
    let request = GenerateRequest {
        request_id: "example".into(),
        input: Some(Input::Text("Hello".into())),
        sampling_params: Some(engine::SamplingParams {
            temperature: Some(0.0),
            max_tokens: Some(8),
            ..Default::default()
        }),
        stream: true,
        ..Default::default()
    };
    let mut replies = VllmEngineClient::new(engine)
        .generate(request)
        .await?
        .into_inner();
    let mut tokens: Vec<String> = Vec::new();
    while let Some(reply) = replies.message().await? {
        match reply.response {
            Some(Response::Chunk(chunk)) => {
                tokens.extend(chunk.token_ids.iter().map(u32::to_string));
            }
            Some(Response::Complete(end)) => {
                return Ok(format!("[{}] {}", tokens.join(" "), end.finish_reason));
            }
            None => {}
        }
    }
    Err(Status::unavailable(
        "the stream ended before the generation did",
    ))
}

/// Stops a stream early, by dropping it; the server notices and stops generating.
async fn cancel_after_first(gateway: Channel) -> Result<(), Status> {
    let mut request = chat_request("Tell me a long story");
    request.sampling = Some(SamplingParams {
        ignore_eos: true,
        ..Default::default()
    });
    let mut events = ChatServiceClient::new(gateway)
        .stream_chat(request)
        .await?
        .into_inner();
    events.message().await?;
    drop(events);
    Err(Status::cancelled("by this client"))
}

/// Gives up when the answer takes too long: the server is told the deadline, the timer keeps it.
async fn with_deadline(gateway: Channel) -> Result<String, Status> {
    let limit = Duration::from_millis(200);
    let mut request = Request::new(chat_request("Take your time"));
    request.set_timeout(limit);
    tokio::time::timeout(limit, chat(gateway, request))
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// Reads the typed details of a failed call.
fn explain<T>(result: Result<T, Status>) -> String {
    let Err(status) = result else {
        return format!("{:?}", Code::Ok);
    };
    match status.get_details_error_info() {
        Some(info) => format!("{:?} {}", status.code(), info.reason),
        None => format!("{:?}", status.code()),
    }
}

fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    endpoint.expect("an address as host:port").connect_lazy()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Status> {
    let addresses: Vec<String> = std::env::args().skip(1).collect();
    let [gateway, engine] = &addresses[..] else {
        eprintln!("usage: example GATEWAY ENGINE, each as host:port");
        std::process::exit(2);
    };
    let (gateway, engine) = (connect(gateway), connect(engine));

    println!("completion: {}", complete(gateway.clone(), MODEL).await?);
    println!(
        "chat: {}",
        chat(gateway.clone(), Request::new(chat_request("Who are you?"))).await?
    );
    println!("generate: {}", generate(engine).await?);
    println!(
        "cancel: {}",
        explain(cancel_after_first(gateway.clone()).await)
    );
    println!(
        "deadline: {}",
        explain(with_deadline(gateway.clone()).await)
    );
    println!(
        "error: {}",
        explain(complete(gateway, "no-such-model").await)
    );
    Ok(())
}
