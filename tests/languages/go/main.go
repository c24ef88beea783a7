// Command executor reads requests and writes replies, a line of JSON each; see executor.py.
package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
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
	_ "github.com/smg-grpc-proto/go/smg/v1"
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
}

type reply struct {
	Hex   string          `json:"hex"`
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
