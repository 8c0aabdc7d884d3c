package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// newAuthority is a certificate that can sign, as another trust domain would have it.
func newAuthority(name string) *types.X509Certificate {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{
		SerialNumber:          must(rand.Int(rand.Reader, big.NewInt(1<<62))),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
		URIs:                  []*url.URL{must(url.Parse("spiffe://" + name))},
	}
	return &types.X509Certificate{Asn1: must(x509.CreateCertificate(rand.Reader, template, template, key.Public(), key))}
}

func newBundle(name string) *types.Bundle {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	return &types.Bundle{
		TrustDomain:     name,
		X509Authorities: []*types.X509Certificate{newAuthority(name)},
		JwtAuthorities: []*types.JWTKey{{
			KeyId: "k1", PublicKey: must(x509.MarshalPKIXPublicKey(key.Public())), ExpiresAt: time.Now().Add(time.Hour).Unix(),
		}},
		RefreshHint:    300,
		SequenceNumber: 7,
	}
}

func (s *scene) setBundle(ctx context.Context, name string) *types.Bundle {
	answer := must(s.operator.bundles.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{
		Bundle: []*types.Bundle{newBundle(name)},
	}))
	if answer.Results[0].Status.GetCode() != 0 {
		panic(answer.Results[0].Status)
	}
	return answer.Results[0].Bundle
}

func bundles(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	ownBundle(ctx, s, agent)
	federated(ctx, s, agent)
	removedBundles(ctx, s)
}

func ownBundle(ctx context.Context, s *scene, agent *attested) {
	own := must(s.operator.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{}))
	for why, caller := range map[string]*caller{"anonymous": s.anonymous(), "an agent": agent.caller} {
		same("bundle: the same for "+why, must(caller.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{})), own)
	}
	same("bundle: by mask", must(s.operator.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{OutputMask: &types.BundleMask{}})),
		&types.Bundle{TrustDomain: trustDomain})
	authority := newAuthority(trustDomain)
	added := must(s.operator.bundles.AppendBundle(ctx, &bundlev1.AppendBundleRequest{
		X509Authorities: []*types.X509Certificate{authority},
	}))
	same("append: one more", len(added.X509Authorities), len(own.X509Authorities)+1)
	check("append: the sequence number rises", added.SequenceNumber > own.SequenceNumber, "%d, before %d",
		added.SequenceNumber, own.SequenceNumber)
	again := must(s.operator.bundles.AppendBundle(ctx, &bundlev1.AppendBundleRequest{
		X509Authorities: []*types.X509Certificate{authority}, OutputMask: &types.BundleMask{X509Authorities: true},
	}))
	same("append: the same again is nothing new", len(again.X509Authorities), len(added.X509Authorities))
	for why, bad := range map[string]*bundlev1.AppendBundleRequest{
		"nothing":            {},
		"no certificate":     {X509Authorities: []*types.X509Certificate{{Asn1: []byte("x")}}},
		"a key that is none": {JwtAuthorities: []*types.JWTKey{{KeyId: "k", PublicKey: []byte("x")}}},
		"a WIT key":          {WitAuthorities: []*types.WITKey{{KeyId: "k"}}},
	} {
		_, err := s.operator.bundles.AppendBundle(ctx, bad)
		ends("append: "+why, err, codes.InvalidArgument)
	}
	_, err := s.holder(ctx, agent, "/below", func(entry *types.Entry) { entry.Downstream = true }).bundles.
		PublishJWTAuthority(ctx, &bundlev1.PublishJWTAuthorityRequest{JwtAuthority: newBundle("x.example").JwtAuthorities[0]})
	ends("publish: JWT keys of servers below are said to be unsupported", err, codes.Unimplemented)
}

