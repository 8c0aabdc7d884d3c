package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"time"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

// attestations is the life of an agent that joined by a token, as spire-agent lives it.
func attestations(ctx context.Context, s *scene) {
	joinToken(ctx, s)
	refusedAttestations(ctx, s)
	renewal(ctx, s)
	endOfAgents(ctx, s)
}

func joinToken(ctx context.Context, s *scene) {
	alias := id("/machines")
	before := time.Now().Unix()
	token := must(s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60, AgentId: alias}))
	check("token: lives as long as asked for", token.ExpiresAt >= before+60 && token.ExpiresAt <= time.Now().Unix()+61,
		"%d s", token.ExpiresAt-before)
	anonymous := s.anonymous()
	csr, key := newCSR()
	stream := must(anonymous.agents.AttestAgent(ctx))
	must(0, stream.Send(attestParams("join_token", []byte(token.Value), csr)))
	result := must(stream.Recv()).GetResult()
	same("attest: the ID is that of the token", result.GetSvid().GetId(), id("/spire/agent/join_token/"+token.Value))
	same("attest: a token is for once", result.GetReattestable(), false)
	svid := asSVID(result.Svid, key)
	same("attest: leaf first, with the ID", svid.ID.String(), "spiffe://example.org/spire/agent/join_token/"+token.Value)
	same("attest: expires_at is the leaf's", result.Svid.ExpiresAt, svid.Certificates[0].NotAfter.Unix())
	_ = stream.CloseSend()
	_, err := stream.Recv()
	check("attest: the stream ends after the result", err == io.EOF, "%v", err)

	// spire-agent asks for the bundle on the connection that it attested on.
	bundle := must(anonymous.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{}))
	same("attest: the bundle is the trust domain's", bundle.TrustDomain, trustDomain)
	check("attest: the bundle has an authority", len(bundle.X509Authorities) > 0, "%d", len(bundle.X509Authorities))
	for _, authority := range bundle.X509Authorities {
		_, err := x509.ParseCertificate(authority.Asn1)
		check("attest: an authority is one certificate of DER", err == nil, "%v", err)
	}

	agent := s.as(svid)
	_, err = agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{AgentVersion: "1.15.3", CurrentBundleSerial: 1})
	ends("status: PostStatus", err, codes.OK)
	known := must(s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: result.Svid.Id}))
	same("status: the version is kept", known.AgentVersion, "1.15.3")
	same("status: the serial is the SVID's", known.X509SvidSerialNumber, svid.Certificates[0].SerialNumber.String())
	same("status: the expiry is the SVID's", known.X509SvidExpiresAt, svid.Certificates[0].NotAfter.Unix())
	same("status: the attestor", known.AttestationType, "join_token")
	_, err = agent.bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: "other.example"})
	ends("status: a bundle that is not there", err, codes.NotFound)
	_, err = agent.svids.NewJWTSVID(ctx, &svidv1.NewJWTSVIDRequest{EntryId: "x", Audience: []string{"a"}})
	ends("status: JWT-SVIDs are said to be missing", err, codes.Unimplemented)

	listed := must(s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{
		Filter: &entryv1.ListEntriesRequest_Filter{BySpiffeId: alias},
	}))
	check("token: agent_id makes an alias of the agent", len(listed.Entries) == 1, "%v", listed.Entries)
	s.create(ctx, newEntry("/by/alias", alias, "unix:uid:1"))
	authorized := must(agent.entries.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{}))
	paths := map[string]bool{}
	for _, entry := range authorized.Entries {
		paths[entry.SpiffeId.Path] = true
	}
	check("token: entries below the alias are the agent's", paths["/by/alias"], "%v", paths)

	_, err = anonymous.attest(ctx, "join_token", []byte(token.Value), csr)
	check("attest: a used token is refused", err != nil, "%v", err)
}

