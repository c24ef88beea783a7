// Calls a gateway that speaks smg.v1 and an engine that speaks vllm.grpc.engine.
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <iostream>
#include <memory>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "smg/v1/chat.grpc.pb.h"
#include "smg/v1/completion.grpc.pb.h"
#include "vllm/grpc/engine/vllm_engine.grpc.pb.h"

namespace {

using Channel = std::shared_ptr<grpc::Channel>;

constexpr char kModel[] = "demo-model";

// Sends a prompt and gets its continuation in one reply.
grpc::Status Complete(const Channel& gateway, const std::string& model, std::string* text) {
  smg::v1::CompletionRequest request;
  request.set_model(model);
  request.set_prompt("The capital of France is");
  request.set_max_tokens(16);
  grpc::ClientContext context;
  smg::v1::CompletionResponse reply;
  grpc::Status status =
      smg::v1::CompletionService::NewStub(gateway)->Complete(&context, request, &reply);
  *text = reply.text();
  return status;
}

smg::v1::ChatRequest MakeChatRequest(const std::string& text) {
  smg::v1::ChatRequest request;
  request.set_model(kModel);
  smg::v1::ChatMessage* message = request.add_messages();
  message->set_role(smg::v1::ROLE_USER);
  message->set_content(text);
  return request;
}

// Sends a conversation and puts the answer together from its pieces.
grpc::Status Chat(const Channel& gateway, grpc::ClientContext* context,
                  const std::string& text, std::string* answer) {
  auto stub = smg::v1::ChatService::NewStub(gateway);
  auto reader = stub->StreamChat(context, MakeChatRequest(text));
  smg::v1::ChatEvent event;
  while (reader->Read(&event)) {
    *answer += event.delta().content();  // empty where the event is a start or an end
  }
  return reader->Finish();
}

// Asks an engine, without a gateway before it: text in, token ids out.
grpc::Status Generate(const Channel& engine, std::string* result) {
  vllm::grpc::engine::GenerateRequest request;
  request.set_request_id("example");
  request.set_text("Hello");
  request.mutable_sampling_params()->set_temperature(0);
  request.mutable_sampling_params()->set_max_tokens(8);
  request.set_stream(true);

  grpc::ClientContext context;
  auto stub = vllm::grpc::engine::VllmEngine::NewStub(engine);
  auto reader = stub->Generate(&context, request);
  vllm::grpc::engine::GenerateResponse reply;
  std::string tokens;
  while (reader->Read(&reply)) {
    for (uint32_t token : reply.chunk().token_ids()) {
      tokens += (tokens.empty() ? "" : " ") + std::to_string(token);
    }
    if (reply.has_complete()) {
      *result = "[" + tokens + "] " + reply.complete().finish_reason();
    }
  }
  return reader->Finish();
}

// Stops a stream early; the server notices and stops generating.
grpc::Status CancelAfterFirst(const Channel& gateway) {
  smg::v1::ChatRequest request = MakeChatRequest("Tell me a long story");
  request.mutable_sampling()->set_ignore_eos(true);
  grpc::ClientContext context;
  auto stub = smg::v1::ChatService::NewStub(gateway);
  auto reader = stub->StreamChat(&context, request);
  smg::v1::ChatEvent event;
  while (reader->Read(&event)) {
    context.TryCancel();
  }
  return reader->Finish();
}

// Gives up when the answer takes too long.
grpc::Status WithDeadline(const Channel& gateway) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  std::string answer;
  return Chat(gateway, &context, "Take your time", &answer);
}

std::string Name(grpc::StatusCode code) {
  switch (code) {
    case grpc::StatusCode::OK:
      return "OK";
    case grpc::StatusCode::CANCELLED:
      return "CANCELLED";
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::NOT_FOUND:
      return "NOT_FOUND";
    default:
      return "status " + std::to_string(code);
  }
}

// Reads the typed details of a failed call.
std::string Explain(const grpc::Status& status) {
  std::string shown = Name(status.error_code());
  google::rpc::Status details;
  details.ParseFromString(status.error_details());
  for (const google::protobuf::Any& detail : details.details()) {
    google::rpc::ErrorInfo info;
    if (detail.UnpackTo(&info)) {
      shown += " " + info.reason();
    }
  }
  return shown;
}

Channel Connect(const char* address) {
  return grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
}

bool Show(const std::string& what, const grpc::Status& status, const std::string& result) {
  std::cout << what << ": " << (status.ok() ? result : Explain(status)) << std::endl;
  return status.ok();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: example GATEWAY ENGINE, each as host:port\n";
    return 2;
  }
  Channel gateway = Connect(argv[1]);
  Channel engine = Connect(argv[2]);
  std::string text, answer, tokens, nothing;
  grpc::ClientContext context;

  bool fine = Show("completion", Complete(gateway, kModel, &text), text);
  fine = Show("chat", Chat(gateway, &context, "Who are you?", &answer), answer) && fine;
  fine = Show("generate", Generate(engine, &tokens), tokens) && fine;
  Show("cancel", CancelAfterFirst(gateway), "");
  Show("deadline", WithDeadline(gateway), "");
  Show("error", Complete(gateway, "no-such-model", &nothing), "");
  return fine ? 0 : 1;
}
