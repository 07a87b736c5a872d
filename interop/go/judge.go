package main

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// judge verifies a chain in PEM, leaf first, with the authorities of a bundle in PEM: by crypto/x509 for both roles of
// TLS, and by go-spiffe.
func judge(bundleFile, chainFile string) error {
	chain, err := certificates(chainFile)
	if err != nil {
		return err
	}
	authorities, err := certificates(bundleFile)
	if err != nil {
		return err
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, authority := range authorities {
		roots.AddCert(authority)
	}
	for _, above := range chain[1:] {
		intermediates.AddCert(above)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := chain[0].Verify(options); err != nil {
			return err
		}
	}
	fmt.Println("x509", chain[0].URIs[0])
	trustDomain, err := spiffeid.TrustDomainFromURI(chain[0].URIs[0])
	if err != nil {
		return err
	}
	id, _, err := x509svid.Verify(chain, x509bundle.FromX509Authorities(trustDomain, authorities))
	if err != nil {
		return err
	}
	fmt.Println("go-spiffe", id)
	return nil
}

func certificates(file string) ([]*x509.Certificate, error) {
	rest, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, certificate)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: no certificates", file)
	}
	return all, nil
}