func refusedAttestations(ctx context.Context, s *scene) {
	anonymous := s.anonymous()
	csr, _ := newCSR()
	for _, bad := range []struct {
		why, kind    string
		payload, csr []byte
		code         codes.Code
	}{
		{"an unknown token", "join_token", []byte("no-such-token"), csr, codes.InvalidArgument},
		{"no type", "", []byte("x"), csr, codes.InvalidArgument},
		{"no payload", "join_token", nil, csr, codes.InvalidArgument},
		{"no CSR", "join_token", []byte("x"), nil, codes.InvalidArgument},
		{"an attestor that is not there", "aws_iid", []byte("x"), csr, codes.FailedPrecondition},
	} {
		_, err := anonymous.attest(ctx, bad.kind, bad.payload, bad.csr)
		ends("attest: "+bad.why, err, bad.code)
	}
	token := must(s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60}))
	_, err := anonymous.attest(ctx, "join_token", []byte(token.Value), []byte("no CSR"))
	ends("attest: a CSR that is none", err, codes.InvalidArgument)
	stream := must(anonymous.agents.AttestAgent(ctx))
	_ = stream.Send(&agentv1.AttestAgentRequest{
		Step: &agentv1.AttestAgentRequest_ChallengeResponse{ChallengeResponse: []byte("x")},
	})
	_, err = stream.Recv()
	ends("attest: an answer before any challenge", err, codes.InvalidArgument)
	for _, bad := range []*agentv1.CreateJoinTokenRequest{
		{Ttl: 0}, {Ttl: -1}, {Ttl: 60, Token: "a/b"}, {Ttl: 60, AgentId: &types.SPIFFEID{TrustDomain: "other", Path: "/a"}},
	} {
		_, err := s.operator.agents.CreateJoinToken(ctx, bad)
		ends(fmt.Sprintf("token: %v", bad), err, codes.InvalidArgument)
	}
	chosen := must(s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60, Token: "chosen"}))
	same("token: its text may be chosen", chosen.Value, "chosen")
	_, err = s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60, Token: "chosen"})
	ends("token: chosen twice", err, codes.AlreadyExists)
}

// renewal checks that an agent that lost the answer to RenewAgent is not lost.
func renewal(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	renew := func() *agentv1.RenewAgentResponse {
		csr, _ := newCSR()
		return must(agent.agents.RenewAgent(ctx, &agentv1.RenewAgentRequest{
			Params: &agentv1.AgentX509SVIDParams{Csr: csr},
		}))
	}
	same("renew: the same ID", renew().Svid.Id, agent.id)
	csr, key := newCSR()
	answer := must(agent.agents.RenewAgent(ctx, &agentv1.RenewAgentRequest{
		Params: &agentv1.AgentX509SVIDParams{Csr: csr},
	}))
	svid := asSVID(answer.Svid, key)
	_, err := agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	ends("renew: the old SVID is good until the new one is seen", err, codes.OK)
	renewed := s.as(svid)
	_, err = renewed.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	ends("renew: the new SVID is good", err, codes.OK)
	// That the new one was seen is written in the background.
	for deadline := time.Now().Add(20 * time.Second); err == nil && time.Now().Before(deadline); {
		_, err = agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	}
	refused("renew: then the old SVID is over", err, types.PermissionDeniedDetails_AGENT_NOT_ACTIVE)
	_, err = renewed.agents.RenewAgent(ctx, &agentv1.RenewAgentRequest{
		Params: &agentv1.AgentX509SVIDParams{Csr: []byte("x")},
	})
	ends("renew: a CSR that is none", err, codes.InvalidArgument)
}

// endOfAgents checks the details that tell an agent to attest anew or to give up.
func endOfAgents(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	all := func(row string, reason types.PermissionDeniedDetails_Reason) {
		_, err := agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
		refused(row+", PostStatus", err, reason)
		_, err = agent.entries.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
		refused(row+", GetAuthorizedEntries", err, reason)
		stream := must(agent.entries.SyncAuthorizedEntries(ctx))
		_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{})
		_, err = stream.Recv()
		refused(row+", SyncAuthorizedEntries", err, reason)
		_, err = agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{})
		refused(row+", BatchNewX509SVID", err, reason)
		_, err = agent.agents.RenewAgent(ctx, &agentv1.RenewAgentRequest{})
		refused(row+", RenewAgent", err, reason)
	}
	must(s.operator.agents.BanAgent(ctx, &agentv1.BanAgentRequest{Id: agent.id}))
	all("banned", types.PermissionDeniedDetails_AGENT_BANNED)
	must(s.operator.agents.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: agent.id}))
	all("evicted", types.PermissionDeniedDetails_AGENT_NOT_ATTESTED)
	// The connection of an evicted agent is still good for what anybody may do, such as attesting anew.
	_, err := agent.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{})
	ends("evicted: GetBundle", err, codes.OK)
	token := must(s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 60}))
	csr, _ := newCSR()
	_, err = agent.attest(ctx, "join_token", []byte(token.Value), csr)
	ends("evicted: AttestAgent over the old connection", err, codes.OK)
}

// expiry wants a server whose agents' SVIDs live for seconds.
func expiry(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	_, err := agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	ends("expired: before", err, codes.OK)
	left := time.Until(agent.svid.Certificates[0].NotAfter)
	if !check("expired: the server has a short agent_ttl", left < time.Minute, "%v", left) {
		return
	}
	time.Sleep(left + 2*time.Second)
	_, err = agent.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	refused("expired: over the connection that it has", err, types.PermissionDeniedDetails_AGENT_EXPIRED)
	_, err = s.as(agent.svid).agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	check("expired: no new connection", err != nil, "%v", err)
}
