package main

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

type agentFilter = agentv1.ListAgentsRequest_Filter

// The form in which the CLI of SPIRE sends a time.
const cliTime = "2006-01-02 15:04:05 -0700 -07"

// agents is what operators see of agents and do to them; their own side is in attestations.
func agents(ctx context.Context, s *scene) {
	var all []string
	for range 5 {
		all = append(all, s.join(ctx).id.Path)
	}
	sort.Strings(all)
	banned := &types.SPIFFEID{TrustDomain: trustDomain, Path: all[2]}
	must(s.operator.agents.BanAgent(ctx, &agentv1.BanAgentRequest{Id: banned}))
	known := must(s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: banned}))
	same("agents: a banned one", known.Banned, true)
	same("agents: a banned one has no SVID in force", known.X509SvidSerialNumber, "")

	rest := append(append([]string{}, all[:2]...), all[3:]...)
	now := time.Now()
	for _, wanted := range []struct {
		why    string
		filter *agentFilter
		paths  []string
	}{
		{"all", nil, all},
		{"by_attestation_type", &agentFilter{ByAttestationType: "join_token"}, all},
		{"by_attestation_type of nobody", &agentFilter{ByAttestationType: "x509pop"}, nil},
		{"by_banned", &agentFilter{ByBanned: wrapperspb.Bool(true)}, all[2:3]},
		{"those that are not banned", &agentFilter{ByBanned: wrapperspb.Bool(false)}, rest},
		{"by_can_reattest", &agentFilter{ByCanReattest: wrapperspb.Bool(true)}, nil},
		{"those that cannot attest again", &agentFilter{ByCanReattest: wrapperspb.Bool(false)}, all},
		{"by_expires_before, none yet", &agentFilter{ByExpiresBefore: now.Format(cliTime)}, nil},
		{"by selectors that nobody has", &agentFilter{BySelectorMatch: &types.SelectorMatch{
			Selectors: selectors("t:1"), Match: types.SelectorMatch_MATCH_ANY,
		}}, nil},
	} {
		for _, size := range []int32{0, 2} {
			seen := s.listAgents(ctx, &agentv1.ListAgentsRequest{Filter: wanted.filter, PageSize: size})
			check(fmt.Sprintf("agents: %s, pages of %d", wanted.why, size), strings.Join(seen, " ") == strings.Join(wanted.paths, " "),
				"%v", seen)
		}
		count := must(s.operator.agents.CountAgents(ctx, &agentv1.CountAgentsRequest{Filter: agentCountFilter(wanted.filter)}))
		same("agents: counted, "+wanted.why, int(count.Count), len(wanted.paths))
	}
	later := &agentFilter{ByExpiresBefore: now.Add(24 * time.Hour).Format(cliTime)}
	check("agents: by_expires_before, tomorrow", len(s.listAgents(ctx, &agentv1.ListAgentsRequest{Filter: later})) >= 4, "")
	_, err := s.operator.agents.ListAgents(ctx, &agentv1.ListAgentsRequest{Filter: &agentFilter{ByExpiresBefore: "soon"}})
	ends("agents: a time that is none", err, codes.InvalidArgument)
	agentMasks(ctx, s, &types.SPIFFEID{TrustDomain: trustDomain, Path: all[0]})
	agentsThatAreNotThere(ctx, s)
}

func (s *scene) listAgents(ctx context.Context, request *agentv1.ListAgentsRequest) []string {
	var paths []string
	for {
		page := must(s.operator.agents.ListAgents(ctx, request))
		for _, agent := range page.Agents {
			paths = append(paths, agent.Id.Path)
		}
		if page.NextPageToken == "" {
			return paths
		}
		request.PageToken = page.NextPageToken
	}
}

func agentCountFilter(filter *agentFilter) *agentv1.CountAgentsRequest_Filter {
	if filter == nil {
		return nil
	}
	other := &agentv1.CountAgentsRequest_Filter{}
	must(0, proto.Unmarshal(must(proto.Marshal(filter)), other))
	return other
}

func agentMasks(ctx context.Context, s *scene, id *types.SPIFFEID) {
	whole := must(s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: id}))
	fields := (&types.AgentMask{}).ProtoReflect().Descriptor().Fields()
	for n := range fields.Len() {
		bit := fields.Get(n)
		mask, wanted := &types.AgentMask{}, &types.Agent{Id: whole.Id}
		mask.ProtoReflect().Set(bit, trueValue)
		field := wanted.ProtoReflect().Descriptor().Fields().ByName(bit.Name())
		if whole.ProtoReflect().Has(field) {
			wanted.ProtoReflect().Set(field, whole.ProtoReflect().Get(field))
		}
		seen := must(s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: id, OutputMask: mask}))
		same("agents: mask "+string(bit.Name()), seen, wanted)
	}
}

func agentsThatAreNotThere(ctx context.Context, s *scene) {
	for _, wanted := range []struct {
		why  string
		id   *types.SPIFFEID
		code codes.Code
	}{
		{"nobody", id("/spire/agent/join_token/none"), codes.NotFound},
		{"no ID", nil, codes.InvalidArgument},
		{"no agent's ID", id("/web"), codes.InvalidArgument},
		{"another trust domain", &types.SPIFFEID{TrustDomain: "other.example", Path: "/spire/agent/x/y"}, codes.InvalidArgument},
	} {
		_, err := s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: wanted.id})
		ends("agents: get "+wanted.why, err, wanted.code)
		_, err = s.operator.agents.BanAgent(ctx, &agentv1.BanAgentRequest{Id: wanted.id})
		ends("agents: ban "+wanted.why, err, wanted.code)
		_, err = s.operator.agents.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: wanted.id})
		ends("agents: evict "+wanted.why, err, wanted.code)
	}
}
