// A Go processor for Envoy's ext_proc and ext_authz, and a load for either: the peer of bench/envoy.py.
//
//	envoybench serve ADDRESS
//	envoybench load ADDRESS streams|checks|bare IN_FLIGHT SECONDS
//	envoybench hold ADDRESS STREAMS SECONDS
//	envoybench upstream ADDRESS
//	envoybench http ADDRESS IN_FLIGHT SECONDS BODY_BYTES DELAY_MS
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	proc "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2])
	case "load":
		inFlight, _ := strconv.Atoi(os.Args[4])
		seconds, _ := strconv.ParseFloat(os.Args[5], 64)
		load(os.Args[2], os.Args[3], inFlight, time.Duration(seconds*float64(time.Second)))
	case "upstream":
		upstream(os.Args[2])
	case "http":
		inFlight, _ := strconv.Atoi(os.Args[3])
		seconds, _ := strconv.ParseFloat(os.Args[4], 64)
		size, _ := strconv.Atoi(os.Args[5])
		loadHTTP(os.Args[2], inFlight, time.Duration(seconds*float64(time.Second)), size, os.Args[6])
	case "hold":
		streams, _ := strconv.Atoi(os.Args[3])
		seconds, _ := strconv.ParseFloat(os.Args[4], 64)
		hold(os.Args[2], streams, time.Duration(seconds*float64(time.Second)))
	}
}

type server struct {
	proc.UnimplementedExternalProcessorServer
	auth.UnimplementedAuthorizationServer
}

func set(name, value string, raw bool) []*core.HeaderValueOption {
	header := &core.HeaderValue{Key: name}
	if raw {
		header.RawValue = []byte(value)
	} else {
		header.Value = value
	}
	return []*core.HeaderValueOption{{Header: header, AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD}}
}

func (server) Process(stream proc.ExternalProcessor_ProcessServer) error {
	for {
		asked, err := stream.Recv()
		if err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		reply := &proc.ProcessingResponse{}
		switch asked.Request.(type) {
		case *proc.ProcessingRequest_RequestHeaders:
			mutation := &proc.HeaderMutation{SetHeaders: set("x-bench", "1", true)}
			reply.Response = &proc.ProcessingResponse_RequestHeaders{RequestHeaders: &proc.HeadersResponse{Response: &proc.CommonResponse{HeaderMutation: mutation}}}
		case *proc.ProcessingRequest_RequestBody:
			body := append(asked.GetRequestBody().Body, '!')
			common := &proc.CommonResponse{
				HeaderMutation: &proc.HeaderMutation{SetHeaders: set("content-length", strconv.Itoa(len(body)), true)},
				BodyMutation:   &proc.BodyMutation{Mutation: &proc.BodyMutation_Body{Body: body}},
			}
			reply.Response = &proc.ProcessingResponse_RequestBody{RequestBody: &proc.BodyResponse{Response: common}}
		case *proc.ProcessingRequest_ResponseHeaders:
			reply.Response = &proc.ProcessingResponse_ResponseHeaders{ResponseHeaders: &proc.HeadersResponse{}}
		}
		if err := stream.Send(reply); err != nil {
			return err
		}
	}
}

func (server) Check(context.Context, *auth.CheckRequest) (*auth.CheckResponse, error) {
	ok := &auth.OkHttpResponse{Headers: set("x-bench", "1", false)}
	return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: ok}}, nil
}

// A stream that answers each message with itself: what a stream costs that nobody does anything for.
var bare = grpc.StreamDesc{StreamName: "Stream", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
	for {
		message := &wrapperspb.BytesValue{}
		if err := stream.RecvMsg(message); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := stream.SendMsg(message); err != nil {
			return err
		}
	}
}}

var message = &wrapperspb.BytesValue{Value: bytes.Repeat([]byte("x"), 100)}

func echo(connection *grpc.ClientConn) error {
	stream, err := connection.NewStream(context.Background(), &bare, "/bench.Bare/Stream")
	if err != nil {
		return err
	}
	for i := 0; i < 2; i++ {
		if err := stream.SendMsg(message); err != nil {
			return err
		}
		if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != nil {
			return err
		}
	}
	stream.CloseSend()
	if err := stream.RecvMsg(&wrapperspb.BytesValue{}); err != io.EOF {
		return fmt.Errorf("no end: %v", err)
	}
	return nil
}

func serve(address string) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		log.Fatal(err)
	}
	served := grpc.NewServer(grpc.MaxRecvMsgSize(64<<20), grpc.MaxSendMsgSize(64<<20))
	proc.RegisterExternalProcessorServer(served, server{})
	auth.RegisterAuthorizationServer(served, server{})
	served.RegisterService(&grpc.ServiceDesc{ServiceName: "bench.Bare", HandlerType: (*any)(nil), Streams: []grpc.StreamDesc{bare}}, server{})
	log.Fatal(served.Serve(listener))
}

func dial(address string) *grpc.ClientConn {
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	return connection
}

func headers(pairs ...string) *core.HeaderMap {
	found := &core.HeaderMap{}
	for i := 0; i < len(pairs); i += 2 {
		found.Headers = append(found.Headers, &core.HeaderValue{Key: pairs[i], RawValue: []byte(pairs[i+1])})
	}
	return found
}

