package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/tlog"
)

const height = 8

// Of larger logs not each proof is made, but as many as these, evenly spread.
const proofs = 2000

// logFolder is a log in files or served as such, with its checkpoint verified.
type logFolder struct {
	path    string
	tree    tlog.Tree
	entries [][]byte
	cache   map[string][]byte
}

// hashes of the whole tree, in the order in which sumdb stores them.
type hashes []tlog.Hash

func (h hashes) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	found := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(h)) {
			return nil, fmt.Errorf("hash %d of %d", index, len(h))
		}
		found[i] = h[index]
	}
	return found, nil
}

func isURL(place string) bool { return strings.HasPrefix(place, "http://") }

// read gives a file of a log: from a folder, or from where the log is served.
func read(place, file string) ([]byte, error) {
	if !isURL(place) {
		return os.ReadFile(filepath.Join(place, file))
	}
	answer, err := http.Get(place + "/" + file)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", file, answer.Status)
	}
	return body, err
}

// name is that of a tile as C2SP has it: without the height, and `entries` for `data`.
func name(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", height))
	return "tile/" + strings.Replace(path, "data/", "entries/", 1)
}

func (f *logFolder) check(found *report) error {
	all, err := f.recompute(found)
	if err != nil {
		return err
	}
	if err := f.checkTiles(all, found); err != nil {
		return err
	}
	return f.prove(all, found)
}

// recompute reads all entries and computes the tree over them.
func (f *logFolder) recompute(found *report) (hashes, error) {
	var all hashes
	for start := int64(0); start < f.tree.N; start += 1 << height {
		width := int(min(f.tree.N-start, 1<<height))
		tile := tlog.Tile{H: height, L: -1, N: start >> height, W: width}
		rest, err := read(f.path, name(tile))
		if err != nil {
			return nil, err
		}
		for range width {
			if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
				return nil, fmt.Errorf("%s ends early", name(tile))
			}
			end := 2 + int(binary.BigEndian.Uint16(rest))
			entry := rest[2:end]
			stored, err := tlog.StoredHashes(int64(len(f.entries)), entry, all)
			if err != nil {
				return nil, err
			}
			all, rest = append(all, stored...), rest[end:]
			f.entries = append(f.entries, entry)
		}
		if len(rest) != 0 {
			return nil, fmt.Errorf("%s goes on", name(tile))
		}
		found.Bundles++
	}
	found.Entries = int64(len(f.entries))
	root, err := tlog.TreeHash(f.tree.N, all)
	if err != nil {
		return nil, err
	}
	if root != f.tree.Hash {
		return nil, fmt.Errorf("the root of the entries is %v, the checkpoint says %v", root, f.tree.Hash)
	}
	return all, nil
}

// checkTiles compares each tile with what the entries say, and finds files that do not belong there.
func (f *logFolder) checkTiles(all hashes, found *report) error {
	expected := map[string]bool{}
	for start := int64(0); start < f.tree.N; start += 1 << height {
		width := int(min(f.tree.N-start, 1<<height))
		expected[name(tlog.Tile{H: height, L: -1, N: start >> height, W: width})] = true
	}
	for _, tile := range tlog.NewTiles(height, 0, f.tree.N) {
		stored, err := read(f.path, name(tile))
		if err != nil {
			return err
		}
		computed, err := tlog.ReadTileData(tile, all)
		if err != nil {
			return err
		}
		if !bytes.Equal(stored, computed) {
			return fmt.Errorf("%s is not what follows from the entries", name(tile))
		}
		expected[name(tile)] = true
		found.Tiles++
	}
	if isURL(f.path) {
		return nil
	}
	return filepath.WalkDir(filepath.Join(f.path, "tile"), func(path string, entry fs.DirEntry, err error) error {
		if os.IsNotExist(err) && f.tree.N == 0 {
			return nil
		}
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(f.path, path)
		if err == nil && !expected[relative] {
			err = fmt.Errorf("%s does not belong to the tree", relative)
		}
		return err
	})
}

// Height, ReadTiles and SaveTiles make it a tlog.TileReader.
func (f *logFolder) Height() int { return height }

func (f *logFolder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	if f.cache == nil {
		f.cache = map[string][]byte{}
	}
	found := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := name(tile)
		if f.cache[path] == nil {
			data, err := read(f.path, path)
			if err != nil {
				return nil, err
			}
			f.cache[path] = data
		}
		found[i] = f.cache[path]
	}
	return found, nil
}

func (f *logFolder) SaveTiles([]tlog.Tile, [][]byte) {}

// prove makes proofs out of the tiles, as a client would, and verifies them.
func (f *logFolder) prove(all hashes, found *report) error {
	tiles := tlog.TileHashReader(f.tree, f)
	step := max(1, f.tree.N/proofs)
	for index := int64(0); index < f.tree.N; index += step {
		proof, err := tlog.ProveRecord(f.tree.N, index, tiles)
		if err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, f.tree.N, f.tree.Hash, index, tlog.RecordHash(f.entries[index])); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		found.RecordProofs++
	}
	for size := int64(1); size <= f.tree.N; size += step {
		proof, err := tlog.ProveTree(f.tree.N, size, tiles)
		if err != nil {
			return fmt.Errorf("size %d: %w", size, err)
		}
		root, err := tlog.TreeHash(size, all)
		if err != nil {
			return err
		}
		if err := tlog.CheckTree(proof, f.tree.N, f.tree.Hash, size, root); err != nil {
			return fmt.Errorf("size %d: %w", size, err)
		}
		found.TreeProofs++
	}
	return nil
}

// A proof that others made: of the entry at Index in the tree of Size, or that the tree of Size begins with that of From.
type theirs struct {
	Index  *int64   `json:"index"`
	From   *int64   `json:"from"`
	Size   int64    `json:"size"`
	Root   string   `json:"root"`
	Hashes []string `json:"hashes"`
}

func (f *logFolder) checkProofs(file string, found *report) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var all []theirs
	if err := json.Unmarshal(text, &all); err != nil {
		return err
	}
	tiles := tlog.TileHashReader(f.tree, f)
	for _, proof := range all {
		hashes := make([]tlog.Hash, len(proof.Hashes))
		for i, hash := range proof.Hashes {
			bytes, err := base64.StdEncoding.DecodeString(hash)
			if err != nil || copy(hashes[i][:], bytes) != tlog.HashSize {
				return fmt.Errorf("not a hash: %s", hash)
			}
		}
		root, err := tlog.TreeHash(proof.Size, tiles)
		if err != nil {
			return err
		}
		if root.String() != proof.Root {
			return fmt.Errorf("the root over %d entries is %v, not %s", proof.Size, root, proof.Root)
		}
		switch {
		case proof.Index != nil:
			leaf := tlog.RecordHash(f.entries[*proof.Index])
			err = tlog.CheckRecord(hashes, proof.Size, root, *proof.Index, leaf)
		case proof.From != nil:
			var from tlog.Hash
			if from, err = tlog.TreeHash(*proof.From, tiles); err == nil {
				err = tlog.CheckTree(hashes, proof.Size, root, *proof.From, from)
			}
		default:
			err = fmt.Errorf("neither index nor from")
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", proof, err)
		}
		found.TheirProofs++
	}
	return nil
}
