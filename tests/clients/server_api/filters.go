package main

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

var trueValue = protoreflect.ValueOfBool(true)

type listFilter = entryv1.ListEntriesRequest_Filter

func bySelectors(match types.SelectorMatch_MatchBehavior, all ...string) *listFilter {
	return &listFilter{BySelectors: &types.SelectorMatch{Selectors: selectors(all...), Match: match}}
}

func byFederation(match types.FederatesWithMatch_MatchBehavior, all ...string) *listFilter {
	return &listFilter{ByFederatesWith: &types.FederatesWithMatch{TrustDomains: all, Match: match}}
}

// filters lists and counts the same few entries in every way there is.
func filters(ctx context.Context, s *scene) {
	s.setBundle(ctx, "b.example")
	s.setBundle(ctx, "c.example")
	one, two := id("/spire/agent/x509pop/1"), id("/spire/agent/x509pop/2")
	make := func(name, path string, parent *types.SPIFFEID, federates, all []string, change func(*types.Entry)) *types.Entry {
		entry := newEntry(path, parent, all...)
		entry.Id, entry.FederatesWith = name, federates
		if change != nil {
			change(entry)
		}
		return entry
	}
	s.createAll(ctx, []*types.Entry{
		make("a", "/x", one, nil, []string{"t:1"}, nil),
		make("b", "/x", two, []string{"b.example"}, []string{"t:1", "t:2"}, func(e *types.Entry) { e.Hint = "in" }),
		make("c", "/y", one, []string{"b.example", "c.example"}, []string{"t:2", "t:1"}, nil),
		make("d", "/z", one, []string{"c.example"}, []string{"t:3"}, func(e *types.Entry) { e.Downstream = true }),
		make("e", "/z", two, nil, []string{"t:1", "t:2", "t:3"}, func(e *types.Entry) { e.Hint = "out" }),
	})
	cases := []struct {
		why    string
		filter *listFilter
		wanted string
	}{
		{"no filter", nil, "abcde"},
		{"an empty filter", &listFilter{}, "abcde"},
		{"by_spiffe_id", &listFilter{BySpiffeId: id("/x")}, "ab"},
		{"by_spiffe_id that nothing has", &listFilter{BySpiffeId: id("/none")}, ""},
		{"by_parent_id", &listFilter{ByParentId: two}, "be"},
		{"by both", &listFilter{BySpiffeId: id("/x"), ByParentId: two}, "b"},
		{"selectors exact", bySelectors(types.SelectorMatch_MATCH_EXACT, "t:1", "t:2"), "bc"},
		{"selectors subset", bySelectors(types.SelectorMatch_MATCH_SUBSET, "t:1", "t:2"), "abc"},
		{"selectors superset", bySelectors(types.SelectorMatch_MATCH_SUPERSET, "t:1", "t:2"), "bce"},
		{"selectors any", bySelectors(types.SelectorMatch_MATCH_ANY, "t:2", "t:3"), "bcde"},
		{"federates exact", byFederation(types.FederatesWithMatch_MATCH_EXACT, "b.example"), "b"},
		{"federates subset", byFederation(types.FederatesWithMatch_MATCH_SUBSET, "b.example", "c.example"), "bcd"},
		{"federates superset", byFederation(types.FederatesWithMatch_MATCH_SUPERSET, "c.example"), "cd"},
		{"federates any", byFederation(types.FederatesWithMatch_MATCH_ANY, "b.example", "c.example"), "bcd"},
		{"by_hint", &listFilter{ByHint: wrapperspb.String("in")}, "b"},
		{"by_hint, the empty one", &listFilter{ByHint: wrapperspb.String("")}, "acd"},
		{"by_downstream", &listFilter{ByDownstream: wrapperspb.Bool(true)}, "d"},
		{"by_downstream, those that are not", &listFilter{ByDownstream: wrapperspb.Bool(false)}, "abce"},
		{"all at once", &listFilter{
			BySpiffeId: id("/y"), ByParentId: one, BySelectors: bySelectors(types.SelectorMatch_MATCH_ANY, "t:1").BySelectors,
			ByFederatesWith: byFederation(types.FederatesWithMatch_MATCH_ANY, "c.example").ByFederatesWith,
			ByHint:          wrapperspb.String(""), ByDownstream: wrapperspb.Bool(false),
		}, "c"},
	}
	for _, wanted := range cases {
		for _, size := range []int32{0, 1, 2, 5} {
			all, pages := s.listAll(ctx, &entryv1.ListEntriesRequest{Filter: wanted.filter, PageSize: size})
			seen := strings.Join(ids(all), "")
			check(fmt.Sprintf("filters: %s, pages of %d", wanted.why, size), seen == wanted.wanted, "%q in %d pages", seen, pages)
		}
		count, err := s.operator.entries.CountEntries(ctx, &entryv1.CountEntriesRequest{Filter: countFilter(wanted.filter)})
		check("filters: counted, "+wanted.why, err == nil && int(count.Count) == len(wanted.wanted), "%v %v", count, err)
	}
	for why, bad := range map[string]*listFilter{
		"no selectors":            bySelectors(types.SelectorMatch_MATCH_EXACT),
		"a selector without type": bySelectors(types.SelectorMatch_MATCH_EXACT, ":x"),
		"an unknown match":        bySelectors(17, "t:1"),
		"no trust domains":        byFederation(types.FederatesWithMatch_MATCH_EXACT),
		"a path that is none":     {BySpiffeId: id("//")},
	} {
		_, err := s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{Filter: bad})
		ends("filters: "+why, err, codes.InvalidArgument)
		_, err = s.operator.entries.CountEntries(ctx, &entryv1.CountEntriesRequest{Filter: countFilter(bad)})
		ends("filters: counted, "+why, err, codes.InvalidArgument)
	}
	pageTokens(ctx, s)
}

