package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/transparency-dev/formats/log"
	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// verifiers are the keys of the log and of the witnesses, each of which has to have signed.
type verifiers struct {
	log       note.Verifier
	witnesses []note.Verifier
}

func newVerifiers(logKey string, witnesses []string) (*verifiers, error) {
	key, err := note.NewVerifier(logKey)
	if err != nil {
		return nil, fmt.Errorf("key of the log: %w", err)
	}
	all := &verifiers{log: key}
	for _, text := range witnesses {
		key, err := formats.NewVerifierForCosignatureV1(text)
		if err != nil {
			return nil, fmt.Errorf("key of a witness: %w", err)
		}
		all.witnesses = append(all.witnesses, key)
	}
	return all, nil
}

// open verifies a checkpoint with both libraries, and that the log and all witnesses signed it.
func (v *verifiers) open(text []byte, found *report) (tlog.Tree, error) {
	var none tlog.Tree
	plain, err := note.Open(text, note.VerifierList(v.log))
	if err != nil {
		return none, fmt.Errorf("sumdb/note: %w", err)
	}
	checkpoint, rest, full, err := log.ParseCheckpoint(text, v.log.Name(), v.log, v.witnesses...)
	if err != nil {
		return none, fmt.Errorf("formats/log: %w", err)
	}
	if len(rest) != 0 || full.Text != plain.Text {
		return none, fmt.Errorf("the checkpoint has lines after the root")
	}
	if len(full.Sigs) != 1+len(v.witnesses) || len(full.UnverifiedSigs) != 0 {
		return none, fmt.Errorf("%d signatures of known keys, %d of others", len(full.Sigs), len(full.UnverifiedSigs))
	}
	found.Origin, found.Cosigned = checkpoint.Origin, []signer{}
	for _, signature := range full.Sigs {
		if signature.Name == v.log.Name() && signature.Hash == v.log.KeyHash() {
			continue
		}
		at, err := formats.CoSigV1Timestamp(signature)
		if err != nil {
			return none, err
		}
		found.Cosigned = append(found.Cosigned, signer{signature.Name, at.Unix()})
	}
	tree := tlog.Tree{N: int64(checkpoint.Size)}
	if copy(tree.Hash[:], checkpoint.Hash) != tlog.HashSize {
		return none, fmt.Errorf("a root of %d bytes", len(checkpoint.Hash))
	}
	return tree, nil
}

// checkProofFile verifies a proof that carries its entry, against nothing but the keys; then that the entry is the one of
// the folder.
func (v *verifiers) checkProofFile(file string, folder *logFolder, found *report) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var read proof.TLogProof
	if err := read.Unmarshal(text); err != nil {
		return err
	}
	if again := read.Marshal(); !bytes.Equal(again, text) {
		return fmt.Errorf("written by the library it is another text")
	}
	var ignored report
	tree, err := v.open(read.Checkpoint, &ignored)
	if err != nil {
		return err
	}
	hashes := make(tlog.RecordProof, len(read.Hashes))
	for i, hash := range read.Hashes {
		hashes[i] = hash
	}
	index := int64(read.Index)
	if err := tlog.CheckRecord(hashes, tree.N, tree.Hash, index, tlog.RecordHash(read.ExtraData)); err != nil {
		return err
	}
	if index >= int64(len(folder.entries)) || !bytes.Equal(folder.entries[index], read.ExtraData) {
		return fmt.Errorf("entry %d is another one in the folder", index)
	}
	found.ProofFiles++
	return nil
}
