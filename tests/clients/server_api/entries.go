package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// entries is their life: made, twins refused, changed by mask, removed.
func entries(ctx context.Context, s *scene) {
	whole := wholeEntry(ctx, s)
	before := time.Now().Unix()
	made := s.create(ctx, whole)
	check("create: the server makes an ID", made.Id != "", "%q", made.Id)
	check("create: created_at is now", made.CreatedAt >= before-1 && made.CreatedAt <= time.Now().Unix()+1, "%d", made.CreatedAt)
	wanted := proto.Clone(whole).(*types.Entry)
	wanted.Id, wanted.CreatedAt, wanted.RevisionNumber = made.Id, made.CreatedAt, made.RevisionNumber
	same("create: all else comes back as it was stated", made, wanted)
	same("get: the same", must(s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: made.Id})), wanted)
	_, err := s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: "no-such-entry"})
	ends("get: what is not there", err, codes.NotFound)

	outputMasks(ctx, s, made)
	creations(ctx, s, made)
	updates(ctx, s, made)
	deletions(ctx, s)
}

// wholeEntry has something in every field that an operator may state.
func wholeEntry(ctx context.Context, s *scene) *types.Entry {
	s.setBundle(ctx, "other.example")
	// Selectors are a set; the server gives them in order, whatever the order was.
	whole := newEntry("/whole", id("/spire/agent/x509pop/a"), "k8s:ns:a:b", "unix:uid:1")
	whole.X509SvidTtl, whole.JwtSvidTtl = 600, 300
	whole.FederatesWith = []string{"other.example"}
	whole.Admin, whole.Downstream, whole.StoreSvid = true, true, true
	whole.ExpiresAt = time.Now().Add(time.Hour).Unix()
	whole.DnsNames = []string{"b.example", "a.example"}
	whole.Hint = "internal"
	whole.AdditionalAttributes = &types.Entry_AdditionalAttributes{DisableX509SvidPrefetch: true, JwtSvidIncludeJti: true}
	return whole
}

// outputMasks reads one entry with each bit of the mask alone.
func outputMasks(ctx context.Context, s *scene, entry *types.Entry) {
	fields := (&types.EntryMask{}).ProtoReflect().Descriptor().Fields()
	for n := range fields.Len() {
		mask := &types.EntryMask{}
		bit := fields.Get(n)
		mask.ProtoReflect().Set(bit, mask.ProtoReflect().NewField(bit))
		wanted := &types.Entry{Id: entry.Id}
		field := wanted.ProtoReflect().Descriptor().Fields().ByName(bit.Name())
		mask.ProtoReflect().Set(bit, trueValue)
		if entry.ProtoReflect().Has(field) {
			wanted.ProtoReflect().Set(field, entry.ProtoReflect().Get(field))
		}
		seen := must(s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: entry.Id, OutputMask: mask}))
		same("mask: "+string(bit.Name()), seen, wanted)
	}
	none := must(s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: entry.Id, OutputMask: &types.EntryMask{}}))
	same("mask: an empty one leaves the ID", none, &types.Entry{Id: entry.Id})
}

