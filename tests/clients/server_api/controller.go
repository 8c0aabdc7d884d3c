package main

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"time"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	trustdomainv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/trustdomain/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// The sizes that spire-controller-manager uses.
const (
	controllerList   = 200
	controllerPut    = 50
	controllerDelete = 200
)

// controller is what spire-controller-manager does: a probe, then reconciliation until nothing is left to do; and the
// same after somebody else meddled.
func controller(ctx context.Context, s *scene) {
	probe(ctx, s)
	federation(ctx, s)
	webhook(ctx, s)

	const pods = 430
	declared := map[string]*types.Entry{}
	for n := range pods {
		entry := newEntry(fmt.Sprintf("/ns/default/sa/pod-%d", n), id("/spire/agent/k8s_psat/c/node"), fmt.Sprintf("k8s:pod-uid:%d", n))
		entry.X509SvidTtl, entry.Hint = 3600, "default"
		entry.DnsNames = []string{fmt.Sprintf("pod-%d.default.svc", n)}
		declared[entry.SpiffeId.Path] = entry
	}
	same("controller: creates what is declared", s.reconcile(ctx, declared), work{create: pods})
	same("controller: then nothing is left to do", s.reconcile(ctx, declared), work{})

	for n := range 70 {
		declared[fmt.Sprintf("/ns/default/sa/pod-%d", n)].Hint = "changed"
	}
	for n := 100; n < 350; n++ {
		delete(declared, fmt.Sprintf("/ns/default/sa/pod-%d", n))
	}
	s.create(ctx, newEntry("/not/of/the/controller", id("/spire/agent/k8s_psat/c/node"), "unix:uid:1"))
	same("controller: updates and deletes", s.reconcile(ctx, declared), work{update: 70, remove: 251})
	same("controller: then nothing is left to do, again", s.reconcile(ctx, declared), work{})
	count := must(s.operator.entries.CountEntries(ctx, &entryv1.CountEntriesRequest{}))
	same("controller: what is there is what is declared", int(count.Count), len(declared))
}

// probe makes an entry that is its own parent, to see which fields come back.
func probe(ctx context.Context, s *scene) {
	path := "/spire-controller-manager/unsupported-fields-test"
	wanted := newEntry(path, id(path), "a:1")
	wanted.X509SvidTtl, wanted.JwtSvidTtl, wanted.StoreSvid, wanted.Hint = 60, 60, true, "hint"
	for _, turn := range []codes.Code{codes.OK, codes.AlreadyExists} {
		answer := must(s.operator.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{wanted}}))
		if !item("controller: the probe entry", answer.Results[0].Status, turn) {
			return
		}
		seen := answer.Results[0].Entry
		check("controller: the probe's fields come back",
			seen.GetId() != "" && seen.GetJwtSvidTtl() == 60 && seen.GetHint() == "hint" && seen.GetStoreSvid(), "%v", seen)
		// One that an earlier controller left behind is as good.
		if turn == codes.AlreadyExists {
			s.delete(ctx, seen.Id)
		}
	}
}

// federation is what the controller sees of a service that is not there: it logs that it cannot list relationships, and
// its other loops go on.
func federation(ctx context.Context, s *scene) {
	api := trustdomainv1.NewTrustDomainClient(s.operator.conn)
	_, err := api.ListFederationRelationships(ctx, &trustdomainv1.ListFederationRelationshipsRequest{PageSize: controllerList})
	ends("controller: ListFederationRelationships", err, codes.Unimplemented)
	_, err = api.BatchCreateFederationRelationship(ctx, &trustdomainv1.BatchCreateFederationRelationshipRequest{})
	ends("controller: BatchCreateFederationRelationship", err, codes.Unimplemented)
	_, err = api.BatchUpdateFederationRelationship(ctx, &trustdomainv1.BatchUpdateFederationRelationshipRequest{})
	ends("controller: BatchUpdateFederationRelationship", err, codes.Unimplemented)
	_, err = api.BatchDeleteFederationRelationship(ctx, &trustdomainv1.BatchDeleteFederationRelationshipRequest{})
	ends("controller: BatchDeleteFederationRelationship", err, codes.Unimplemented)
}

// webhook mints the certificate of the controller's own webhook, and reads the bundle to let Kubernetes verify it.
func webhook(ctx context.Context, s *scene) {
	names := []string{"spire-controller-manager-webhook-service.spire-system.svc"}
	csr, key := newCSRWith(&x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names},
		"spiffe://example.org/spire-controller-manager-webhook")
	minted := must(s.operator.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr, Ttl: 3600}))
	leaf := asSVID(minted.Svid, key).Certificates[0]
	same("controller: the webhook's ID", minted.Svid.Id, id("/spire-controller-manager-webhook"))
	same("controller: the webhook's names", leaf.DNSNames, names)
	bundle := must(s.operator.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{}))
	roots := x509.NewCertPool()
	for _, authority := range bundle.X509Authorities {
		roots.AddCert(must(x509.ParseCertificate(authority.Asn1)))
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: names[0], CurrentTime: time.Now()})
	check("controller: Kubernetes would trust the webhook", err == nil, "%v", err)
}

// work is what a reconciliation had to do.
type work struct {
	create, update, remove int
}

// reconcile makes the server's entries those that are declared.
func (s *scene) reconcile(ctx context.Context, declared map[string]*types.Entry) work {
	var done work
	current, _ := s.listAll(ctx, &entryv1.ListEntriesRequest{PageSize: controllerList})
	var create, update []*types.Entry
	var remove []string
	there := map[string]bool{}
	for _, entry := range current {
		wanted, known := declared[entry.SpiffeId.Path]
		if !known {
			remove = append(remove, entry.Id)
			continue
		}
		there[entry.SpiffeId.Path] = true
		now := proto.Clone(wanted).(*types.Entry)
		now.Id, now.CreatedAt, now.RevisionNumber = entry.Id, entry.CreatedAt, entry.RevisionNumber
		if !proto.Equal(now, entry) {
			update = append(update, now)
		}
	}
	for path, entry := range declared {
		if !there[path] {
			create = append(create, entry)
		}
	}
	inBatches(remove, controllerDelete, func(batch []string) {
		s.delete(ctx, batch...)
		done.remove += len(batch)
	})
	inBatches(create, controllerPut, func(batch []*types.Entry) { done.create += len(s.createAll(ctx, batch)) })
	inBatches(update, controllerPut, func(batch []*types.Entry) {
		answer := must(s.operator.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{Entries: batch}))
		for _, result := range answer.Results {
			if codes.Code(result.Status.GetCode()) == codes.OK {
				done.update++
			}
		}
	})
	return done
}

func inBatches[T any](all []T, size int, act func([]T)) {
	for len(all) > 0 {
		batch := all[:min(size, len(all))]
		all = all[len(batch):]
		act(batch)
	}
}
