// A workload as its authors would write it in Go: go-spiffe, grpc-go and crypto/tls, nothing of ours.
//
// It speaks the contract of ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// event is one line of output.
type event map[string]any

// command is one line of input; what it does not say is nil.
type command struct {
	Dial    *int   `json:"dial"`
	Pause   *bool  `json:"pause"`
	Report  bool   `json:"report"`
	Fetch   bool   `json:"fetch"`
	Watch   bool   `json:"watch"`
	Raw     *raw   `json:"raw"`
	Call    string `json:"call"`
	Sources string `json:"sources"`
	Strict  string `json:"strict"`
	Reach   *reach `json:"reach"`
}

type raw struct {
	Method string  `json:"method"`
	Header *string `json:"header"`
}

type reach struct {
	Port   int    `json:"port"`
	Server string `json:"server"`
	With   string `json:"with"`
}

var said sync.Mutex

func say(line event) {
	text, err := json.Marshal(line)
	if err != nil {
		panic(err)
	}
	said.Lock()
	defer said.Unlock()
	fmt.Printf("%s\n", text)
}

func main() {
	role, endpoint, uid := os.Args[1], os.Args[2], os.Args[3]
	if err := becomeUser(uid); err != nil {
		fmt.Fprintf(os.Stderr, "cannot become user %s: %v\n", uid, err)
		os.Exit(1)
	}
	ctx := context.Background()
	var carryOut func(command)
	if role == "peer" {
		carryOut = newPeer(ctx, endpoint, strings.Split(os.Args[4], ","))
	} else {
		carryOut = newClient(ctx, endpoint)
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var told command
		if err := json.Unmarshal(lines.Bytes(), &told); err != nil {
			fmt.Fprintf(os.Stderr, "%q: %v\n", lines.Text(), err)
			os.Exit(1)
		}
		carryOut(told)
	}
}

func becomeUser(text string) error {
	uid, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{}); err != nil {
		return err
	}
	if err := syscall.Setgid(uid); err != nil {
		return err
	}
	return syscall.Setuid(uid)
}
