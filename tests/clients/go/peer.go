package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const (
	handshakeDeadline = 20 * time.Second
	betweenHandshakes = 20 * time.Millisecond
)

type peer struct {
	server, client                          *tls.Config
	dialed, dialFailed, served, serveFailed atomic.Uint64
	paused                                  atomic.Bool
	mutex                                   sync.Mutex
	ports                                   map[string]uint64
}

func newPeer(ctx context.Context, endpoint string, ids []string) func(command) {
	var allowed []spiffeid.ID
	for _, id := range ids {
		allowed = append(allowed, spiffeid.RequireFromString(id))
	}
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(endpoint)))
	if err != nil {
		say(event{"event": "no_source", "error": err.Error()})
		os.Exit(0)
	}
	p := &peer{
		ports:  map[string]uint64{},
		server: tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeOneOf(allowed...)),
		client: tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeOneOf(allowed...)),
	}
	// A resumed session would not show the new certificate. Go's clients resume only with a cache, and have none here.
	p.server.SessionTicketsDisabled = true
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	say(event{"event": "listening", "port": listener.Addr().(*net.TCPAddr).Port})
	go tellSVIDs(source)
	go p.serve(listener)
	return p.carryOut
}

func (p *peer) carryOut(told command) {
	if told.Dial != nil {
		go p.dial(*told.Dial)
	}
	if told.Pause != nil {
		p.paused.Store(*told.Pause)
	}
	if told.Report {
		p.mutex.Lock()
		defer p.mutex.Unlock()
		say(event{
			"event":  "report",
			"dialed": p.dialed.Load(), "dial_failed": p.dialFailed.Load(),
			"served": p.served.Load(), "serve_failed": p.serveFailed.Load(),
			"ports": p.ports,
		})
	}
}

// tellSVIDs says each SVID that the source has.
func tellSVIDs(source *workloadapi.X509Source) {
	last := ""
	for {
		if svid, err := source.GetX509SVID(); err == nil {
			if serial := svid.Certificates[0].SerialNumber.Text(16); serial != last {
				say(event{"event": "svid", "spiffe_id": svid.ID.String(), "serial": serial})
				last = serial
			}
		}
		<-source.Updated()
	}
}

func (p *peer) serve(listener net.Listener) {
	for {
		tcp, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			account(answer(tls.Server(tcp, p.server)), "serve", &p.served, &p.serveFailed)
		}()
	}
}

func (p *peer) dial(port int) {
	for {
		if !p.paused.Load() {
			err := p.ask(port)
			account(err, "dial", &p.dialed, &p.dialFailed)
			if err == nil {
				p.mutex.Lock()
				p.ports[strconv.Itoa(port)]++
				p.mutex.Unlock()
			}
		}
		time.Sleep(betweenHandshakes)
	}
}

func answer(conn *tls.Conn) error {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(handshakeDeadline))
	if err := expect(conn, "ping"); err != nil {
		return err
	}
	_, err := io.WriteString(conn, "pong")
	return err
}

func (p *peer) ask(port int) error {
	dialer := net.Dialer{Timeout: handshakeDeadline}
	tcp, err := dialer.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	conn := tls.Client(tcp, p.client)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(handshakeDeadline))
	if _, err := io.WriteString(conn, "ping"); err != nil {
		return err
	}
	// In TLS 1.3 the client hears only here whether the server has accepted it.
	return expect(conn, "pong")
}

func expect(conn *tls.Conn, wanted string) error {
	got := make([]byte, len(wanted))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if conn.ConnectionState().DidResume {
		return errors.New("a session was resumed")
	}
	if string(got) != wanted {
		return fmt.Errorf("not %q but %q", wanted, got)
	}
	return nil
}

func account(err error, role string, good, bad *atomic.Uint64) {
	if err == nil {
		good.Add(1)
		return
	}
	bad.Add(1)
	say(event{"event": "failed", "role": role, "error": err.Error()})
}
