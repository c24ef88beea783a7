// Command client calls a gateway that speaks smg.v1 and an engine that speaks vllm.grpc.engine.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	smgv1 "github.com/smg-grpc-proto/go/smg/v1"
	vllmengine "github.com/smg-grpc-proto/go/vllm/grpc/engine"
)

const model = "demo-model"

// complete sends a prompt and gets its continuation in one reply.
func complete(ctx context.Context, gateway grpc.ClientConnInterface, model string) (string, error) {
	maxTokens := int32(16)
	reply, err := smgv1.NewCompletionServiceClient(gateway).Complete(ctx, &smgv1.CompletionRequest{
		Model:     model,
		Prompt: "The capital of France is",
		MaxTokens: &maxTokens,
	})
	return reply.GetText(), err
}

func chatRequest(text string) *smgv1.ChatRequest {
	return &smgv1.ChatRequest{
		Model: model,
		Messages: []*smgv1.ChatMessage{{
			Role: smgv1.Role_ROLE_USER,
			Content: text,
		}},
	}
}

// chat sends a conversation and puts the answer together from its pieces.
func chat(ctx context.Context, gateway grpc.ClientConnInterface, text string) (string, error) {
	stream, err := smgv1.NewChatServiceClient(gateway).StreamChat(ctx, chatRequest(text))
	if err != nil {
		return "", err
	}
	answer := ""
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			return answer, nil
		}
		if err != nil {
			return answer, err
		}
		answer += event.GetDelta().GetContent() // empty where the event is a start or an end
	}
}

// generate asks an engine, without a gateway before it: text in, token ids out.
func generate(ctx context.Context, engine grpc.ClientConnInterface) (string, error) {
	maxTokens := uint32(8)
	temperature := float32(0)
	stream, err := vllmengine.NewVllmEngineClient(engine).Generate(ctx, &vllmengine.GenerateRequest{
		RequestId:      "example",
		Input:          &vllmengine.GenerateRequest_Text{Text: "Hello"},
		SamplingParams: &vllmengine.SamplingParams{Temperature: &temperature, MaxTokens: &maxTokens},
		Stream:         true,
	})
	if err != nil {
		return "", err
	}
	var tokens []uint32
	for {
		reply, err := stream.Recv()
		if err != nil {
			return "", err // io.EOF too: without a complete the stream is cut
		}
		switch kind := reply.Response.(type) {
		case *vllmengine.GenerateResponse_Chunk:
			tokens = append(tokens, kind.Chunk.TokenIds...)
		case *vllmengine.GenerateResponse_Complete:
			return fmt.Sprint(tokens, " ", kind.Complete.FinishReason), nil
		}
	}
}

// cancelAfterFirst stops a stream early; the server notices and stops generating.
func cancelAfterFirst(ctx context.Context, gateway grpc.ClientConnInterface) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	request := chatRequest("Tell me a long story")
	request.Sampling = &smgv1.SamplingParams{IgnoreEos: true}
	stream, err := smgv1.NewChatServiceClient(gateway).StreamChat(ctx, request)
	if err != nil {
		return err
	}
	for err == nil {
		_, err = stream.Recv()
		cancel() // Recv still gives what has come already, then the status
	}
	return err
}

// withDeadline gives up when the answer takes too long.
func withDeadline(ctx context.Context, gateway grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	_, err := chat(ctx, gateway, "Take your time")
	return err
}

// explain reads the typed details of a failed call.
func explain(err error) string {
	problem := status.Convert(err)
	for _, detail := range problem.Details() {
		switch info := detail.(type) {
		case *errdetails.ErrorInfo:
			return fmt.Sprint(problem.Code(), " ", info.GetReason())
		}
	}
	return problem.Code().String()
}

func connect(address string) *grpc.ClientConn {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return connection
}

func show(what string, result string, err error) {
	if err != nil {
		log.Fatalf("%s: %s", what, explain(err))
	}
	fmt.Printf("%s: %s\n", what, result)
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client GATEWAY ENGINE, each as host:port")
	}
	gateway, engine := connect(os.Args[1]), connect(os.Args[2])
	defer gateway.Close()
	defer engine.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	text, err := complete(ctx, gateway, model)
	show("completion", text, err)
	text, err = chat(ctx, gateway, "Who are you?")
	show("chat", text, err)
	text, err = generate(ctx, engine)
	show("generate", text, err)
	fmt.Println("cancel:", explain(cancelAfterFirst(ctx, gateway)))
	fmt.Println("deadline:", explain(withDeadline(ctx, gateway)))
	_, err = complete(ctx, gateway, "no-such-model")
	fmt.Println("error:", explain(err))
}
