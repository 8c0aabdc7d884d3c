package main

import (
	"context"
	"fmt"
	"strings"

	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// The most that grpc-go reads unless it is told otherwise, which SPIRE's programs do not.
const readable = 4 << 20

const largeCount = 1000

// large is an entry of about 25 KiB, the most that its DNS names can be.
func large(n int, parent *types.SPIFFEID) *types.Entry {
	entry := newEntry(fmt.Sprintf("/large/%d", n), parent, fmt.Sprintf("unix:uid:%d", n))
	for name := range 100 {
		labels := fmt.Sprintf("n%d.%s", name, strings.Repeat(strings.Repeat("x", 60)+".", 4))
		entry.DnsNames = append(entry.DnsNames, labels[:240])
	}
	return entry
}

// answers asks for more than fits one message: every call has to be readable, and what is said to be done to be done.
func answers(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	var made []*types.Entry
	for n := range largeCount {
		made = append(made, large(n, agent.id))
	}
	figure("bytes of a large entry", proto.Size(made[0]))
	inBatches(made, 100, func(batch []*types.Entry) {
		for n, entry := range s.createAll(ctx, batch) {
			batch[n].Id = entry.Id
		}
	})
	twins(ctx, s, agent)
	largeUpdates(ctx, s, made)
	largeRequests(ctx, s, agent)

	all, pages := s.listAll(ctx, &entryv1.ListEntriesRequest{PageSize: 1000, Filter: &listFilter{ByParentId: agent.id}})
	check("answers: pages end where a message would be too large", len(all) >= largeCount && pages > 5, "%d in %d pages", len(all), pages)
	full, cost, err := held{}.sync(ctx, agent)
	check("answers: so do those of SyncAuthorizedEntries", err == nil && len(full) == len(all), "%+v %v", cost, err)
	_, err = agent.entries.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	ends("answers: GetAuthorizedEntries has no pages, and says so", err, codes.ResourceExhausted)
	largeBundles(ctx, s)
}

// twins brings small entries that are similar to large ones: each answer would be the large one.
func twins(ctx context.Context, s *scene, agent *attested) {
	request := &entryv1.BatchCreateEntryRequest{}
	for n := range largeCount {
		request.Entries = append(request.Entries, newEntry(fmt.Sprintf("/large/%d", n), agent.id, fmt.Sprintf("unix:uid:%d", n)))
	}
	answer, err := s.operator.entries.BatchCreateEntry(ctx, request)
	if !ends("answers: 1000 twins of large entries", err, codes.OK) {
		return
	}
	figure("bytes of the answer to 1000 twins", proto.Size(answer))
	shown, wrong := 0, 0
	for n, result := range answer.Results {
		if codes.Code(result.Status.GetCode()) != codes.AlreadyExists {
			wrong++
		}
		if result.Entry != nil {
			shown++
			if result.Entry.SpiffeId.Path != request.Entries[n].SpiffeId.Path {
				wrong++
			}
		}
	}
	check("answers: each twin is told", len(answer.Results) == largeCount && wrong == 0, "%d wrong", wrong)
	check("answers: as many as there is room for are shown", shown > 50, "%d shown", shown)
	last := answer.Results[largeCount-1]
	check("answers: the status says that one is left out", last.Entry == nil && strings.Contains(last.Status.GetMessage(), "output_mask"),
		"%v", last.Status)
	request.OutputMask = &types.EntryMask{RevisionNumber: true}
	masked := must(s.operator.entries.BatchCreateEntry(ctx, request))
	shown = 0
	for _, result := range masked.Results {
		if result.Entry.GetId() != "" {
			shown++
		}
	}
	same("answers: with a mask all of them are shown", shown, largeCount)
}

// largeUpdates changes a small field of large entries: what does not fit the answer is not done, and told so.
func largeUpdates(ctx context.Context, s *scene, made []*types.Entry) {
	left := map[string]bool{}
	for _, entry := range made {
		left[entry.Id] = true
	}
	rounds := 0
	for len(left) > 0 && rounds < 50 {
		rounds++
		request := &entryv1.BatchUpdateEntryRequest{InputMask: &types.EntryMask{Hint: true}}
		for id := range left {
			request.Entries = append(request.Entries, &types.Entry{Id: id, Hint: fmt.Sprint("round ", rounds)})
		}
		answer, err := s.operator.entries.BatchUpdateEntry(ctx, request)
		if err != nil {
			ends("answers: updates of large entries", err, codes.OK)
			return
		}
		for n, result := range answer.Results {
			switch codes.Code(result.Status.GetCode()) {
			case codes.OK:
				delete(left, request.Entries[n].Id)
				if result.Entry.GetHint() != request.Entries[n].Hint {
					check("answers: what was done is shown", false, "%v", result.Status)
				}
			case codes.ResourceExhausted:
				if result.Entry != nil {
					check("answers: what was not done is not shown", false, "%v", result.Status)
				}
			default:
				check("answers: an update is done or left for later", false, "%v", result.Status)
			}
		}
		s.checkUntouched(ctx, left, rounds)
	}
	figure("calls to update 1000 large entries", rounds)
	check("answers: in some calls all are done", len(left) == 0 && rounds > 1, "%d left after %d", len(left), rounds)
}

// checkUntouched reads one of those that were left for later.
func (s *scene) checkUntouched(ctx context.Context, left map[string]bool, round int) {
	for id := range left {
		now := must(s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: id, OutputMask: &types.EntryMask{Hint: true}}))
		check("answers: what was left for later was not done", now.Hint == "", "%q in round %d", now.Hint, round)
		return
	}
}

