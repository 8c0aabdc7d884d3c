package main

import (
	"context"
	"fmt"
	"reflect"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

// svids is signing: in batches for an agent's workloads, one at a time for operators.
func svids(ctx context.Context, s *scene) {
	agent, other := s.join(ctx), s.join(ctx)
	wanted := newEntry("/web", agent.id, "unix:uid:1")
	wanted.DnsNames, wanted.X509SvidTtl = []string{"web.example.org", "*.web.example.org"}, 600
	web := s.create(ctx, wanted)
	foreign := s.create(ctx, newEntry("/foreign", other.id, "unix:uid:1"))
	goneSoon := s.create(ctx, newEntry("/gone", agent.id, "unix:uid:2"))
	s.delete(ctx, goneSoon.Id)

	csr, key := newCSR()
	answer := must(agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: []*svidv1.NewX509SVIDParams{
		{EntryId: "no such entry", Csr: csr},
		{EntryId: web.Id, Csr: csr},
		{EntryId: "", Csr: csr},
		{EntryId: web.Id},
		{EntryId: web.Id, Csr: []byte("no CSR")},
		{EntryId: foreign.Id, Csr: csr},
		{EntryId: goneSoon.Id, Csr: csr},
		{EntryId: web.Id, Csr: csr},
	}}))
	codesWanted := []codes.Code{
		codes.NotFound, codes.OK, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument, codes.NotFound,
		codes.NotFound, codes.OK,
	}
	if check("svids: one result for each", len(answer.Results) == len(codesWanted), "%d", len(answer.Results)) {
		for n, code := range codesWanted {
			item(fmt.Sprintf("svids: result %d", n), answer.Results[n].Status, code)
			check(fmt.Sprintf("svids: result %d has an SVID or none", n), (answer.Results[n].Svid != nil) == (code == codes.OK),
				"%v", answer.Results[n].Svid != nil)
		}
	}
	same("svids: the ID is the entry's", answer.Results[1].Svid.Id, id("/web"))
	leaf := asSVID(answer.Results[1].Svid, key).Certificates[0]
	check("svids: expires_at is the leaf's", answer.Results[1].Svid.ExpiresAt == leaf.NotAfter.Unix(), "%v", leaf.NotAfter)
	check("svids: the entry's lifetime", time.Until(leaf.NotAfter) <= 600*time.Second, "%v", time.Until(leaf.NotAfter))
	same("svids: the entry's DNS names", leaf.DNSNames, wanted.DnsNames)
	check("svids: another serial each time",
		leaf.SerialNumber.Cmp(asSVID(answer.Results[7].Svid, key).Certificates[0].SerialNumber) != 0, "")

	many := make([]*svidv1.NewX509SVIDParams, 500)
	for n := range many {
		many[n] = &svidv1.NewX509SVIDParams{EntryId: web.Id, Csr: csr}
	}
	begun := time.Now()
	batch := must(agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: many}))
	figure("500 SVIDs in one call, ms", time.Since(begun).Milliseconds())
	signed := 0
	for _, result := range batch.Results {
		if codes.Code(result.Status.GetCode()) == codes.OK && result.Svid != nil {
			signed++
		}
	}
	same("svids: 500 at a time", signed, 500)
	_, err := agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{Params: append(many, many[0])})
	ends("svids: 501 are too many, as SPIRE says it", err, codes.ResourceExhausted)
	empty := must(agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{}))
	same("svids: none is none", len(empty.Results), 0)
	// An entry that was made this moment can be signed at once: there is no cache that has to learn of it.
	fresh := s.create(ctx, newEntry("/fresh", agent.id, "unix:uid:3"))
	one := must(agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{
		Params: []*svidv1.NewX509SVIDParams{{EntryId: fresh.Id, Csr: csr}},
	}))
	item("svids: at once for a new entry", one.Results[0].Status, codes.OK)
	minting(ctx, s)
	downstream(ctx, s, agent)
}

func minting(ctx context.Context, s *scene) {
	csr, key := newCSR("spiffe://example.org/minted")
	minted := must(s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: 120}))
	same("mint: the ID is the CSR's", minted.Svid.Id, id("/minted"))
	leaf := asSVID(minted.Svid, key).Certificates[0]
	left := time.Until(leaf.NotAfter)
	check("mint: the lifetime that was asked for", left > 100*time.Second && left <= 120*time.Second, "%v", left)
	check("mint: verifies by the bundle", verifies(s, minted.Svid, key), "")
	byDefault := must(s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr}))
	check("mint: 0 is the server's lifetime", byDefault.Svid.ExpiresAt > minted.Svid.ExpiresAt, "")
	listed := must(s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{
		Filter: &entryv1.ListEntriesRequest_Filter{BySpiffeId: id("/minted")},
	}))
	same("mint: needs no entry and makes none", len(listed.Entries), 0)
	for why, uris := range map[string][]string{
		"no URI": {}, "two URIs": {"spiffe://example.org/a", "spiffe://example.org/b"}, "no SPIFFE ID": {"https://example.org"},
		"another trust domain": {"spiffe://other.example/a"}, "no path": {"spiffe://example.org"},
		"an agent's ID": {"spiffe://example.org/spire/agent/x"}, "the server's ID": {"spiffe://example.org/spire/server"},
	} {
		csr, _ := newCSR(uris...)
		_, err := s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr})
		ends("mint: "+why, err, codes.InvalidArgument)
	}
	for _, ttl := range []int32{-1, 1} {
		_, err := s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: ttl})
		ends(fmt.Sprintf("mint: ttl %d", ttl), err, codes.InvalidArgument)
	}
	_, err := s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: []byte("x")})
	ends("mint: no CSR", err, codes.InvalidArgument)
	_, err = s.operator.svids.MintJWTSVID(ctx, &svidv1.MintJWTSVIDRequest{Id: id("/minted"), Audience: []string{"a"}})
	ends("mint: JWT-SVIDs are said to be missing", err, codes.Unimplemented)
	_, err = s.operator.svids.MintWITSVID(ctx, &svidv1.MintWITSVIDRequest{Id: id("/minted")})
	ends("mint: WIT-SVIDs are said to be missing", err, codes.Unimplemented)
}

func downstream(ctx context.Context, s *scene, agent *attested) {
	below := s.holder(ctx, agent, "/below", func(entry *types.Entry) { entry.Downstream = true })
	csr, _ := newCSR("spiffe://example.org")
	_, err := below.svids.NewDownstreamX509CA(ctx, &svidv1.NewDownstreamX509CARequest{Csr: csr})
	ends("downstream: authorities for servers below are said to be missing", err, codes.Unimplemented)
	answer, err := agent.svids.BatchNewWITSVID(ctx, &svidv1.BatchNewWITSVIDRequest{})
	ends("WIT: batches are said to be missing", err, codes.Unimplemented)
	check("WIT: no answer", answer == nil || reflect.ValueOf(answer).IsNil(), "%v", answer)
}