func creations(ctx context.Context, s *scene, made *types.Entry) {
	twin := newEntry(made.SpiffeId.Path, made.ParentId, "unix:uid:1", "k8s:ns:a:b")
	parent := made.ParentId
	bad := func(change func(*types.Entry)) *types.Entry {
		entry := newEntry("/bad", parent, "unix:uid:1")
		change(entry)
		return entry
	}
	chosen := newEntry("/chosen", parent, "unix:uid:2")
	chosen.Id = "chosen-by-operator.1"
	sameID := newEntry("/other", parent, "unix:uid:3")
	sameID.Id = chosen.Id
	cases := []struct {
		why   string
		entry *types.Entry
		code  codes.Code
	}{
		{"similar to one that is there", twin, codes.AlreadyExists},
		{"with a chosen ID", chosen, codes.OK},
		{"with an ID that is there", sameID, codes.AlreadyExists},
		{"similar to one of the same batch", newEntry("/chosen", parent, "unix:uid:2"), codes.AlreadyExists},
		{"with fewer selectors than the similar one", newEntry("/whole", parent, "unix:uid:1"), codes.OK},
		{"no spiffe_id", bad(func(e *types.Entry) { e.SpiffeId = nil }), codes.InvalidArgument},
		{"no parent_id", bad(func(e *types.Entry) { e.ParentId = nil }), codes.InvalidArgument},
		{"no selectors", bad(func(e *types.Entry) { e.Selectors = nil }), codes.InvalidArgument},
		{"a selector without a value", bad(func(e *types.Entry) { e.Selectors[0].Value = "" }), codes.InvalidArgument},
		{"a selector type with a colon", bad(func(e *types.Entry) { e.Selectors[0].Type = "a:b" }), codes.InvalidArgument},
		{"another trust domain", bad(func(e *types.Entry) { e.SpiffeId.TrustDomain = "other.example" }), codes.InvalidArgument},
		{"a path with dots", bad(func(e *types.Entry) { e.SpiffeId.Path = "/a/../b" }), codes.InvalidArgument},
		{"the server's ID", bad(func(e *types.Entry) { e.SpiffeId.Path = "/spire/server" }), codes.InvalidArgument},
		{"a negative lifetime", bad(func(e *types.Entry) { e.X509SvidTtl = -1 }), codes.InvalidArgument},
		{"a name that is no DNS name", bad(func(e *types.Entry) { e.DnsNames = []string{"a b"} }), codes.InvalidArgument},
		{"a hint of 1025", bad(func(e *types.Entry) { e.Hint = strings.Repeat("x", 1025) }), codes.InvalidArgument},
		{"a bundle that is not there", bad(func(e *types.Entry) { e.FederatesWith = []string{"no.example"} }), codes.InvalidArgument},
		{"a node alias", newEntry("/nodes", id("/spire/server"), "x509pop:subject:cn:a"), codes.OK},
	}
	request := &entryv1.BatchCreateEntryRequest{}
	for _, item := range cases {
		request.Entries = append(request.Entries, item.entry)
	}
	answer := must(s.operator.entries.BatchCreateEntry(ctx, request))
	if !check("create: one result for each, in order", len(answer.Results) == len(cases), "%d", len(answer.Results)) {
		return
	}
	for n, wanted := range cases {
		item("create: "+wanted.why, answer.Results[n].Status, wanted.code)
	}
	same("create: AlreadyExists has the entry that is there", answer.Results[0].Entry, made)
	same("create: AlreadyExists by ID as well", answer.Results[2].Entry.GetSpiffeId(), chosen.SpiffeId)
	same("create: AlreadyExists within the batch as well", answer.Results[3].Entry.GetId(), chosen.Id)
	check("create: what is refused has no entry", answer.Results[5].Entry == nil, "%v", answer.Results[5].Entry)
	masked := must(s.operator.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{
		Entries: []*types.Entry{twin}, OutputMask: &types.EntryMask{Hint: true},
	}))
	same("create: the mask counts for what is there, too", masked.Results[0].Entry, &types.Entry{Id: made.Id, Hint: made.Hint})
	tooMany := make([]*types.Entry, 1001)
	for n := range tooMany {
		tooMany[n] = newEntry(fmt.Sprintf("/many/%d", n), parent, "unix:uid:1")
	}
	_, err := s.operator.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: tooMany})
	ends("create: 1001 are too many", err, codes.InvalidArgument)
}

