// Command browser lets pages call smg.v1. Browsers send Connect or gRPC-Web; this program
// translates both to gRPC for a front door, and serves the page.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"

	"connectrpc.com/vanguard"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// What pages may call, and with them anyone who can reach this program: never WorkerService.
var services = []protoreflect.FullName{"smg.v1.ChatService", "smg.v1.ModelService"}

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "the address to serve pages and calls on")
	door := flag.String("front-door", "http://127.0.0.1:50051", "where smg.v1 is served")
	contract := flag.String("contract", "contract.binpb", "from `smg-proto export --descriptor-set`")
	flag.Parse()
	target, err := url.Parse(*door)
	if err != nil {
		log.Fatal(err)
	}
	calls, err := transcoder(*contract, target)
	if err != nil {
		log.Fatal(err)
	}
	handler := http.NewServeMux()
	handler.Handle("/", http.FileServer(http.Dir("page")))
	for _, service := range services {
		handler.Handle("/"+string(service)+"/", calls)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("http://%s\n", listener.Addr())
	// Without a WriteTimeout, which would end every stream that takes longer.
	log.Fatal((&http.Server{Handler: handler}).Serve(listener))
}

// transcoder forwards calls as gRPC. The descriptor set has the types of their messages.
func transcoder(contract string, target *url.URL) (http.Handler, error) {
	data, err := os.ReadFile(contract)
	if err != nil {
		return nil, err
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return nil, err
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	protocols := &http.Protocols{}
	protocols.SetHTTP2(true)            // over TLS
	protocols.SetUnencryptedHTTP2(true) // and without
	proxy.Transport = &http.Transport{Protocols: protocols}
	var known []*vanguard.Service
	for _, name := range services {
		schema, err := files.FindDescriptorByName(name)
		if err != nil {
			return nil, err
		}
		known = append(known, vanguard.NewServiceWithSchema(schema.(protoreflect.ServiceDescriptor), proxy,
			vanguard.WithTargetProtocols(vanguard.ProtocolGRPC), vanguard.WithTargetCodecs(vanguard.CodecProto)))
	}
	return vanguard.NewTranscoder(known)
}
