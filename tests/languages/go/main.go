// Command executor reads requests and writes replies, a line of JSON each; see executor.py.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	_ "github.com/smg-grpc-proto/go/entity/grpc"
	_ "github.com/smg-grpc-proto/go/mlx/grpc/engine"
	_ "github.com/smg-grpc-proto/go/openengine/v1"
	_ "github.com/smg-grpc-proto/go/sagellm/v1"
	_ "github.com/smg-grpc-proto/go/sglang/grpc/encoder"
	_ "github.com/smg-grpc-proto/go/sglang/grpc/scheduler"
	_ "github.com/smg-grpc-proto/go/sglang/runtime/v1"
	_ "github.com/smg-grpc-proto/go/smg/grpc/common"
	smgv1 "github.com/smg-grpc-proto/go/smg/v1"
	"github.com/smg-grpc-proto/go/smg/v1/smgstreams"
	_ "github.com/smg-grpc-proto/go/tokenspeed/grpc/encoder"
	_ "github.com/smg-grpc-proto/go/tokenspeed/grpc/scheduler"
	_ "github.com/smg-grpc-proto/go/trtllm"
	_ "github.com/smg-grpc-proto/go/vllm"
	_ "github.com/smg-grpc-proto/go/vllm/grpc/engine"
)

type request struct {
	Message string          `json:"message"`
	Hex     *string         `json:"hex"`
	JSON    json.RawMessage `json:"json"`
	Events  *[]string       `json:"events"`
}

type reply struct {
	Hex   string          `json:"hex"`
	Text  string          `json:"text,omitempty"`
	JSON  json.RawMessage `json:"json,omitempty"`
	Error string          `json:"error,omitempty"`
}

func answer(line []byte) (out reply, err error) {
	var in request
	if err = json.Unmarshal(line, &in); err != nil {
		return
	}
	kind, err := protoregistry.GlobalTypes.FindMessageByName(protoreflect.FullName(in.Message))
	if err != nil {
		return
	}
	if in.Events != nil {
		return add(kind, *in.Events)
	}
	message := kind.New().Interface()
	if in.Hex != nil {
		var wire []byte
		if wire, err = hex.DecodeString(*in.Hex); err == nil {
			err = proto.Unmarshal(wire, message)
		}
		if err == nil {
			out.JSON, err = protojson.Marshal(message)
		}
	} else {
		err = protojson.Unmarshal(in.JSON, message)
	}
	if err != nil {
		return
	}
	wire, err := proto.Marshal(message)
	out.Hex = hex.EncodeToString(wire)
	return
}

// recorded gives events as the call of a stub does.
type recorded[E proto.Message] struct {
	kind   protoreflect.MessageType
	events []string
}

func (r *recorded[E]) Recv() (event E, err error) {
	if len(r.events) == 0 {
		return event, io.EOF
	}
	event = r.kind.New().Interface().(E)
	wire, err := hex.DecodeString(r.events[0])
	r.events = r.events[1:]
	if err == nil {
		err = proto.Unmarshal(wire, event)
	}
	return event, err
}

// add has what the events of a stream add up to.
func add(kind protoreflect.MessageType, events []string) (reply, error) {
	switch name := kind.Descriptor().Name(); name {
	case "ChatEvent":
		return read(smgstreams.Chat(&recorded[*smgv1.ChatEvent]{kind, events}))
	case "CompletionEvent":
		return read(smgstreams.Completion(&recorded[*smgv1.CompletionEvent]{kind, events}))
	case "MessageEvent":
		return read(smgstreams.Message(&recorded[*smgv1.MessageEvent]{kind, events}))
	case "ResponseEvent":
		return read(smgstreams.Response(&recorded[*smgv1.ResponseEvent]{kind, events}))
	default:
		return reply{}, fmt.Errorf("%s is no event", name)
	}
}

func read[E, R proto.Message](stream *smgstreams.Stream[E, R]) (out reply, err error) {
	for stream.Next() {
		out.Text += stream.Text()
	}
	message, err := stream.Reply()
	if err != stream.Err() {
		return out, fmt.Errorf("Reply and Err disagree: %v, %v", err, stream.Err())
	}
	if err != nil {
		return out, err
	}
	wire, err := proto.MarshalOptions{Deterministic: true}.Marshal(message)
	out.Hex = hex.EncodeToString(wire)
	return out, err
}

func main() {
	input := bufio.NewReader(os.Stdin)
	output := bufio.NewWriter(os.Stdout)
	defer output.Flush()
	write := json.NewEncoder(output)
	for {
		line, err := input.ReadBytes('\n')
		if err == io.EOF {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		out, err := answer(line)
		if err != nil {
			out = reply{Error: err.Error()}
		}
		if err := write.Encode(out); err != nil {
			log.Fatal(err)
		}
	}
}