func federated(ctx context.Context, s *scene, agent *attested) {
	count := func() int {
		return int(must(s.operator.bundles.CountBundles(ctx, &bundlev1.CountBundlesRequest{})).Count)
	}
	same("bundles: the own one counts", count(), 1)
	b, c := newBundle("b.example"), newBundle("c.example")
	created := must(s.operator.bundles.BatchCreateFederatedBundle(ctx, &bundlev1.BatchCreateFederatedBundleRequest{
		Bundle: []*types.Bundle{
			b, b, newBundle(trustDomain), {TrustDomain: "BAD NAME"}, {TrustDomain: "d.example", X509Authorities: []*types.X509Certificate{{Asn1: []byte("x")}}}, c,
		},
	}))
	for n, code := range []codes.Code{
		codes.OK, codes.AlreadyExists, codes.InvalidArgument, codes.InvalidArgument, codes.InvalidArgument, codes.OK,
	} {
		item(fmt.Sprintf("bundles: created, result %d", n), created.Results[n].Status, code)
	}
	same("bundles: created as brought", created.Results[0].Bundle, b)
	same("bundles: counted", count(), 3)
	same("bundles: read by an agent", must(agent.bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: "b.example"})), b)
	for name, code := range map[string]codes.Code{
		"none.example": codes.NotFound, trustDomain: codes.InvalidArgument, "": codes.InvalidArgument, "a b": codes.InvalidArgument,
	} {
		_, err := s.operator.bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: name})
		ends(fmt.Sprintf("bundles: get %q", name), err, code)
	}
	listFederated(ctx, s, b, c)

	changed := newBundle("b.example")
	changed.RefreshHint = 60
	updated := must(s.operator.bundles.BatchUpdateFederatedBundle(ctx, &bundlev1.BatchUpdateFederatedBundleRequest{
		Bundle: []*types.Bundle{changed, newBundle("none.example")}, InputMask: &types.BundleMask{RefreshHint: true},
	}))
	wanted := proto.Clone(b).(*types.Bundle)
	wanted.RefreshHint = 60
	item("bundles: updated", updated.Results[0].Status, codes.OK)
	wanted.SequenceNumber = updated.Results[0].Bundle.GetSequenceNumber()
	same("bundles: updated by mask", updated.Results[0].Bundle, wanted)
	item("bundles: updated what is not there", updated.Results[1].Status, codes.NotFound)
	set := must(s.operator.bundles.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{
		Bundle: []*types.Bundle{changed, newBundle("d.example"), newBundle(trustDomain)}, OutputMask: &types.BundleMask{RefreshHint: true},
	}))
	for n, code := range []codes.Code{codes.OK, codes.OK, codes.InvalidArgument} {
		item(fmt.Sprintf("bundles: set, result %d", n), set.Results[n].Status, code)
	}
	same("bundles: set, by mask", set.Results[0].Bundle, &types.Bundle{TrustDomain: "b.example", RefreshHint: 60})
	now := must(s.operator.bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: "b.example"}))
	same("bundles: set replaces", now.X509Authorities[0].Asn1, changed.X509Authorities[0].Asn1)
}

func listFederated(ctx context.Context, s *scene, wanted ...*types.Bundle) {
	for _, size := range []int32{0, 1} {
		var all []*types.Bundle
		request := &bundlev1.ListFederatedBundlesRequest{PageSize: size}
		for {
			page := must(s.operator.bundles.ListFederatedBundles(ctx, request))
			all = append(all, page.Bundles...)
			request.PageToken = page.NextPageToken
			if page.NextPageToken == "" {
				break
			}
		}
		if check(fmt.Sprintf("bundles: listed in pages of %d", size), len(all) == len(wanted), "%d", len(all)) {
			for n := range wanted {
				same("bundles: listed", all[n], wanted[n])
			}
		}
	}
}

func removedBundles(ctx context.Context, s *scene) {
	entry := newEntry("/federated", id("/spire/agent/x509pop/a"), "unix:uid:1")
	entry.FederatesWith = []string{"b.example", "c.example"}
	made := s.create(ctx, entry)
	remove := func(mode bundlev1.BatchDeleteFederatedBundleRequest_Mode, names ...string) []*bundlev1.BatchDeleteFederatedBundleResponse_Result {
		return must(s.operator.bundles.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{
			TrustDomains: names, Mode: mode,
		})).Results
	}
	results := remove(bundlev1.BatchDeleteFederatedBundleRequest_RESTRICT, "b.example", "d.example", "none.example", trustDomain)
	for n, code := range []codes.Code{codes.FailedPrecondition, codes.OK, codes.NotFound, codes.InvalidArgument} {
		item(fmt.Sprintf("bundles: removed with RESTRICT, result %d", n), results[n].Status, code)
	}
	same("bundles: results name the trust domain", results[0].TrustDomain, "b.example")
	item("bundles: removed with DISSOCIATE", remove(bundlev1.BatchDeleteFederatedBundleRequest_DISSOCIATE, "b.example")[0].Status, codes.OK)
	now := must(s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: made.Id}))
	same("bundles: the entry is left, without it", strings.Join(now.FederatesWith, " "), "c.example")
	check("bundles: and its revision rose", now.RevisionNumber > made.RevisionNumber, "%d", now.RevisionNumber)
	item("bundles: removed with DELETE", remove(bundlev1.BatchDeleteFederatedBundleRequest_DELETE, "c.example")[0].Status, codes.OK)
	_, err := s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: made.Id})
	ends("bundles: the entry went with it", err, codes.NotFound)
	_, err = s.operator.bundles.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{Mode: 9})
	ends("bundles: a mode that is none", err, codes.InvalidArgument)
}
