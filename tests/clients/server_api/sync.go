package main

import (
	"context"
	"fmt"
	"sort"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// The fields that spire-agent asks for.
var agentMask = &types.EntryMask{
	SpiffeId: true, Selectors: true, FederatesWith: true, Admin: true, Downstream: true, RevisionNumber: true,
	StoreSvid: true, Hint: true, CreatedAt: true, AdditionalAttributes: true,
}

type syncStream = grpc.BidiStreamingClient[entryv1.SyncAuthorizedEntriesRequest, entryv1.SyncAuthorizedEntriesResponse]

// held is what an agent has learned so far.
type held map[string]*types.Entry

// round is what one synchronization cost.
type round struct {
	messages, revisions, fetched, largest int
	elapsed                               time.Duration
}

// sync learns as spire-agent does: revisions first if there are many, then by ID what is new or changed.
func (h held) sync(ctx context.Context, agent *attested) (held, round, error) {
	begun := time.Now()
	var cost round
	stream, err := agent.entries.SyncAuthorizedEntries(ctx)
	if err != nil {
		return nil, cost, err
	}
	if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{OutputMask: agentMask}); err != nil {
		return nil, cost, err
	}
	answers, err := h.readAll(stream, &cost)
	if err != nil {
		return nil, cost, err
	}
	now := held{}
	var wanted []string
	// The server's pages tell how many it wants to be asked for at a time.
	pageSize := max(1, len(answers[0].EntryRevisions))
	for _, answer := range answers {
		for _, entry := range answer.Entries {
			now[entry.Id] = entry
		}
		for _, revision := range answer.EntryRevisions {
			cost.revisions++
			known := h[revision.Id]
			if known.GetRevisionNumber() == revision.RevisionNumber && known.GetCreatedAt() == revision.CreatedAt && known != nil {
				now[revision.Id] = known
			} else {
				wanted = append(wanted, revision.Id)
			}
		}
	}
	sort.Strings(wanted)
	for len(wanted) > 0 {
		page := wanted[:min(len(wanted), pageSize)]
		wanted = wanted[len(page):]
		if err := stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: page}); err != nil {
			return nil, cost, err
		}
		answers, err := h.readAll(stream, &cost)
		if err != nil {
			return nil, cost, err
		}
		for _, answer := range answers {
			for _, entry := range answer.Entries {
				now[entry.Id] = entry
				cost.fetched++
			}
		}
	}
	cost.elapsed = time.Since(begun)
	return now, cost, stream.CloseSend()
}

// readAll reads one answer, which may be many messages.
func (h held) readAll(stream syncStream, cost *round) ([]*entryv1.SyncAuthorizedEntriesResponse, error) {
	var all []*entryv1.SyncAuthorizedEntriesResponse
	for {
		answer, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		cost.messages++
		cost.largest = max(cost.largest, len(answer.Entries), len(answer.EntryRevisions))
		all = append(all, answer)
		if !answer.More {
			return all, nil
		}
	}
}

func (s *scene) fill(ctx context.Context, count int, make func(n int) *types.Entry) []*types.Entry {
	var all []*types.Entry
	for from := 0; from < count; from += 1000 {
		var batch []*types.Entry
		for n := from; n < min(from+1000, count); n++ {
			batch = append(batch, make(n))
		}
		all = append(all, s.createAll(ctx, batch)...)
	}
	return all
}

func syncing(ctx context.Context, s *scene) {
	agent := s.join(ctx)
	nothing, cost, err := held{}.sync(ctx, agent)
	check("sync: nothing is one empty message", err == nil && len(nothing) == 0 && cost.messages == 1, "%v %v", cost, err)
	all := s.fill(ctx, 500, func(n int) *types.Entry {
		return newEntry(fmt.Sprintf("/w/%d", n), agent.id, fmt.Sprintf("unix:uid:%d", n))
	})
	full, cost, err := held{}.sync(ctx, agent)
	check("sync: 500 are one message", err == nil && len(full) == 500 && cost.messages == 1 && cost.revisions == 0,
		"%v %d %v", cost, len(full), err)
	for _, entry := range all[:3] {
		wanted := &types.Entry{
			Id: entry.Id, SpiffeId: entry.SpiffeId, Selectors: entry.Selectors,
			RevisionNumber: entry.RevisionNumber, CreatedAt: entry.CreatedAt,
		}
		same("sync: with the fields of the mask and no other", full[entry.Id], wanted)
	}

	s.fill(ctx, 10, func(n int) *types.Entry { return newEntry(fmt.Sprintf("/x/%d", n), agent.id, "unix:uid:1") })
	sparse, cost, err := full.sync(ctx, agent)
	check("sync: more than 500 are revisions, and what is held is not fetched again",
		err == nil && len(sparse) == 510 && cost.revisions == 510 && cost.fetched == 10 && cost.largest <= 500,
		"%v %d %v", cost, len(sparse), err)

	changed := s.update(ctx, &types.Entry{Id: all[7].Id, Hint: "new"}, &types.EntryMask{Hint: true})
	s.delete(ctx, all[8].Id)
	recreated := newEntry("/w/9", agent.id, "unix:uid:9")
	recreated.Id = all[9].Id
	s.delete(ctx, all[9].Id)
	// In the same second most likely, which is what created_at counts.
	again := s.create(ctx, recreated)
	check("sync: who was made anew has another creation time or revision",
		again.CreatedAt != all[9].CreatedAt || again.RevisionNumber != all[9].RevisionNumber, "%v", again)
	next, cost, err := sparse.sync(ctx, agent)
	check("sync: a change, a removal and one made anew", err == nil && len(next) == 509 && cost.fetched == 2,
		"%v %d %v", cost, len(next), err)
	same("sync: the change", next[changed.Id].GetHint(), "new")
	check("sync: the removal", next[all[8].Id] == nil, "%v", next[all[8].Id])

	requestsThatAreRefused(ctx, s, agent)
}

func requestsThatAreRefused(ctx context.Context, s *scene, agent *attested) {
	other := s.join(ctx)
	foreign := s.create(ctx, newEntry("/foreign", other.id, "unix:uid:1"))
	stream := must(agent.entries.SyncAuthorizedEntries(ctx))
	_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: []string{"x"}})
	_, err := stream.Recv()
	ends("sync: IDs in the first message", err, codes.InvalidArgument)

	stream = must(agent.entries.SyncAuthorizedEntries(ctx))
	_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{})
	for {
		answer := must(stream.Recv())
		if !answer.More {
			break
		}
	}
	_ = stream.Send(&entryv1.SyncAuthorizedEntriesRequest{Ids: []string{foreign.Id, "no such entry"}})
	answer, err := stream.Recv()
	check("sync: what is not this agent's is left out", err == nil && len(answer.Entries) == 0 && !answer.More, "%v %v", answer, err)
	all := must(agent.entries.GetAuthorizedEntries(ctx, &entryv1.GetAuthorizedEntriesRequest{OutputMask: &types.EntryMask{}}))
	bare := true
	for _, entry := range all.Entries {
		bare = bare && entry.Id != "" && entry.SpiffeId == nil && entry.Selectors == nil
	}
	check("sync: GetAuthorizedEntries has all of them, with the fields of the mask", len(all.Entries) == 509 && bare,
		"%d", len(all.Entries))
}
