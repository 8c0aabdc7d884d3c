package main

import (
	"context"
	"fmt"
	"io"
	"sort"
	"strings"

	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/debug/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/localauthority/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/logger/v1"
	_ "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	_ "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Services that are published and that this server does not have, with the reason.
var notServed = map[string]string{
	"spire.api.server.trustdomain.v1.TrustDomain":       "bundles are brought by operators; bundle endpoints are not polled",
	"spire.api.server.localauthority.v1.LocalAuthority": "authorities rotate by themselves; there is no rotation by hand",
}

// Services that this server has and that the SDK does not publish, with where they come from.
var notPublished = map[string]string{
	"mayfly.agent.v1.Watch":                    "how our own agents follow the server",
	"mayfly.agent.v1.Tasks":                    "tasks, for our own agents",
	"mayfly.audit.v1.Audit":                    "the log",
	"mayfly.task.v1.Debt":                      "what stands, for people",
	"mayfly.task.v1.Definitions":               "tasks, for people",
	"mayfly.task.v1.Exceptions":                "exceptions, for people",
	"mayfly.task.v1.Policy":                    "tasks, for people",
	"mayfly.task.v1.Proposals":                 "tasks, for people",
	"mayfly.task.v1.Tasks":                     "tasks, for people",
	"grpc.reflection.v1.ServerReflection":      "gRPC's own",
	"grpc.reflection.v1alpha.ServerReflection": "gRPC's own",
}

// A method that gRPC added to its health service later: nobody asks for it.
const newerHealth = "grpc.health.v1.HealthList"

const serverPackages = "spire.api.server."

// descriptors compares what the server says of itself with what the SDK was generated from.
func descriptors(ctx context.Context, s *scene) {
	stream := must(reflectionv1.NewServerReflectionClient(s.local.conn).ServerReflectionInfo(ctx))
	ask := func(request *reflectionv1.ServerReflectionRequest) *reflectionv1.ServerReflectionResponse {
		if err := stream.Send(request); err != nil && err != io.EOF {
			panic(err)
		}
		return must(stream.Recv())
	}
	listed := ask(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: "*"},
	})
	served := map[string]bool{}
	files := map[string]*descriptorpb.FileDescriptorProto{}
	for _, service := range listed.GetListServicesResponse().GetService() {
		served[service.Name] = true
		answer := ask(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service.Name},
		})
		for _, encoded := range answer.GetFileDescriptorResponse().GetFileDescriptorProto() {
			addFile(files, encoded)
		}
	}
	fetchImports(files, func(name string) [][]byte {
		answer := ask(&reflectionv1.ServerReflectionRequest{
			MessageRequest: &reflectionv1.ServerReflectionRequest_FileByFilename{FileByFilename: name},
		})
		return answer.GetFileDescriptorResponse().GetFileDescriptorProto()
	})
	compareServices(served)

	set := &descriptorpb.FileDescriptorSet{}
	for _, name := range names(files) {
		set.File = append(set.File, files[name])
	}
	ours := must(protodesc.NewFiles(set))
	for service := range served {
		if !strings.HasPrefix(service, "spire.") && service != "grpc.health.v1.Health" {
			continue
		}
		compare(service, facts(ours, service), facts(protoregistry.GlobalFiles, service))
	}
}

func addFile(files map[string]*descriptorpb.FileDescriptorProto, encoded []byte) {
	file := &descriptorpb.FileDescriptorProto{}
	if err := proto.Unmarshal(encoded, file); err != nil {
		panic(err)
	}
	files[file.GetName()] = file
}

func fetchImports(files map[string]*descriptorpb.FileDescriptorProto, fetch func(string) [][]byte) {
	for more := true; more; {
		more = false
		for _, name := range names(files) {
			for _, dependency := range files[name].GetDependency() {
				if files[dependency] != nil {
					continue
				}
				for _, encoded := range fetch(dependency) {
					addFile(files, encoded)
				}
				if files[dependency] == nil {
					panic(fmt.Sprintf("%s imports %s, which reflection does not have", name, dependency))
				}
				more = true
			}
		}
	}
}