var requestHeaders = &proc.ProcessingRequest{Request: &proc.ProcessingRequest_RequestHeaders{RequestHeaders: &proc.HttpHeaders{
	EndOfStream: true,
	Headers: headers(":authority", "example.test", ":path", "/orders/17?page=2", ":method", "GET", ":scheme", "http",
		"user-agent", "curl/8.5.0", "accept", "*/*", "authorization", "Bearer abcdefghijklmnop",
		"x-forwarded-proto", "http", "x-request-id", "5f2c1c0e-2d1a-4a5e-9d0e-0a6f9c0a4f11"),
}}, ProtocolConfig: &proc.ProtocolConfiguration{}, MetadataContext: &core.Metadata{}}

var responseHeaders = &proc.ProcessingRequest{Request: &proc.ProcessingRequest_ResponseHeaders{ResponseHeaders: &proc.HttpHeaders{
	Headers: headers(":status", "200", "content-type", "application/json", "content-length", "250", "date", "Fri, 27 Nov 2026 00:22:23 GMT", "server", "upstream"),
}}, MetadataContext: &core.Metadata{}}

func begin(client proc.ExternalProcessorClient) (proc.ExternalProcessor_ProcessClient, error) {
	says := metadata.AppendToOutgoingContext(context.Background(), "x-coprocess-post", "stamp", "x-coprocess-response", "look")
	stream, err := client.Process(says)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(requestHeaders); err != nil {
		return nil, err
	}
	reply, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	if len(reply.GetRequestHeaders().GetResponse().GetHeaderMutation().GetSetHeaders()) != 1 {
		return nil, fmt.Errorf("not the reply: %v", reply)
	}
	return stream, nil
}

func end(stream proc.ExternalProcessor_ProcessClient) error {
	if err := stream.Send(responseHeaders); err != nil {
		return err
	}
	if _, err := stream.Recv(); err != nil {
		return err
	}
	stream.CloseSend()
	if _, err := stream.Recv(); err != io.EOF {
		return fmt.Errorf("no end: %v", err)
	}
	return nil
}

func load(address, what string, inFlight int, duration time.Duration) {
	connection := dial(address)
	processor, authorizer := proc.NewExternalProcessorClient(connection), auth.NewAuthorizationClient(connection)
	http := &auth.AttributeContext_HttpRequest{Method: "GET", Path: "/orders/17?page=2", HeaderMap: requestHeaders.GetRequestHeaders().Headers}
	check := &auth.CheckRequest{Attributes: &auth.AttributeContext{Request: &auth.AttributeContext_Request{Http: http}, ContextExtensions: map[string]string{"x-coprocess-auth-check": "check"}}}
	once := func() error {
		if what == "bare" {
			return echo(connection)
		}
		if what == "checks" {
			reply, err := authorizer.Check(context.Background(), check)
			if err == nil && len(reply.GetOkResponse().GetHeaders()) != 1 {
				return fmt.Errorf("not the reply: %v", reply)
			}
			return err
		}
		stream, err := begin(processor)
		if err != nil {
			return err
		}
		return end(stream)
	}
	var done atomic.Int64
	var group sync.WaitGroup
	until := time.Now().Add(duration)
	began := time.Now()
	for i := 0; i < inFlight; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for time.Now().Before(until) {
				if err := once(); err != nil {
					log.Fatal(err)
				}
				done.Add(1)
			}
		}()
	}
	group.Wait()
	fmt.Printf("{\"done\": %d, \"seconds\": %f}\n", done.Load(), time.Since(began).Seconds())
}

// What stands behind Envoy: it reads the body, waits as it is told, and says whether the handler's work is there.
func upstream(address string) {
	log.Fatal(http.ListenAndServe(address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || (r.Header.Get("X-Bench") != "1" && !bytes.HasSuffix(body, []byte("!"))) {
			w.WriteHeader(http.StatusTeapot)
			return
		}
		if delay, _ := strconv.Atoi(r.Header.Get("X-Delay-Ms")); delay > 0 {
			time.Sleep(time.Duration(delay) * time.Millisecond)
		}
		w.Write([]byte("ok"))
	})))
}

func loadHTTP(address string, inFlight int, duration time.Duration, size int, delay string) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: inFlight, MaxConnsPerHost: inFlight}}
	body := bytes.Repeat([]byte("x"), size)
	var done atomic.Int64
	var group sync.WaitGroup
	began := time.Now()
	for i := 0; i < inFlight; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			for time.Since(began) < duration {
				method, content := "GET", io.Reader(nil)
				if size > 0 {
					method, content = "POST", bytes.NewReader(body)
				}
				request, _ := http.NewRequest(method, "http://"+address+"/orders/17?page=2", content)
				request.Header.Set("X-Delay-Ms", delay)
				response, err := client.Do(request)
				if err != nil {
					log.Fatal(err)
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode != 200 {
					log.Fatal(response.Status)
				}
				done.Add(1)
			}
		}()
	}
	group.Wait()
	fmt.Printf("{\"done\": %d, \"seconds\": %f}\n", done.Load(), time.Since(began).Seconds())
}

func hold(address string, count int, duration time.Duration) {
	processor := proc.NewExternalProcessorClient(dial(address))
	streams := make([]proc.ExternalProcessor_ProcessClient, count)
	for i := range streams {
		stream, err := begin(processor)
		if err != nil {
			log.Fatal(err)
		}
		streams[i] = stream
	}
	fmt.Println("held")
	time.Sleep(duration)
	for _, stream := range streams {
		if err := end(stream); err != nil {
			log.Fatal(err)
		}
	}
	fmt.Println("ended")
}
