// Package smgstreams turns the events of a stream of smg.v1 into the reply of the unary call.
//
//	call, err := smgv1.NewChatServiceClient(conn).StreamChat(ctx, request)
//	...
//	stream := smgstreams.Chat(call)
//	for stream.Next() {
//		fmt.Print(stream.Text())
//	}
//	reply, err := stream.Reply()
//
// To end a call early, cancel its context.
package smgstreams

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	smgv1 "github.com/smg-grpc-proto/go/smg/v1"
)

// Receiver is a call of a stub: Recv returns the next event, and io.EOF after the last.
type Receiver[E any] interface{ Recv() (E, error) }

// Error is about events that are no stream of smg.v1.
type Error struct {
	What  string
	Event int // which event, counted from 1; of a stream that stops too early the last
}

func (e *Error) Error() string { return fmt.Sprintf("event %d: %s", e.Event, e.What) }

// Stream reads events of type E, which add up to a reply of type R.
type Stream[E, R proto.Message] struct {
	call       Receiver[E]
	join       func(reply, end R, between []piece) error
	event      E
	count      int
	start, end proto.Message
	between    []piece
	reply      R
	err        error // io.EOF after the end
}

// piece is what an event between start and end brings.
type piece struct {
	event   int
	kind    string
	content proto.Message
}

// Chat reads the events of ChatService.StreamChat.
func Chat(call Receiver[*smgv1.ChatEvent]) *Stream[*smgv1.ChatEvent, *smgv1.ChatResponse] {
	return &Stream[*smgv1.ChatEvent, *smgv1.ChatResponse]{call: call, join: joinChat}
}

// Completion reads the events of CompletionService.StreamComplete.
func Completion(call Receiver[*smgv1.CompletionEvent]) *Stream[*smgv1.CompletionEvent, *smgv1.CompletionResponse] {
	return &Stream[*smgv1.CompletionEvent, *smgv1.CompletionResponse]{call: call, join: joinCompletion}
}

// Message reads the events of MessageService.StreamMessage.
func Message(call Receiver[*smgv1.MessageEvent]) *Stream[*smgv1.MessageEvent, *smgv1.MessageResponse] {
	return &Stream[*smgv1.MessageEvent, *smgv1.MessageResponse]{call: call, join: joinMessage}
}

// Response reads the events of ResponseService.StreamResponse and WatchResponse.
func Response(call Receiver[*smgv1.ResponseEvent]) *Stream[*smgv1.ResponseEvent, *smgv1.Response] {
	return &Stream[*smgv1.ResponseEvent, *smgv1.Response]{call: call, join: joinResponse}
}

// Next waits for the next event. It returns false after the last one, and when the call fails.
func (s *Stream[E, R]) Next() bool {
	if s.err != nil {
		return false
	}
	if s.event, s.err = s.call.Recv(); s.err == nil {
		s.count++
		s.err = s.take()
	} else if s.err == io.EOF {
		s.err = s.finish()
	}
	return s.err == nil
}

// Event is the event that Next waited for.
func (s *Stream[E, R]) Event() E { return s.event }

// Text is the text that this event adds to the reply: to its first choice, and without reasoning.
func (s *Stream[E, R]) Text() string {
	switch event := any(s.event).(type) {
	case *smgv1.ChatEvent:
		if event.GetDelta().GetIndex() == 0 {
			return event.GetDelta().GetContent()
		}
	case *smgv1.CompletionEvent:
		if event.GetDelta().GetIndex() == 0 {
			return event.GetDelta().GetText()
		}
	case *smgv1.MessageEvent:
		return event.GetDelta().GetText()
	case *smgv1.ResponseEvent:
		return event.GetDelta().GetText()
	}
	return ""
}

// Err is why Next returned false: nil after the last event, an *Error for events that are no
// stream, or the status of the call.
func (s *Stream[E, R]) Err() error {
	if s.err == io.EOF {
		return nil
	}
	return s.err
}

