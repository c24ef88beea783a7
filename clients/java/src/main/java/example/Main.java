package example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.ErrorInfo;
import io.grpc.Channel;
import io.grpc.Context;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.smgproto.smg.v1.ChatEvent;
import io.smgproto.smg.v1.ChatMessage;
import io.smgproto.smg.v1.ChatRequest;
import io.smgproto.smg.v1.ChatServiceGrpc;
import io.smgproto.smg.v1.CompletionRequest;
import io.smgproto.smg.v1.CompletionServiceGrpc;
import io.smgproto.smg.v1.Role;
import io.smgproto.smg.v1.SamplingParams;
import io.smgproto.vllm.engine.GenerateRequest;
import io.smgproto.vllm.engine.GenerateResponse;
import io.smgproto.vllm.engine.VllmEngineGrpc;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;

/** Calls a gateway that speaks smg.v1 and an engine that speaks vllm.grpc.engine. */
public final class Main {
  private static final String MODEL = "demo-model";

  private Main() {}

  /** Sends a prompt and gets its continuation in one reply. */
  private static String complete(Channel gateway, String model) {
    CompletionRequest request =
        CompletionRequest.newBuilder()
            .setModel(model)
            .setPrompt("The capital of France is")
            .setMaxTokens(16)
            .build();
    return CompletionServiceGrpc.newBlockingStub(gateway).complete(request).getText();
  }

  private static ChatRequest chatRequest(String text) {
    ChatMessage message = ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent(text).build();
    return ChatRequest.newBuilder().setModel(MODEL).addMessages(message).build();
  }

  /** Sends a conversation and puts the answer together from its pieces. */
  private static String chat(ChatServiceGrpc.ChatServiceBlockingStub gateway, String text) {
    StringBuilder answer = new StringBuilder();
    Iterator<ChatEvent> events = gateway.streamChat(chatRequest(text));
    while (events.hasNext()) {
      answer.append(events.next().getDelta().getContent()); // empty at the start and the end
    }
    return answer.toString();
  }

  /** Asks an engine, without a gateway before it: text in, token ids out. */
  private static String generate(Channel engine) {
    GenerateRequest request =
        GenerateRequest.newBuilder()
            .setRequestId("example")
            .setText("Hello")
            .setSamplingParams(
                io.smgproto.vllm.engine.SamplingParams.newBuilder()
                    .setTemperature(0)
                    .setMaxTokens(8))
            .setStream(true)
            .build();
    List<Integer> tokens = new ArrayList<>();
    Iterator<GenerateResponse> replies = VllmEngineGrpc.newBlockingStub(engine).generate(request);
    while (replies.hasNext()) {
      GenerateResponse reply = replies.next();
      switch (reply.getResponseCase()) {
        case CHUNK -> tokens.addAll(reply.getChunk().getTokenIdsList());
        case COMPLETE -> {
          String ids = tokens.stream().map(String::valueOf).collect(Collectors.joining(" "));
          return "[" + ids + "] " + reply.getComplete().getFinishReason();
        }
        case RESPONSE_NOT_SET -> {}
      }
    }
    throw Status.UNAVAILABLE.withDescription("the stream ended too early").asRuntimeException();
  }

  /** Stops a stream early; the server notices and stops generating. */
  private static void cancelAfterFirst(Channel gateway) {
    ChatRequest request =
        chatRequest("Tell me a long story").toBuilder()
            .setSampling(SamplingParams.newBuilder().setIgnoreEos(true))
            .build();
    try (Context.CancellableContext call = Context.current().withCancellation()) {
      call.run(
          () -> {
            ChatServiceGrpc.newBlockingStub(gateway)
                .streamChat(request)
                .forEachRemaining(event -> call.cancel(null));
          });
    }
  }

  /** Reads the typed details of a failed call. */
  private static String failure(Runnable call) {
    try {
      call.run();
      return "no failure";
    } catch (StatusRuntimeException error) {
      StringBuilder shown = new StringBuilder(error.getStatus().getCode().name());
      com.google.rpc.Status status = StatusProto.fromThrowable(error);
      if (status != null) {
        for (com.google.protobuf.Any detail : status.getDetailsList()) {
          if (detail.is(ErrorInfo.class)) {
            shown.append(" ").append(unpack(detail).getReason());
          }
        }
      }
      return shown.toString();
    }
  }

  private static ErrorInfo unpack(com.google.protobuf.Any detail) {
    try {
      return detail.unpack(ErrorInfo.class);
    } catch (InvalidProtocolBufferException error) {
      return ErrorInfo.getDefaultInstance();
    }
  }

  private static ManagedChannel connect(String address) {
    return Grpc.newChannelBuilder(address, InsecureChannelCredentials.create()).build();
  }

  public static void main(String[] args) {
    if (args.length != 2) {
      System.err.println("usage: example.Main GATEWAY ENGINE, each as host:port");
      System.exit(2);
    }
    ManagedChannel gateway = connect(args[0]);
    ManagedChannel engine = connect(args[1]);
    ChatServiceGrpc.ChatServiceBlockingStub chats = ChatServiceGrpc.newBlockingStub(gateway);
    try {
      System.out.println("completion: " + complete(gateway, MODEL));
      System.out.println("chat: " + chat(chats, "Who are you?"));
      System.out.println("generate: " + generate(engine));
      System.out.println("cancel: " + failure(() -> cancelAfterFirst(gateway)));
      ChatServiceGrpc.ChatServiceBlockingStub hasty =
          chats.withDeadlineAfter(200, TimeUnit.MILLISECONDS);
      System.out.println("deadline: " + failure(() -> chat(hasty, "Take your time")));
      System.out.println("error: " + failure(() -> complete(gateway, "no-such-model")));
    } finally {
      gateway.shutdownNow();
      engine.shutdownNow();
    }
  }
}
