package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// sources are two of the library: one as it is by default, one that picks by a hint.
type sources struct {
	byDefault, picked *workloadapi.X509Source
}

func newSources(ctx context.Context, endpoint, hint string) (*sources, error) {
	byDefault, err := workloadapi.NewX509Source(ctx, at(endpoint))
	if err != nil {
		return nil, err
	}
	picker := workloadapi.WithDefaultX509SVIDPicker(func(svids []*x509svid.SVID) *x509svid.SVID {
		if svid := byHint(svids, hint); svid != nil {
			return svid
		}
		return svids[0]
	})
	picked, err := workloadapi.NewX509Source(ctx, at(endpoint), picker)
	if err != nil {
		return nil, err
	}
	return &sources{byDefault, picked}, nil
}

// newStrict makes a source that has an SVID only while there is one with this hint.
func newStrict(ctx context.Context, endpoint, hint string) (*workloadapi.X509Source, error) {
	picker := workloadapi.WithDefaultX509SVIDPicker(func(svids []*x509svid.SVID) *x509svid.SVID {
		return byHint(svids, hint)
	})
	return workloadapi.NewX509Source(ctx, at(endpoint), picker)
}

func at(endpoint string) workloadapi.X509SourceOption {
	return workloadapi.WithClientOptions(workloadapi.WithAddr(endpoint))
}

func byHint(svids []*x509svid.SVID, hint string) *x509svid.SVID {
	for _, svid := range svids {
		if svid.Hint == hint {
			return svid
		}
	}
	return nil
}

// say says what they have now.
func (s *sources) say() {
	line := event{"event": "sources"}
	for name, source := range map[string]*workloadapi.X509Source{"default": s.byDefault, "picked": s.picked} {
		svid, err := source.GetX509SVID()
		if err != nil {
			refused(err)
			return
		}
		line[name] = one(svid, svid.Hint)
	}
	say(line)
}

func (s *sources) reach(told reach) {
	source := s.byDefault
	if told.With == "picked" {
		source = s.picked
	}
	answer, err := get(told.Port, tlsconfig.MTLSClientConfig(
		source, source, tlsconfig.AuthorizeID(spiffeid.RequireFromString(told.Server))))
	if err != nil {
		say(event{"event": "reached", "answer": nil, "error": err.Error()})
		return
	}
	say(event{"event": "reached", "answer": answer})
}

func get(port int, config *tls.Config) (string, error) {
	client := http.Client{
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true},
		Timeout:   20 * time.Second,
	}
	response, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/", port))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s", response.Status)
	}
	return string(body), err
}
