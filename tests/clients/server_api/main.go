// The server's API by the client that others use for it: spire-api-sdk, grpc-go and go-spiffe, as spire-agent, the
// spire-server CLI and spire-controller-manager call it.
//
// Prints one line of JSON for each check: {"event": "check", "row": …, "ok": …, "seen": …}; figures are
// {"event": "figure", "name": …, "value": …}; the last line is {"event": "done"}. A section that cannot go on says so in
// a check that fails.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"
)

// What one run does. Each section wants a server of its own that has no entries yet.
var sections = map[string]func(context.Context, *scene){
	"descriptors": descriptors,
	"matrix":      matrix,
	"attest":      attestations,
	"expiry":      expiry,
	"x509pop":     x509pop,
	"svids":       svids,
	"sync":        syncing,
	"entries":     entries,
	"filters":     filters,
	"agents":      agents,
	"bundles":     bundles,
	"operate":     operate,
	"controller":  controller,
	"answers":     answers,
	"many":        many,
}

// Options that only some sections look at.
var (
	remote          = flag.Bool("remote", false, "operate over TCP as spiffe://example.org/operator, who is to be in admin_ids")
	nodeCertificate = flag.String("node-certificate", "", "PEM file of a node, for x509pop")
	nodeKey         = flag.String("node-key", "", "PEM file with its key")
	authorizedCount = flag.Int("authorized", 2000, "entries of one agent, for many")
	listedCount     = flag.Int("listed", 5000, "entries in all, for many")
)

func main() {
	socket := flag.String("socket", "", "the server's Unix socket")
	address := flag.String("address", "", "host and port of its TCP side")
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	for _, name := range flag.Args() {
		section, known := sections[name]
		if !known {
			fmt.Fprintf(os.Stderr, "no section %q; there are %s\n", name, strings.Join(names(sections), ", "))
			os.Exit(2)
		}
		run(ctx, name, *socket, *address, section)
	}
	say(map[string]any{"event": "done"})
}

func run(ctx context.Context, name, socket, address string, section func(context.Context, *scene)) {
	defer func() {
		if reason := recover(); reason != nil {
			check(name+" came to its end", false, "%v", reason)
		}
	}()
	scene := openScene(ctx, socket, address)
	defer scene.close()
	section(ctx, scene)
}

func names[T any](of map[string]T) []string {
	var all []string
	for name := range of {
		all = append(all, name)
	}
	sort.Strings(all)
	return all
}
