package main

import (
	"context"
	"fmt"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

// many is as many entries as a large site has: most of one agent, the rest of others.
func many(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	begun := time.Now()
	count := *authorizedCount
	all := s.fill(ctx, count, func(n int) *types.Entry {
		return newEntry(fmt.Sprintf("/w/%d", n), agent.id, fmt.Sprintf("unix:uid:%d", n), "k8s:ns:default")
	})
	rest := *listedCount - count
	s.fill(ctx, rest, func(n int) *types.Entry {
		return newEntry(fmt.Sprintf("/other/%d", n), id("/spire/agent/x509pop/a"), fmt.Sprintf("unix:uid:%d", n))
	})
	figure(fmt.Sprintf("create %d entries, ms", *listedCount), time.Since(begun).Milliseconds())

	full, cost, err := held{}.sync(ctx, agent)
	check(fmt.Sprintf("many: the first sync of %d entries", count),
		err == nil && len(full) == count && cost.revisions == count && cost.fetched == count && cost.largest <= 500, "%+v %v", cost, err)
	figure(fmt.Sprintf("first sync of %d entries, ms", count), cost.elapsed.Milliseconds())
	check("many: each of them whole", wholeEntries(full), "")

	again, cost, err := full.sync(ctx, agent)
	check("many: the next sync fetches nothing", err == nil && len(again) == count && cost.fetched == 0, "%+v %v", cost, err)
	figure(fmt.Sprintf("sync of %d entries without change, ms", count), cost.elapsed.Milliseconds())

	for n := range 10 {
		s.update(ctx, &types.Entry{Id: all[n*7].Id, Hint: "changed"}, &types.EntryMask{Hint: true})
	}
	s.delete(ctx, ids(all[count-20:])...)
	next, cost, err := again.sync(ctx, agent)
	check("many: 10 changes and 20 removals", err == nil && len(next) == count-20 && cost.fetched == 10, "%+v %v", cost, err)
	s.createAll(ctx, s.unmade(all[count-20:]))

	s.listMany(ctx, "all", nil, *listedCount)
	s.listMany(ctx, "those of one parent", &listFilter{ByParentId: agent.id}, count)
	counted := must(s.operator.entries.CountEntries(ctx, &entryv1.CountEntriesRequest{}))
	same("many: counted", int(counted.Count), *listedCount)
	if count < 15_000 {
		return
	}
	// What SPIRE has as well: one answer that does not fit is said to be too large, and not sent.
	_, err = agent.entries.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{})
	fits := err == nil
	check("many: GetAuthorizedEntries answers or says that it cannot", fits || codesOf(err) == codes.ResourceExhausted, "%v", err)
}

func wholeEntries(all held) bool {
	for id, entry := range all {
		if entry.Id != id || entry.SpiffeId == nil || len(entry.Selectors) != 2 || entry.CreatedAt == 0 {
			return false
		}
	}
	return true
}

// unmade is the same entries before they were made.
func (s *scene) unmade(all []*types.Entry) []*types.Entry {
	var again []*types.Entry
	for _, entry := range all {
		again = append(again, &types.Entry{SpiffeId: entry.SpiffeId, ParentId: entry.ParentId, Selectors: entry.Selectors})
	}
	return again
}

func (s *scene) listMany(ctx context.Context, what string, filter *listFilter, wanted int) {
	begun := time.Now()
	all, pages := s.listAll(ctx, &entryv1.ListEntriesRequest{Filter: filter, PageSize: 1000})
	distinct := map[string]bool{}
	for _, entry := range all {
		distinct[entry.Id] = true
	}
	check("many: "+what+" listed, each once, in pages of 1000",
		len(all) == wanted && len(distinct) == wanted && pages == (wanted+999)/1000, "%d in %d pages", len(all), pages)
	figure(fmt.Sprintf("list %d entries (%s) in %d pages, ms", len(all), what, pages), time.Since(begun).Milliseconds())
}
