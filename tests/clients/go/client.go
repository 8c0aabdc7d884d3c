package main

import (
	"context"
	"strings"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

type client struct {
	ctx      context.Context
	endpoint string
	library  *workloadapi.Client
	bare     *grpc.ClientConn
	sources  *sources
	strict   *workloadapi.X509Source
}

func newClient(ctx context.Context, endpoint string) func(command) {
	library, err := workloadapi.New(ctx, workloadapi.WithAddr(endpoint), workloadapi.WithLogger(retries{}))
	if err != nil {
		panic(err)
	}
	bare, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	return (&client{ctx: ctx, endpoint: endpoint, library: library, bare: bare}).carryOut
}

func (c *client) carryOut(told command) {
	if told.Fetch {
		if content, err := c.library.FetchX509Context(c.ctx); err != nil {
			refused(err)
		} else {
			tell("fetched", content)
		}
	}
	if told.Watch {
		go func() {
			err := c.library.WatchX509Context(c.ctx, updates{})
			say(event{"event": "ended", "code": name(err)})
		}()
	}
	if told.Raw != nil {
		c.raw(*told.Raw)
	}
	if told.Call != "" {
		c.call(told.Call)
	}
	if told.Sources != "" {
		c.saySources(told.Sources)
	}
	if told.Strict != "" {
		c.sayStrict(told.Strict)
	}
	if told.Reach != nil {
		c.sources.reach(*told.Reach)
	}
}

func (c *client) saySources(hint string) {
	if c.sources == nil {
		made, err := newSources(c.ctx, c.endpoint, hint)
		if err != nil {
			refused(err)
			return
		}
		c.sources = made
	}
	c.sources.say()
}

func (c *client) sayStrict(hint string) {
	if c.strict == nil {
		made, err := newStrict(c.ctx, c.endpoint, hint)
		if err != nil {
			refused(err)
			return
		}
		c.strict = made
	}
	svid, err := c.strict.GetX509SVID()
	if err != nil {
		say(event{"event": "strict", "has": nil, "error": err.Error()})
		return
	}
	say(event{"event": "strict", "has": one(svid, svid.Hint)})
}

func (c *client) call(rpc string) {
	answered := event{"event": "answered"}
	var err error
	switch rpc {
	case "FetchX509Bundles":
		var bundles *x509bundle.Set
		if bundles, err = c.library.FetchX509Bundles(c.ctx); err == nil {
			answered["bundles"] = domains(bundles)
		}
	case "FetchJWTSVID":
		_, err = c.library.FetchJWTSVID(c.ctx, jwtsvid.Params{Audience: "test"})
	case "FetchJWTBundles":
		_, err = c.library.FetchJWTBundles(c.ctx)
	case "ValidateJWTSVID":
		_, err = c.library.ValidateJWTSVID(c.ctx, "x.y.z", "test")
	default:
		panic(rpc)
	}
	answered["code"] = name(err)
	say(answered)
}

func (c *client) raw(told raw) {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	if told.Header != nil {
		ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", *told.Header)
	}
	// On the wire a unary answer is a stream of one message.
	stream, err := c.bare.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/SpiffeWorkloadAPI/"+told.Method)
	if err == nil {
		err = stream.SendMsg(&emptypb.Empty{})
	}
	if err == nil {
		err = stream.CloseSend()
	}
	answer := &workload.X509SVIDResponse{}
	var message proto.Message = answer
	if told.Method != "FetchX509SVID" {
		message = &emptypb.Empty{}
	}
	if err == nil {
		err = stream.RecvMsg(message)
	}
	if err != nil {
		refused(err)
		return
	}
	var svids []event
	for _, svid := range answer.Svids {
		leaf, _ := x509svid.ParseRaw(svid.X509Svid, svid.X509SvidKey)
		svids = append(svids, one(leaf, svid.Hint))
	}
	say(event{"event": "fetched", "svids": svids, "bundles": []string{}})
}

// updates says what a watch sees.
type updates struct{}

func (updates) OnX509ContextUpdate(content *workloadapi.X509Context) { tell("update", content) }

// OnX509ContextWatchError is for content that cannot be read, and for the end of the watch.
func (updates) OnX509ContextWatchError(err error) {
	say(event{"event": "retry", "code": name(err), "error": err.Error()})
}

// retries is a log that says why a watch comes again: the library tells it nowhere else.
type retries struct{}

func (retries) Debugf(string, ...any) {}
func (retries) Infof(string, ...any)  {}
func (retries) Warnf(string, ...any)  {}
func (retries) Errorf(format string, args ...any) {
	if !strings.HasPrefix(format, "Failed to watch") {
		return
	}
	if err, is := args[0].(error); is {
		say(event{"event": "retry", "code": name(err), "error": err.Error()})
	}
}

func tell(what string, content *workloadapi.X509Context) {
	svids := []event{}
	for _, svid := range content.SVIDs {
		svids = append(svids, one(svid, svid.Hint))
	}
	say(event{"event": what, "svids": svids, "bundles": domains(content.Bundles)})
}

func one(svid *x509svid.SVID, hint string) event {
	return event{"spiffe_id": svid.ID.String(), "hint": hint, "serial": svid.Certificates[0].SerialNumber.Text(16)}
}

func domains(bundles *x509bundle.Set) []string {
	names := []string{}
	for _, bundle := range bundles.Bundles() {
		names = append(names, bundle.TrustDomain().Name())
	}
	return names
}

func refused(err error) {
	say(event{"event": "refused", "code": name(err), "message": status.Convert(err).Message()})
}

// name is that of a gRPC status: upper snake case.
func name(err error) string {
	code := status.Code(err)
	for text, known := range names {
		if known == code {
			return text
		}
	}
	return code.String()
}

var names = map[string]codes.Code{
	"OK": codes.OK, "CANCELLED": codes.Canceled, "UNKNOWN": codes.Unknown, "INVALID_ARGUMENT": codes.InvalidArgument,
	"DEADLINE_EXCEEDED": codes.DeadlineExceeded, "NOT_FOUND": codes.NotFound, "ALREADY_EXISTS": codes.AlreadyExists,
	"PERMISSION_DENIED": codes.PermissionDenied, "RESOURCE_EXHAUSTED": codes.ResourceExhausted,
	"FAILED_PRECONDITION": codes.FailedPrecondition, "ABORTED": codes.Aborted, "OUT_OF_RANGE": codes.OutOfRange,
	"UNIMPLEMENTED": codes.Unimplemented, "INTERNAL": codes.Internal, "UNAVAILABLE": codes.Unavailable,
	"DATA_LOSS": codes.DataLoss, "UNAUTHENTICATED": codes.Unauthenticated,
}