// countFilter is the same filter for the other call; both messages have the same fields.
func countFilter(filter *listFilter) *entryv1.CountEntriesRequest_Filter {
	if filter == nil {
		return nil
	}
	other := &entryv1.CountEntriesRequest_Filter{}
	must(0, proto.Unmarshal(must(proto.Marshal(filter)), other))
	return other
}

// listAll reads all pages; says how many there were.
func (s *scene) listAll(ctx context.Context, request *entryv1.ListEntriesRequest) ([]*types.Entry, int) {
	var all []*types.Entry
	for pages := 1; ; pages++ {
		page := must(s.operator.entries.ListEntries(ctx, request))
		all = append(all, page.Entries...)
		if page.NextPageToken == "" {
			return all, pages
		}
		request.PageToken = page.NextPageToken
	}
}

func pageTokens(ctx context.Context, s *scene) {
	first := must(s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{PageSize: 2}))
	check("pages: as many as asked for, and a token", len(first.Entries) == 2 && first.NextPageToken != "", "%v", first)
	// Between two pages the world changes: what was there all the time is listed once.
	extra := newEntry("/x", id("/spire/agent/x509pop/3"), "t:9")
	extra.Id = "aa"
	s.create(ctx, extra)
	s.delete(ctx, "b")
	rest := must(s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{PageToken: first.NextPageToken}))
	same("pages: the next one begins where the last one ended", ids(rest.Entries), []string{"c", "d", "e"})
	same("pages: the last one has no token", rest.NextPageToken, "")
	for why, request := range map[string]*entryv1.ListEntriesRequest{
		"a token that is none":       {PageToken: "no token"},
		"a token of another filter":  {PageToken: first.NextPageToken, Filter: &listFilter{BySpiffeId: id("/x")}},
		"a negative number of items": {PageSize: -1},
	} {
		_, err := s.operator.entries.ListEntries(ctx, request)
		ends("pages: "+why, err, codes.InvalidArgument)
	}
	masked := must(s.operator.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{OutputMask: &types.EntryMask{Hint: true}}))
	bare := !slices.ContainsFunc(masked.Entries, func(entry *types.Entry) bool {
		return entry.Id == "" || entry.SpiffeId != nil || len(entry.Selectors) > 0
	})
	check("pages: with the fields of the mask", bare, "%v", masked.Entries)
	all := ids(masked.Entries)
	check("pages: in one order", sort.StringsAreSorted(all), "%v", all)
}
