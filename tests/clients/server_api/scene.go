package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	bundlev1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/bundle/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	svidv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/svid/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

const trustDomain = "example.org"

// scene is one server, and who calls it.
type scene struct {
	address string
	roots   *x509bundle.Bundle
	// Whoever runs this, on the local socket.
	local *caller
	// An administrator: the same, or one who comes over TCP with an SVID.
	operator *caller
	conns    []*grpc.ClientConn
}

// caller is one connection, with all services of it.
type caller struct {
	conn    *grpc.ClientConn
	agents  agentv1.AgentClient
	bundles bundlev1.BundleClient
	entries entryv1.EntryClient
	svids   svidv1.SVIDClient
}

// attested is an agent with the SVID that it uses.
type attested struct {
	*caller
	id   *types.SPIFFEID
	svid *x509svid.SVID
}

func openScene(ctx context.Context, socket, address string) *scene {
	scene := &scene{address: address}
	conn := must(grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())))
	scene.local = scene.over(conn)
	scene.roots = scene.fetchRoots(ctx)
	scene.operator = scene.local
	if *remote {
		csr, key := newCSR("spiffe://" + trustDomain + "/operator")
		minted := must(scene.local.svids.MintX509SVID(ctx, &svidv1.MintX509SVIDRequest{Csr: csr}))
		scene.operator = scene.as(asSVID(minted.Svid, key))
	}
	return scene
}

func (s *scene) close() {
	for _, conn := range s.conns {
		_ = conn.Close()
	}
}

func (s *scene) over(conn *grpc.ClientConn) *caller {
	s.conns = append(s.conns, conn)
	return &caller{
		conn:    conn,
		agents:  agentv1.NewAgentClient(conn),
		bundles: bundlev1.NewBundleClient(conn),
		entries: entryv1.NewEntryClient(conn),
		svids:   svidv1.NewSVIDClient(conn),
	}
}

func (s *scene) fetchRoots(ctx context.Context) *x509bundle.Bundle {
	wire := must(s.local.bundles.GetBundle(ctx, &bundlev1.GetBundleRequest{}))
	roots := x509bundle.New(spiffeid.RequireTrustDomainFromString(wire.TrustDomain))
	for _, authority := range wire.X509Authorities {
		roots.AddX509Authority(must(x509.ParseCertificate(authority.Asn1)))
	}
	return roots
}

func serverID() tlsconfig.Authorizer {
	return tlsconfig.AuthorizeID(spiffeid.RequireFromString("spiffe://" + trustDomain + "/spire/server"))
}

func (s *scene) dial(config *tls.Config) *caller {
	return s.over(must(grpc.NewClient(s.address, grpc.WithTransportCredentials(credentials.NewTLS(config)))))
}

// anonymous is a caller over TCP that shows no certificate.
func (s *scene) anonymous() *caller {
	return s.dial(tlsconfig.TLSClientConfig(s.roots, serverID()))
}

// as is a caller over TCP that shows an SVID.
func (s *scene) as(svid *x509svid.SVID) *caller {
	return s.dial(tlsconfig.MTLSClientConfig(svid, s.roots, serverID()))
}

// newCSR is what spire-agent sends: ECDSA P-256 with SHA-256, and names only where the server is asked to mint.
func newCSR(uris ...string) ([]byte, *ecdsa.PrivateKey) {
	return newCSRWith(&x509.CertificateRequest{
		Subject: pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
	}, uris...)
}

func newCSRWith(template *x509.CertificateRequest, uris ...string) ([]byte, *ecdsa.PrivateKey) {
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template.SignatureAlgorithm = x509.ECDSAWithSHA256
	for _, uri := range uris {
		template.URIs = append(template.URIs, must(url.Parse(uri)))
	}
	return must(x509.CreateCertificateRequest(rand.Reader, template, key)), key
}

// asSVID reads an SVID of the wire as its user does: chain, key and lifetime have to fit.
func asSVID(wire *types.X509SVID, key *ecdsa.PrivateKey) *x509svid.SVID {
	var chain []byte
	for _, certificate := range wire.CertChain {
		chain = append(chain, certificate...)
	}
	return must(x509svid.ParseRaw(chain, must(x509.MarshalPKCS8PrivateKey(key))))
}

// attest is the stream of AttestAgent with one message, until the first answer.
func (c *caller) attest(ctx context.Context, kind string, payload, csr []byte) (*agentv1.AttestAgentResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	stream, err := c.agents.AttestAgent(ctx)
	if err != nil {
		return nil, err
	}
	// An error of sending is only that the stream ended; why is what receiving says.
	_ = stream.Send(attestParams(kind, payload, csr))
	return stream.Recv()
}

func attestParams(kind string, payload, csr []byte) *agentv1.AttestAgentRequest {
	return &agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_Params_{
		Params: &agentv1.AttestAgentRequest_Params{
			Data:   &types.AttestationData{Type: kind, Payload: payload},
			Params: &agentv1.AgentX509SVIDParams{Csr: csr},
		},
	}}
}

// join attests a new agent by a join token and connects as it.
func (s *scene) join(ctx context.Context) *attested {
	token := must(s.operator.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: 600}))
	csr, key := newCSR()
	answer := must(s.anonymous().attest(ctx, "join_token", []byte(token.Value), csr))
	result := answer.GetResult().GetSvid()
	svid := asSVID(result, key)
	return &attested{caller: s.as(svid), id: result.Id, svid: svid}
}

// holder gives a workload of agent the SVID of a new entry and connects as it.
func (s *scene) holder(ctx context.Context, agent *attested, path string, change func(*types.Entry)) *caller {
	entry := newEntry(path, agent.id, "unix:uid:7", "test:"+path)
	if change != nil {
		change(entry)
	}
	created := s.create(ctx, entry)
	csr, key := newCSR()
	answer := must(agent.svids.BatchNewX509SVID(ctx, &svidv1.BatchNewX509SVIDRequest{
		Params: []*svidv1.NewX509SVIDParams{{EntryId: created.Id, Csr: csr}},
	}))
	return s.as(asSVID(answer.Results[0].Svid, key))
}
