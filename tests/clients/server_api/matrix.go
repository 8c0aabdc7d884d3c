package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
)

// Who may call a method: L a user of the local socket who is an administrator, A the holder of an entry that says admin,
// G an attested agent, D the holder of an entry that says downstream, * whoever can connect. As SPIRE's policy has it.
type row struct {
	who string
	// What an empty message leads to for whoever may call.
	code codes.Code
}

const (
	ok          = codes.OK
	invalid     = codes.InvalidArgument
	unsupported = codes.Unimplemented
)

var rows = map[string]row{
	"spire.api.server.agent.v1.Agent.CountAgents":     {"LA", ok},
	"spire.api.server.agent.v1.Agent.ListAgents":      {"LA", ok},
	"spire.api.server.agent.v1.Agent.GetAgent":        {"LA", invalid},
	"spire.api.server.agent.v1.Agent.DeleteAgent":     {"LA", invalid},
	"spire.api.server.agent.v1.Agent.BanAgent":        {"LA", invalid},
	"spire.api.server.agent.v1.Agent.AttestAgent":     {"*", invalid},
	"spire.api.server.agent.v1.Agent.RenewAgent":      {"G", invalid},
	"spire.api.server.agent.v1.Agent.CreateJoinToken": {"LA", invalid},
	"spire.api.server.agent.v1.Agent.PostStatus":      {"G", ok},

	"spire.api.server.bundle.v1.Bundle.CountBundles":               {"LA", ok},
	"spire.api.server.bundle.v1.Bundle.GetBundle":                  {"*", ok},
	"spire.api.server.bundle.v1.Bundle.AppendBundle":               {"LA", invalid},
	"spire.api.server.bundle.v1.Bundle.PublishJWTAuthority":        {"D", unsupported},
	"spire.api.server.bundle.v1.Bundle.PublishWITAuthority":        {"D", unsupported},
	"spire.api.server.bundle.v1.Bundle.ListFederatedBundles":       {"LA", ok},
	"spire.api.server.bundle.v1.Bundle.GetFederatedBundle":         {"LAG", invalid},
	"spire.api.server.bundle.v1.Bundle.BatchCreateFederatedBundle": {"LA", ok},
	"spire.api.server.bundle.v1.Bundle.BatchUpdateFederatedBundle": {"LA", ok},
	"spire.api.server.bundle.v1.Bundle.BatchSetFederatedBundle":    {"LA", ok},
	"spire.api.server.bundle.v1.Bundle.BatchDeleteFederatedBundle": {"LA", ok},

	"spire.api.server.debug.v1.Debug.GetInfo": {"L", ok},

	"spire.api.server.entry.v1.Entry.CountEntries":          {"LA", ok},
	"spire.api.server.entry.v1.Entry.ListEntries":           {"LA", ok},
	"spire.api.server.entry.v1.Entry.GetEntry":              {"LA", invalid},
	"spire.api.server.entry.v1.Entry.BatchCreateEntry":      {"LA", ok},
	"spire.api.server.entry.v1.Entry.BatchUpdateEntry":      {"LA", ok},
	"spire.api.server.entry.v1.Entry.BatchDeleteEntry":      {"LA", ok},
	"spire.api.server.entry.v1.Entry.GetAuthorizedEntries":  {"G", ok},
	"spire.api.server.entry.v1.Entry.SyncAuthorizedEntries": {"G", ok},

	"spire.api.server.logger.v1.Logger.GetLogger":     {"L", ok},
	"spire.api.server.logger.v1.Logger.SetLogLevel":   {"L", invalid},
	"spire.api.server.logger.v1.Logger.ResetLogLevel": {"L", ok},

	"spire.api.server.svid.v1.SVID.MintX509SVID":        {"LA", invalid},
	"spire.api.server.svid.v1.SVID.MintJWTSVID":         {"LA", unsupported},
	"spire.api.server.svid.v1.SVID.MintWITSVID":         {"LA", unsupported},
	"spire.api.server.svid.v1.SVID.BatchNewX509SVID":    {"G", ok},
	"spire.api.server.svid.v1.SVID.NewJWTSVID":          {"G", unsupported},
	"spire.api.server.svid.v1.SVID.BatchNewWITSVID":     {"G", unsupported},
	"spire.api.server.svid.v1.SVID.NewDownstreamX509CA": {"D", unsupported},

	// SPIRE has health on its local socket alone; here a load balancer may ask as well.
	"grpc.health.v1.Health.Check": {"*", ok},
	"grpc.health.v1.Health.List":  {"", unsupported},
	"grpc.health.v1.Health.Watch": {"*", unsupported},
}