// Reply is what the unary call would have returned. It reads what is left of the stream.
func (s *Stream[E, R]) Reply() (R, error) {
	for s.Next() {
	}
	return s.reply, s.Err()
}

func (s *Stream[E, R]) take() error {
	event := s.event.ProtoReflect()
	member := event.WhichOneof(event.Descriptor().Oneofs().ByName("event"))
	if member == nil {
		return nil // of a newer kind
	}
	content := event.Get(member).Message().Interface()
	kind := string(member.Name())
	switch {
	case s.end != nil:
		return failure(s.count, "%s after end", kind)
	case kind == "start" && s.start != nil:
		return failure(s.count, "a second start")
	case kind == "start":
		s.start = content
	case s.start == nil:
		return failure(s.count, "%s before start", kind)
	case kind == "end":
		s.end = content
	default:
		s.between = append(s.between, piece{s.count, kind, content})
	}
	return nil
}

func (s *Stream[E, R]) finish() error {
	if s.end == nil {
		return failure(s.count, "the stream stopped before its end")
	}
	reply := proto.Clone(s.start)
	proto.Merge(reply, s.end)
	if err := s.join(reply.(R), s.end.(R), s.between); err != nil {
		return err
	}
	s.reply = reply.(R)
	return io.EOF
}

func failure(event int, what string, words ...any) error {
	return &Error{fmt.Sprintf(what, words...), event}
}

func joinChat(reply, end *smgv1.ChatResponse, between []piece) error {
	reply.Choices = nil
	for _, found := range choices[*smgv1.ChatChoice, *smgv1.ChatDelta](end.Choices, between) {
		choice := found.content
		if choice.Message == nil {
			choice.Message = &smgv1.ChatMessage{}
		}
		message := choice.Message
		message.Role = smgv1.Role_ROLE_ASSISTANT
		var content, reasoning, refusal strings.Builder
		calls := map[int32][]*smgv1.ToolCallDelta{}
		for _, delta := range found.deltas {
			content.WriteString(delta.Content)
			reasoning.WriteString(delta.ReasoningContent)
			refusal.WriteString(delta.Refusal)
			message.Annotations = append(message.Annotations, delta.Annotations...)
			choice.Logprobs = append(choice.Logprobs, delta.Logprobs...)
			choice.TokenIds = append(choice.TokenIds, delta.TokenIds...)
			for _, piece := range delta.ToolCalls {
				calls[piece.Index] = append(calls[piece.Index], piece)
			}
		}
		message.Content += content.String()
		message.ReasoningContent += reasoning.String()
		message.Refusal += refusal.String()
		for _, pieces := range inOrder(calls) {
			call := &smgv1.ToolCall{}
			var arguments strings.Builder
			for _, piece := range pieces {
				call.Id = cmp.Or(call.Id, piece.Id)
				call.Name = cmp.Or(call.Name, piece.Name)
				arguments.WriteString(piece.Arguments)
			}
			call.Arguments = arguments.String()
			message.ToolCalls = append(message.ToolCalls, call)
		}
		reply.Choices = append(reply.Choices, choice)
	}
	return nil
}

func joinCompletion(reply, end *smgv1.CompletionResponse, between []piece) error {
	reply.Choices = nil
	several := len(end.Choices) > 0
	for _, found := range choices[*smgv1.CompletionChoice, *smgv1.CompletionDelta](end.Choices, between) {
		choice := found.content
		var text strings.Builder
		for _, delta := range found.deltas {
			text.WriteString(delta.Text)
			choice.Logprobs = append(choice.Logprobs, delta.Logprobs...)
			choice.TokenIds = append(choice.TokenIds, delta.TokenIds...)
		}
		choice.Text += text.String()
		several = several || found.ended
		reply.Choices = append(reply.Choices, choice)
	}
	if len(reply.Choices) > 0 {
		first := reply.Choices[0]
		reply.Text, reply.Logprobs, reply.TokenIds = first.Text, first.Logprobs, first.TokenIds
	}
	if !several {
		reply.Choices = nil
	}
	return nil
}