func compareServices(served map[string]bool) {
	published := publishedServices()
	for _, service := range published {
		name := string(service.FullName())
		reason, left := notServed[name]
		if left {
			check("descriptors: "+name+" is not served", !served[name], "%s", reason)
		} else {
			check("descriptors: "+name+" is served", served[name], "served: %v", served[name])
		}
	}
	for name := range served {
		if strings.HasPrefix(name, serverPackages) || name == "grpc.health.v1.Health" {
			continue
		}
		check("descriptors: "+name+" is known to be ours", notPublished[name] != "", "%s", notPublished[name])
	}
	check("descriptors: six of SPIRE's services", len(published)-len(notServed) == 6, "%d", len(published)-len(notServed))
}

// publishedServices are those of a server in the SDK.
func publishedServices() []protoreflect.ServiceDescriptor {
	var all []protoreflect.ServiceDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(file protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(string(file.Package()), serverPackages) {
			for n := range file.Services().Len() {
				all = append(all, file.Services().Get(n))
			}
		}
		return true
	})
	sort.Slice(all, func(a, b int) bool { return all[a].FullName() < all[b].FullName() })
	return all
}

// facts are the methods of a service and all that can be in their messages, by name.
func facts(files interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
}, service string,
) map[string]string {
	found := must(files.FindDescriptorByName(protoreflect.FullName(service)))
	all := map[string]string{}
	methods := found.(protoreflect.ServiceDescriptor).Methods()
	for n := range methods.Len() {
		method := methods.Get(n)
		all["rpc "+string(method.FullName())] = fmt.Sprintf("%s %v -> %s %v",
			method.Input().FullName(), method.IsStreamingClient(), method.Output().FullName(), method.IsStreamingServer())
		messageFacts(all, method.Input())
		messageFacts(all, method.Output())
	}
	// A refused agent reads this in the details of a status.
	if strings.HasPrefix(service, serverPackages) {
		details := must(files.FindDescriptorByName("spire.api.types.PermissionDeniedDetails"))
		messageFacts(all, details.(protoreflect.MessageDescriptor))
	}
	return all
}

func messageFacts(all map[string]string, message protoreflect.MessageDescriptor) {
	name := "message " + string(message.FullName())
	if all[name] != "" {
		return
	}
	all[name] = fmt.Sprintf("%d fields, %v", message.Fields().Len(), message.ParentFile().Syntax())
	for n := range message.Fields().Len() {
		field := message.Fields().Get(n)
		kind := field.Kind().String()
		if field.Message() != nil {
			kind = string(field.Message().FullName())
			messageFacts(all, field.Message())
		}
		if field.Enum() != nil {
			kind = string(field.Enum().FullName())
			enumFacts(all, field.Enum())
		}
		oneof := ""
		if field.ContainingOneof() != nil {
			oneof = string(field.ContainingOneof().Name())
		}
		all["field "+string(field.FullName())] = fmt.Sprintf("%d %v %s, json %s, packed %v, presence %v, oneof %q",
			field.Number(), field.Cardinality(), kind, field.JSONName(), field.IsPacked(), field.HasPresence(), oneof)
	}
}

func enumFacts(all map[string]string, enum protoreflect.EnumDescriptor) {
	for n := range enum.Values().Len() {
		value := enum.Values().Get(n)
		all["value "+string(value.FullName())] = fmt.Sprint(value.Number())
	}
}

func compare(service string, ours, published map[string]string) {
	for name, fact := range published {
		if strings.Contains(name, newerHealth) || strings.Contains(fact, newerHealth) {
			continue
		}
		check("descriptors: "+name, ours[name] == fact, "%q, published %q", ours[name], fact)
	}
	for name, fact := range ours {
		if published[name] == "" {
			check("descriptors: "+service+" has nothing of its own", false, "%s: %s", name, fact)
		}
	}
}
