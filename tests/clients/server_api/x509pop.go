package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"os"

	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

type certificatesPayload struct {
	Certificates [][]byte `json:"certificates"`
}

type challengeForNode struct {
	ECDSA *struct {
		Nonce []byte `json:"nonce"`
	} `json:"ecdsa_signature"`
}

type answerOfNode struct {
	ECDSA signatureOfNode `json:"ecdsa_signature"`
}

type signatureOfNode struct {
	Nonce []byte `json:"nonce"`
	R     []byte `json:"r"`
	S     []byte `json:"s"`
}

// x509pop is an agent on a node with a certificate; it wants a server that trusts who signed it.
func x509pop(ctx context.Context, s *scene) {
	leaf, key := readNode()
	fingerprint := sha1.Sum(leaf.Raw)
	wanted := id("/spire/agent/x509pop/" + hex.EncodeToString(fingerprint[:]))

	first, err := s.attestNode(ctx, leaf, key, nil)
	ends("x509pop: attests", err, codes.OK)
	same("x509pop: the ID is the certificate's SHA-1", first.id, wanted)
	known := must(s.operator.agents.GetAgent(ctx, &agentv1.GetAgentRequest{Id: wanted}))
	same("x509pop: the attestor", known.AttestationType, "x509pop")
	same("x509pop: may attest again", known.CanReattest, true)
	found := map[string]bool{}
	for _, selector := range known.Selectors {
		found[selector.Type+":"+selector.Value] = true
	}
	check("x509pop: the common name is a selector", found["x509pop:subject:cn:"+leaf.Subject.CommonName], "%v", found)

	csr, _ := newCSR()
	_, err = first.agents.RenewAgent(ctx, &agentv1.RenewAgentRequest{Params: &agentv1.AgentX509SVIDParams{Csr: csr}})
	refused("x509pop: who can attest again does not renew", err, types.PermissionDeniedDetails_AGENT_MUST_REATTEST)

	again, err := s.attestNode(ctx, leaf, key, nil)
	ends("x509pop: attests again", err, codes.OK)
	_, err = again.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	ends("x509pop: the new SVID is good", err, codes.OK)
	_, err = first.agents.PostStatus(ctx, &agentv1.PostStatusRequest{})
	refused("x509pop: the SVID before is not", err, types.PermissionDeniedDetails_AGENT_NOT_ACTIVE)

	_, err = s.attestNode(ctx, leaf, key, func(answer *answerOfNode) { answer.ECDSA.S[0] ^= 1 })
	ends("x509pop: a wrong signature", err, codes.PermissionDenied)
	_, err = s.attestNode(ctx, leaf, key, func(answer *answerOfNode) { answer.ECDSA.Nonce = nil })
	ends("x509pop: without a nonce of its own", err, codes.InvalidArgument)

	must(s.operator.agents.BanAgent(ctx, &agentv1.BanAgentRequest{Id: wanted}))
	_, err = s.attestNode(ctx, leaf, key, nil)
	refused("x509pop: the banned do not attest", err, types.PermissionDeniedDetails_AGENT_BANNED)
	must(s.operator.agents.DeleteAgent(ctx, &agentv1.DeleteAgentRequest{Id: wanted}))
	_, err = s.attestNode(ctx, leaf, key, nil)
	ends("x509pop: the evicted may attest anew", err, codes.OK)
}

func readNode() (*x509.Certificate, *ecdsa.PrivateKey) {
	certificate, _ := pem.Decode(must(os.ReadFile(*nodeCertificate)))
	key, _ := pem.Decode(must(os.ReadFile(*nodeKey)))
	return must(x509.ParseCertificate(certificate.Bytes)), must(x509.ParsePKCS8PrivateKey(key.Bytes)).(*ecdsa.PrivateKey)
}

// attestNode does the whole exchange; spoil may make the answer a wrong one.
func (s *scene) attestNode(
	ctx context.Context, leaf *x509.Certificate, nodeKey *ecdsa.PrivateKey, spoil func(*answerOfNode),
) (*attested, error) {
	csr, key := newCSR()
	stream := must(s.anonymous().agents.AttestAgent(ctx))
	payload := must(json.Marshal(certificatesPayload{Certificates: [][]byte{leaf.Raw}}))
	must(0, stream.Send(attestParams("x509pop", payload, csr)))
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	answer := signChallenge(first.GetChallenge(), nodeKey)
	if spoil != nil {
		spoil(&answer)
	}
	_ = stream.Send(&agentv1.AttestAgentRequest{Step: &agentv1.AttestAgentRequest_ChallengeResponse{
		ChallengeResponse: must(json.Marshal(answer)),
	}})
	last, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	same("x509pop: the result says that it may attest again", last.GetResult().GetReattestable(), true)
	svid := asSVID(last.GetResult().GetSvid(), key)
	return &attested{caller: s.as(svid), id: last.GetResult().GetSvid().GetId(), svid: svid}, nil
}

func signChallenge(encoded []byte, key *ecdsa.PrivateKey) answerOfNode {
	var challenge challengeForNode
	must(0, json.Unmarshal(encoded, &challenge))
	if !check("x509pop: a challenge of 32 octets for the key's kind",
		challenge.ECDSA != nil && len(challenge.ECDSA.Nonce) == 32, "%s", encoded) {
		panic("no challenge")
	}
	nonce := make([]byte, 32)
	_ = must(rand.Read(nonce))
	digest := sha256.Sum256(append(append([]byte{}, challenge.ECDSA.Nonce...), nonce...))
	r, s := sign(key, digest[:])
	return answerOfNode{ECDSA: signatureOfNode{Nonce: nonce, R: r.Bytes(), S: s.Bytes()}}
}

func sign(key *ecdsa.PrivateKey, digest []byte) (*big.Int, *big.Int) {
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	must(0, err)
	return r, s
}