func joinMessage(reply, _ *smgv1.MessageResponse, between []piece) error {
	blocks, err := parts[*smgv1.MessageBlock, *smgv1.MessageDelta]("block", between)
	if err != nil {
		return err
	}
	reply.Blocks = nil
	for _, found := range blocks {
		block := found.content
		var text, reasoning, signature, arguments strings.Builder
		for _, delta := range found.deltas {
			text.WriteString(delta.GetText())
			reasoning.WriteString(delta.GetReasoning())
			signature.WriteString(delta.GetSignature())
			arguments.WriteString(delta.GetArguments())
			if annotation := delta.GetAnnotation(); annotation != nil {
				block.Annotations = append(block.Annotations, annotation)
			}
		}
		switch kind := block.Block.(type) {
		case *smgv1.MessageBlock_Text:
			kind.Text += text.String()
		case *smgv1.MessageBlock_Reasoning:
			kind.Reasoning.Text += reasoning.String()
			kind.Reasoning.Signature += signature.String()
		case *smgv1.MessageBlock_ToolCall:
			kind.ToolCall.Arguments += arguments.String()
		}
		reply.Blocks = append(reply.Blocks, block)
	}
	return nil
}

func joinResponse(reply, _ *smgv1.Response, between []piece) error {
	items, err := parts[*smgv1.ResponseItem, *smgv1.ResponseDelta]("item", between)
	if err != nil {
		return err
	}
	reply.Output = nil
	for _, found := range items {
		item := found.content
		said := map[int32]*smgv1.ContentPart{}
		summaries := map[int32]string{}
		for _, delta := range found.deltas {
			part := func() *smgv1.ContentPart {
				if said[delta.ContentIndex] == nil {
					said[delta.ContentIndex] = &smgv1.ContentPart{}
				}
				return said[delta.ContentIndex]
			}
			switch brought := delta.Delta.(type) {
			case *smgv1.ResponseDelta_Text:
				part().Part = &smgv1.ContentPart_Text{Text: part().GetText() + brought.Text}
			case *smgv1.ResponseDelta_Refusal:
				part().Part = &smgv1.ContentPart_Refusal{Refusal: part().GetRefusal() + brought.Refusal}
			case *smgv1.ResponseDelta_Annotation:
				part().Annotations = append(part().Annotations, brought.Annotation)
			case *smgv1.ResponseDelta_Reasoning:
				item.GetReasoning().Text += brought.Reasoning
			case *smgv1.ResponseDelta_ReasoningSummary:
				summaries[delta.ContentIndex] += brought.ReasoningSummary
			case *smgv1.ResponseDelta_Arguments:
				item.GetToolCall().Arguments += brought.Arguments
			}
		}
		switch kind := item.Item.(type) {
		case *smgv1.ResponseItem_Message:
			kind.Message.Parts = append(kind.Message.Parts, inOrder(said)...)
		case *smgv1.ResponseItem_Reasoning:
			kind.Reasoning.Summary = append(kind.Reasoning.Summary, inOrder(summaries)...)
		}
		reply.Output = append(reply.Output, item)
	}
	return nil
}

// part is a choice, a block or an item: what its start or its end says, and what to append to that.
type part[P, D proto.Message] struct {
	content P
	deltas  []D
	events  []int // the number of the event of each delta
	ended   bool
}

type indexed interface {
	proto.Message
	GetIndex() int32
}