// matrix calls every published method as everybody.
func matrix(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	callers := map[string]*caller{
		"L": s.local,
		"A": s.holder(ctx, agent, "/admin", func(entry *types.Entry) { entry.Admin = true }),
		"D": s.holder(ctx, agent, "/below", func(entry *types.Entry) { entry.Downstream = true }),
		"G": agent.caller,
		"W": s.holder(ctx, agent, "/workload", nil),
		"-": s.anonymous(),
	}
	services := publishedServices()
	health := must(protoregistry.GlobalFiles.FindDescriptorByName("grpc.health.v1.Health"))
	services = append(services, health.(protoreflect.ServiceDescriptor))
	seen := map[string]bool{}
	for _, service := range services {
		for n := range service.Methods().Len() {
			method := service.Methods().Get(n)
			name := string(method.FullName())
			seen[name] = true
			row, known := rows[name]
			if notServed[string(service.FullName())] != "" {
				row, known = row0(), true
			}
			if !check("matrix: "+name+" has a row", known, "%v", row) {
				continue
			}
			for _, who := range names(callers) {
				wanted := row.code
				if !row.lets(who) {
					wanted = row.denial(who)
				}
				ends(fmt.Sprintf("matrix: %s by %s", name, who), call(ctx, callers[who].conn, method), wanted)
			}
		}
	}
	for name := range rows {
		check("matrix: "+name+" is published", seen[name], "%v", seen[name])
	}
	missing := "/spire.api.server.entry.v1.Entry/NoSuchMethod"
	for _, who := range names(callers) {
		err := callers[who].conn.Invoke(ctx, missing, &types.SPIFFEID{}, &types.SPIFFEID{})
		ends("matrix: a method that does not exist, by "+who, err, codes.Unimplemented)
	}
}

// row0 is that of a method that is not there.
func row0() row {
	return row{"", unsupported}
}

func (r row) lets(who string) bool {
	for _, letter := range r.who {
		if letter == '*' || string(letter) == who {
			return true
		}
	}
	return false
}

// denial is what somebody reads who may not call. SPIRE says PermissionDenied to those without a certificate as well;
// that nothing was shown is another matter, and no client of SPIRE's decides on it.
func (r row) denial(who string) codes.Code {
	switch {
	case r.who == "", r.who == "L":
		return codes.Unimplemented
	case who == "-":
		return codes.Unauthenticated
	default:
		return codes.PermissionDenied
	}
}

// call sends one empty message and gives the error of the whole call.
func call(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	path := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	request, answer := dynamicpb.NewMessage(method.Input()), dynamicpb.NewMessage(method.Output())
	if !method.IsStreamingClient() && !method.IsStreamingServer() {
		return conn.Invoke(ctx, path, request, answer)
	}
	description := &grpc.StreamDesc{ClientStreams: method.IsStreamingClient(), ServerStreams: method.IsStreamingServer()}
	stream, err := conn.NewStream(ctx, description, path)
	if err != nil {
		return err
	}
	return talk(stream, request, answer)
}

func talk(stream grpc.ClientStream, request, answer proto.Message) error {
	if err := stream.SendMsg(request); err != nil && err != io.EOF {
		return err
	}
	_ = stream.CloseSend()
	for {
		switch err := stream.RecvMsg(answer); {
		case err == io.EOF:
			return nil
		case err != nil:
			return status.Convert(err).Err()
		}
	}
}
