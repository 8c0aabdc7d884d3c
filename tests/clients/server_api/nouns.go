package main

import (
	"context"
	"fmt"
	"strings"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

func id(path string) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: trustDomain, Path: path}
}

func selectors(all ...string) []*types.Selector {
	var wire []*types.Selector
	for _, text := range all {
		kind, value, _ := strings.Cut(text, ":")
		wire = append(wire, &types.Selector{Type: kind, Value: value})
	}
	return wire
}

func newEntry(path string, parent *types.SPIFFEID, all ...string) *types.Entry {
	return &types.Entry{SpiffeId: id(path), ParentId: parent, Selectors: selectors(all...)}
}

// create makes one entry that a section cannot go on without.
func (s *scene) create(ctx context.Context, entry *types.Entry) *types.Entry {
	return s.createAll(ctx, []*types.Entry{entry})[0]
}

// createAll makes entries in one call.
func (s *scene) createAll(ctx context.Context, wanted []*types.Entry) []*types.Entry {
	answer := must(s.operator.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: wanted}))
	var all []*types.Entry
	for n, result := range answer.Results {
		if codes.Code(result.Status.GetCode()) != codes.OK {
			panic(fmt.Sprintf("entry %d, %v: %v", n, wanted[n], result.Status))
		}
		all = append(all, result.Entry)
	}
	return all
}

func (s *scene) update(ctx context.Context, entry *types.Entry, mask *types.EntryMask) *types.Entry {
	answer := must(s.operator.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries: []*types.Entry{entry}, InputMask: mask,
	}))
	if result := answer.Results[0]; codes.Code(result.Status.GetCode()) != codes.OK {
		panic(fmt.Sprintf("%v: %v", entry, result.Status))
	}
	return answer.Results[0].Entry
}

func (s *scene) delete(ctx context.Context, ids ...string) {
	answer := must(s.operator.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: ids}))
	for _, result := range answer.Results {
		if codes.Code(result.Status.GetCode()) != codes.OK {
			panic(fmt.Sprintf("%v", result))
		}
	}
}

func ids(entries []*types.Entry) []string {
	all := []string{}
	for _, entry := range entries {
		all = append(all, entry.Id)
	}
	return all
}
