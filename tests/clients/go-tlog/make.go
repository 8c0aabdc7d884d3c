package main

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// What was made: the keys that verify it.
type made struct {
	Log     string `json:"log"`
	Witness string `json:"witness"`
	Error   string `json:"error,omitempty"`
}

// makeLog writes a log of `size` entries with a cosigned checkpoint and a proof of its last entry.
func makeLog(folder string, size int64) (made, error) {
	const origin = "go.example/log"
	var keys made
	logSecret, logKey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		return keys, err
	}
	logSigner, err := note.NewSigner(logSecret)
	if err != nil {
		return keys, err
	}
	witnessSecret, witnessKey, err := note.GenerateKey(rand.Reader, "go.example/witness")
	if err != nil {
		return keys, err
	}
	witness, err := formats.NewSignerForCosignatureV1(witnessSecret)
	if err != nil {
		return keys, err
	}
	if witnessKey, err = formats.VKeyToCosignatureV1(witnessKey); err != nil {
		return keys, err
	}
	keys = made{Log: logKey, Witness: witnessKey}

	var all hashes
	files := map[string][]byte{}
	entry := func(index int64) []byte { return fmt.Appendf(nil, "entry %d of a log made by Go", index) }
	for index := range size {
		stored, err := tlog.StoredHashes(index, entry(index), all)
		if err != nil {
			return keys, err
		}
		all = append(all, stored...)
		width := int(min(size-index>>height<<height, 1<<height))
		bundle := name(tlog.Tile{H: height, L: -1, N: index >> height, W: width})
		files[bundle] = binary.BigEndian.AppendUint16(files[bundle], uint16(len(entry(index))))
		files[bundle] = append(files[bundle], entry(index)...)
	}
	for _, tile := range tlog.NewTiles(height, 0, size) {
		if files[name(tile)], err = tlog.ReadTileData(tile, all); err != nil {
			return keys, err
		}
	}
	root, err := tlog.TreeHash(size, all)
	if err != nil {
		return keys, err
	}
	text := log.Checkpoint{Origin: origin, Size: uint64(size), Hash: root[:]}.Marshal()
	checkpoint, err := note.Sign(&note.Note{Text: string(text)}, logSigner, witness)
	if err != nil {
		return keys, err
	}
	files["checkpoint"] = checkpoint
	record, err := tlog.ProveRecord(size, size-1, all)
	if err != nil {
		return keys, err
	}
	last := proof.TLogProof{Index: uint64(size - 1), Checkpoint: checkpoint, ExtraData: entry(size - 1)}
	for _, hash := range record {
		last.Hashes = append(last.Hashes, hash)
	}
	files["last.tlog-proof"] = last.Marshal()
	for file, bytes := range files {
		path := filepath.Join(folder, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return keys, err
		}
		if err := os.WriteFile(path, bytes, 0o644); err != nil {
			return keys, err
		}
	}
	return keys, nil
}