// largeRequests are as large as a request can be.
func largeRequests(ctx context.Context, s *scene, agent *attested) {
	request := &entryv1.BatchCreateEntryRequest{}
	for n := 5000; proto.Size(request) < readable-30_000; n++ {
		request.Entries = append(request.Entries, large(n, agent.id))
	}
	for round := 1; round <= 2; round++ {
		answer, err := s.operator.entries.BatchCreateEntry(ctx, request)
		if !ends(fmt.Sprintf("answers: a request of almost 4 MiB, call %d", round), err, codes.OK) {
			return
		}
		done := map[codes.Code]int{}
		for _, result := range answer.Results {
			done[codes.Code(result.Status.GetCode())]++
		}
		check("answers: almost all of it is done", done[codes.OK]+done[codes.AlreadyExists] > len(request.Entries)*9/10 &&
			done[codes.OK]+done[codes.AlreadyExists]+done[codes.ResourceExhausted] == len(request.Entries), "%v", done)
	}

	long := newEntry("/long", agent.id, "unix:uid:1")
	long.DnsNames = []string{strings.Repeat("x y", 1_000_000)}
	answer, err := s.operator.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: []*types.Entry{long}})
	if ends("answers: a name of 3 MB", err, codes.OK) {
		item("answers: a name of 3 MB, the item", answer.Results[0].Status, codes.InvalidArgument)
		check("answers: what is wrong is told in few words", len(answer.Results[0].Status.Message) <= 1100, "%d bytes",
			len(answer.Results[0].Status.Message))
	}
	_, err = s.operator.bundles.GetFederatedBundle(ctx, &bundlev1.GetFederatedBundleRequest{TrustDomain: strings.Repeat("x y", 1_000_000)})
	ends("answers: a trust domain of 3 MB", err, codes.InvalidArgument)
	var garbage []string
	for range largeCount {
		garbage = append(garbage, strings.Repeat("x/", 2090))
	}
	_, err = s.operator.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: garbage})
	check("answers: IDs of 4 MB to delete", err == nil || codesOf(err) == codes.InvalidArgument, "%v", err)
	_, err = s.operator.bundles.BatchDeleteFederatedBundle(ctx, &bundlev1.BatchDeleteFederatedBundleRequest{TrustDomains: garbage})
	check("answers: trust domains of 4 MB to delete", err == nil || codesOf(err) == codes.InvalidArgument, "%v", err)
}

// largeBundles updates many bundles by a small field.
func largeBundles(ctx context.Context, s *scene) {
	var all []*types.Bundle
	for n := range 120 {
		bundle := newBundle(fmt.Sprintf("large%d.example", n))
		for range 100 {
			bundle.X509Authorities = append(bundle.X509Authorities, bundle.X509Authorities[0])
		}
		all = append(all, bundle)
	}
	// Equal authorities may be kept once; then they are told apart.
	for _, bundle := range all {
		for n := range bundle.X509Authorities {
			if n > 0 && n%25 == 0 {
				bundle.X509Authorities[n] = newAuthority(bundle.TrustDomain)
			}
		}
	}
	size := proto.Size(all[0])
	figure("bytes of a large bundle", size)
	inBatches(all, 60, func(batch []*types.Bundle) {
		answer, err := s.operator.bundles.BatchSetFederatedBundle(ctx, &bundlev1.BatchSetFederatedBundleRequest{Bundle: batch})
		if ends("answers: large bundles set", err, codes.OK) {
			for _, result := range answer.Results {
				if codes.Code(result.Status.GetCode()) != codes.OK {
					check("answers: a large bundle is set", false, "%v", result.Status)
				}
			}
		}
	})
	request := &bundlev1.BatchUpdateFederatedBundleRequest{InputMask: &types.BundleMask{RefreshHint: true}}
	for _, bundle := range all {
		request.Bundle = append(request.Bundle, &types.Bundle{TrustDomain: bundle.TrustDomain, RefreshHint: 77})
	}
	answer, err := s.operator.bundles.BatchUpdateFederatedBundle(ctx, request)
	if !ends("answers: large bundles updated by mask", err, codes.OK) {
		return
	}
	done := map[codes.Code]int{}
	for _, result := range answer.Results {
		done[codes.Code(result.Status.GetCode())]++
	}
	check("answers: each is done or left for later", done[codes.OK] > 0 && done[codes.OK]+done[codes.ResourceExhausted] == len(all), "%v", done)
	check("answers: the answer is readable", proto.Size(answer) <= readable, "%d bytes", proto.Size(answer))
}
