// Command llmserver serves entity.grpc.LLMService: it says the prompt again, word by word.
package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	entitygrpc "github.com/smg-grpc-proto/go/entity/grpc"
)

type echo struct {
	entitygrpc.UnimplementedLLMServiceServer
}

// Generate streams the words of the prompt; the last message says why it ended.
func (echo) Generate(
	request *entitygrpc.GenerateRequest,
	stream grpc.ServerStreamingServer[entitygrpc.GenerateResponse],
) error {
	words := strings.SplitAfter(request.GetPrompt(), " ")
	if request.GetPrompt() == "" {
		return status.Error(codes.InvalidArgument, "prompt: is empty")
	}
	reason := "stop"
	if most := int(request.GetMaxTokens()); request.MaxTokens != nil && most < len(words) {
		words, reason = words[:max(most, 0)], "length"
	}
	for _, word := range words {
		// Send fails once the client has cancelled or its deadline has passed.
		if err := stream.Send(&entitygrpc.GenerateResponse{Token: word}); err != nil {
			return err
		}
	}
	return stream.Send(&entitygrpc.GenerateResponse{FinishReason: &reason})
}

func main() {
	address := "127.0.0.1:0"
	if len(os.Args) > 1 {
		address = os.Args[1]
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	entitygrpc.RegisterLLMServiceServer(server, echo{})
	fmt.Println(listener.Addr())
	log.Fatal(server.Serve(listener))
}