// choices are those of a chat or a completion, in order.
func choices[C, D indexed](ends []C, between []piece) []*part[C, D] {
	found := map[int32]*part[C, D]{}
	at := func(index int32) *part[C, D] {
		if found[index] == nil {
			var none C
			choice := none.ProtoReflect().New()
			choice.Set(choice.Descriptor().Fields().ByName("index"), protoreflect.ValueOfInt32(index))
			found[index] = &part[C, D]{content: choice.Interface().(C)}
		}
		return found[index]
	}
	var said []C
	for _, p := range between {
		switch content := p.content.(type) {
		case D:
			choice := at(content.GetIndex())
			choice.deltas = append(choice.deltas, content)
		case C:
			said = append(said, content)
		}
	}
	for _, end := range append(said, ends...) { // what choice_end said, and perhaps more
		choice := at(end.GetIndex())
		choice.content, choice.ended = proto.Clone(end).(C), true
	}
	return inOrder(found)
}

// kinds are those of the block or item that a kind of delta is for. Others, opaque ones and those of
// newer kinds, add nothing; annotations of a message are for blocks of any kind.
var kinds = map[protoreflect.FullName]protoreflect.Name{
	"smg.v1.MessageDelta.text":               "text",
	"smg.v1.MessageDelta.reasoning":          "reasoning",
	"smg.v1.MessageDelta.signature":          "reasoning",
	"smg.v1.MessageDelta.arguments":          "tool_call",
	"smg.v1.ResponseDelta.text":              "message",
	"smg.v1.ResponseDelta.refusal":           "message",
	"smg.v1.ResponseDelta.annotation":        "message",
	"smg.v1.ResponseDelta.reasoning":         "reasoning",
	"smg.v1.ResponseDelta.reasoning_summary": "reasoning",
	"smg.v1.ResponseDelta.arguments":         "tool_call",
}

// parts are the blocks or items of a reply, in order.
func parts[P, D proto.Message](what protoreflect.Name, between []piece) ([]*part[P, D], error) {
	found := map[int32]*part[P, D]{}
	for _, p := range between {
		content := p.content.ProtoReflect()
		fields := content.Descriptor().Fields()
		index := int32(content.Get(cmp.Or(fields.ByName("index"), fields.ByName("output_index"))).Int())
		known := found[index]
		starts := p.kind == string(what)+"_start"
		if starts || p.kind == "item_end" { // all of the item; resumed streams may lack its start
			if starts && known != nil {
				return nil, failure(p.event, "%s %d starts twice", what, index)
			}
			whole := content.NewField(fields.ByName(what)).Message()
			proto.Merge(whole.Interface(), content.Get(fields.ByName(what)).Message().Interface())
			found[index] = &part[P, D]{content: whole.Interface().(P), ended: !starts}
		} else if known == nil {
			return nil, failure(p.event, "%s of %s %d, which has not started", p.kind, what, index)
		} else if known.ended {
			return nil, failure(p.event, "%s of %s %d, which has ended", p.kind, what, index)
		} else if p.kind == "delta" {
			known.deltas = append(known.deltas, p.content.(D))
			known.events = append(known.events, p.event)
		} else {
			known.ended = true
		}
	}
	for _, index := range slices.Sorted(maps.Keys(found)) {
		content := found[index].content.ProtoReflect()
		oneof := content.Descriptor().Oneofs().ByName(what)
		for i, delta := range found[index].deltas {
			brings := delta.ProtoReflect()
			member := brings.WhichOneof(brings.Descriptor().Oneofs().ByName("delta"))
			if member == nil || kinds[member.FullName()] == "" {
				continue
			}
			kind := content.WhichOneof(oneof)
			if kind == nil {
				kind = oneof.Fields().ByName(kinds[member.FullName()])
				content.Set(kind, content.NewField(kind))
			}
			if kind.Name() != kinds[member.FullName()] {
				return nil, failure(found[index].events[i], "%s of %s %d, which is %s", member.Name(), what, index, kind.Name())
			}
		}
	}
	return inOrder(found), nil
}

// inOrder has the values of a map in the order of their keys.
func inOrder[V any](values map[int32]V) []V {
	var found []V
	for _, key := range slices.Sorted(maps.Keys(values)) {
		found = append(found, values[key])
	}
	return found
}