// updates changes each field alone, by the mask, and checks that nothing else changed.
func updates(ctx context.Context, s *scene, entry *types.Entry) {
	news := &types.Entry{
		SpiffeId: id("/changed"), ParentId: id("/spire/agent/x509pop/b"), Selectors: selectors("unix:uid:9"), X509SvidTtl: 900,
		JwtSvidTtl: 60, FederatesWith: nil, Admin: false, Downstream: false, ExpiresAt: entry.ExpiresAt + 60,
		DnsNames: []string{"c.example"}, StoreSvid: false, Hint: "external", AdditionalAttributes: nil,
	}
	now := proto.Clone(entry).(*types.Entry)
	fields := (&types.EntryMask{}).ProtoReflect().Descriptor().Fields()
	for n := range fields.Len() {
		bit := fields.Get(n)
		if bit.Name() == "revision_number" || bit.Name() == "created_at" {
			continue
		}
		mask := &types.EntryMask{}
		mask.ProtoReflect().Set(bit, trueValue)
		field := now.ProtoReflect().Descriptor().Fields().ByName(bit.Name())
		stated := proto.Clone(news).(*types.Entry)
		stated.Id = entry.Id
		if news.ProtoReflect().Has(field) {
			now.ProtoReflect().Set(field, news.ProtoReflect().Get(field))
		} else {
			now.ProtoReflect().Clear(field)
		}
		before := now.RevisionNumber
		seen := s.update(ctx, stated, mask)
		check("update: the revision number rises with "+string(bit.Name()), seen.RevisionNumber > before, "%d, before %d",
			seen.RevisionNumber, before)
		now.RevisionNumber = seen.RevisionNumber
		same("update: "+string(bit.Name())+" and nothing else", seen, now)
	}
	back := proto.Clone(entry).(*types.Entry)
	seen := s.update(ctx, back, nil)
	check("update: without a mask all is replaced", seen.RevisionNumber > now.RevisionNumber && seen.CreatedAt == entry.CreatedAt,
		"%d %d", seen.RevisionNumber, seen.CreatedAt)
	back.RevisionNumber = seen.RevisionNumber
	same("update: without a mask", seen, back)

	other := s.create(ctx, newEntry("/update/other", entry.ParentId, "unix:uid:1"))
	like := newEntry("/update/other", entry.ParentId, "unix:uid:1")
	like.Id = entry.Id
	answer := must(s.operator.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries: []*types.Entry{
			{Id: "no-such-entry", Hint: "x"}, {Hint: "x"}, {Id: other.Id, Hint: "fine"}, {Id: other.Id, Hint: "a\nb"},
		},
		InputMask:  &types.EntryMask{Hint: true},
		OutputMask: &types.EntryMask{Hint: true},
	}))
	item("update: what is not there", answer.Results[0].Status, codes.NotFound)
	item("update: without an ID", answer.Results[1].Status, codes.InvalidArgument)
	item("update: beside others that fail", answer.Results[2].Status, codes.OK)
	same("update: by the output mask", answer.Results[2].Entry, &types.Entry{Id: other.Id, Hint: "fine"})
	item("update: to what is no hint", answer.Results[3].Status, codes.InvalidArgument)
	answer = must(s.operator.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{
		Entries: []*types.Entry{like}, InputMask: &types.EntryMask{SpiffeId: true, ParentId: true, Selectors: true},
	}))
	item("update: to what is there already", answer.Results[0].Status, codes.AlreadyExists)
}

func deletions(ctx context.Context, s *scene) {
	entry := s.create(ctx, newEntry("/delete", id("/spire/agent/x509pop/a"), "unix:uid:1"))
	answer := must(s.operator.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{
		Ids: []string{"no-such-entry", entry.Id, "", entry.Id},
	}))
	for n, code := range []codes.Code{codes.NotFound, codes.OK, codes.InvalidArgument, codes.NotFound} {
		item(fmt.Sprintf("delete: result %d", n), answer.Results[n].Status, code)
	}
	same("delete: results name the IDs", answer.Results[1].Id, entry.Id)
	_, err := s.operator.entries.GetEntry(ctx, &entryv1.GetEntryRequest{Id: entry.Id})
	ends("delete: it is gone", err, codes.NotFound)
}
