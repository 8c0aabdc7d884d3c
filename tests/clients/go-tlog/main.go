// Reads a log as it is served and exported (C2SP tlog-tiles), with what others wrote: golang.org/x/mod/sumdb for the tree
// and the notes, github.com/transparency-dev/formats for checkpoints, cosignatures and proofs.
//
//	go-tlog -log VKEY [-witness VKEY]... [-proofs FILE] [-bundle FILE]... FOLDER    verifies the log in a folder, or at http://…
//	go-tlog -make SIZE FOLDER                                                       writes one, for others to verify
//
// Prints one line of JSON. Ends with 1, and `error` in it, if anything is not as it has to be.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
)

type keys []string

func (k *keys) String() string { return fmt.Sprint(*k) }

func (k *keys) Set(text string) error {
	*k = append(*k, text)
	return nil
}

// What was verified.
type report struct {
	Origin       string   `json:"origin"`
	Size         int64    `json:"size"`
	Root         string   `json:"root"`
	Cosigned     []signer `json:"cosigned"`
	Entries      int64    `json:"entries"`
	Bundles      int      `json:"bundles"`
	Tiles        int      `json:"tiles"`
	RecordProofs int      `json:"record_proofs"`
	TreeProofs   int      `json:"tree_proofs"`
	TheirProofs  int      `json:"their_proofs"`
	ProofFiles   int      `json:"proof_files"`
	Error        string   `json:"error,omitempty"`
}

type signer struct {
	Name string `json:"name"`
	Time int64  `json:"time"`
}

func main() {
	var witnesses, bundles keys
	logKey := flag.String("log", "", "verifier key of the log")
	flag.Var(&witnesses, "witness", "verifier key of a witness that has to have cosigned")
	proofs := flag.String("proofs", "", "file with proofs that others made, to be verified")
	flag.Var(&bundles, "bundle", "file with a proof that verifies alone")
	size := flag.Int64("make", 0, "write a log of as many entries")
	flag.Parse()
	if flag.NArg() != 1 || (*logKey == "") == (*size == 0) {
		flag.Usage()
		os.Exit(2)
	}
	if *size > 0 {
		keys, err := makeLog(flag.Arg(0), *size)
		if err != nil {
			keys.Error = err.Error()
		}
		end(keys, err)
	}
	var found report
	err := check(&found, flag.Arg(0), *logKey, witnesses, *proofs, bundles)
	if err != nil {
		found.Error = err.Error()
	}
	end(found, err)
}

func end(answer any, failed error) {
	if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil || failed != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func check(found *report, folder, logKey string, witnesses []string, proofs string, bundles []string) error {
	signatures, err := newVerifiers(logKey, witnesses)
	if err != nil {
		return err
	}
	checkpoint, err := read(folder, "checkpoint")
	if err != nil {
		return err
	}
	tree, err := signatures.open(checkpoint, found)
	if err != nil {
		return err
	}
	found.Size, found.Root = tree.N, tree.Hash.String()
	log := &logFolder{path: folder, tree: tree}
	if err := log.check(found); err != nil {
		return err
	}
	if proofs != "" {
		if err := log.checkProofs(proofs, found); err != nil {
			return fmt.Errorf("%s: %w", proofs, err)
		}
	}
	for _, file := range bundles {
		if err := signatures.checkProofFile(file, log, found); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	return nil
}
