package main

import (
	"crypto/ecdsa"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
)

// verifies says whether go-spiffe takes an SVID for one of this trust domain.
func verifies(s *scene, wire *types.X509SVID, key *ecdsa.PrivateKey) bool {
	id, _, err := x509svid.Verify(asSVID(wire, key).Certificates, s.roots)
	return err == nil && id.String() == "spiffe://"+wire.Id.TrustDomain+wire.Id.Path
}
