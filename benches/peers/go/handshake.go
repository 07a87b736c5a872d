package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// handshake is mutual TLS 1.3 between two workloads of one trust domain that is federated with so many others, both sides on
// one processor over a pipe: through go-spiffe, or with the same certificates through Go's own TLS.
func (w *work) handshake() (func() error, error) {
	ca, err := newAuthority(w.TrustDomain)
	if err != nil {
		return nil, err
	}
	td, err := spiffeid.TrustDomainFromString(w.TrustDomain)
	if err != nil {
		return nil, err
	}
	bundles := x509bundle.NewSet(x509bundle.FromX509Authorities(td, []*x509.Certificate{ca.certificate}))
	for number := 1; number < w.TrustDomains; number++ {
		name := fmt.Sprintf("td%d.example", number)
		foreign, err := newAuthority(name)
		if err != nil {
			return nil, err
		}
		other := spiffeid.RequireTrustDomainFromString(name)
		bundles.Add(x509bundle.FromX509Authorities(other, []*x509.Certificate{foreign.certificate}))
	}
	server, err := ca.svid(w.TrustDomain, "server")
	if err != nil {
		return nil, err
	}
	client, err := ca.svid(w.TrustDomain, "client")
	if err != nil {
		return nil, err
	}
	var near, far *tls.Config
	if w.Plain {
		roots := x509.NewCertPool()
		roots.AddCert(ca.certificate)
		near = &tls.Config{Certificates: []tls.Certificate{certificate(client)}, RootCAs: roots, ServerName: dnsName}
		far = &tls.Config{Certificates: []tls.Certificate{certificate(server)}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert}
	} else {
		near = tlsconfig.MTLSClientConfig(client, bundles, tlsconfig.AuthorizeID(server.ID))
		far = tlsconfig.MTLSServerConfig(server, bundles, tlsconfig.AuthorizeID(client.ID))
	}
	far.SessionTicketsDisabled = true
	return func() error { return shake(near, far) }, nil
}

func shake(near, far *tls.Config) error {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan error, 1)
	go func() { done <- tls.Server(b, far).Handshake() }()
	return errors.Join(tls.Client(a, near).Handshake(), <-done)
}

const dnsName = "peer.example.org"

type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(trustDomain string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: trustDomain},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: trustDomain}},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	return &authority{parsed, key}, err
}

func (a *authority) svid(trustDomain, path string) (*x509svid.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	id, err := spiffeid.FromSegments(spiffeid.RequireTrustDomainFromString(trustDomain), path)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(time.Now().UnixNano()),
		URIs:                  []*url.URL{id.URL()},
		DNSNames:              []string{dnsName},
		NotBefore:             time.Now().Add(-time.Minute),
		NotAfter:              time.Now().Add(time.Hour),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &x509svid.SVID{ID: id, Certificates: []*x509.Certificate{leaf}, PrivateKey: key}, err
}

func certificate(svid *x509svid.SVID) tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{svid.Certificates[0].Raw}, PrivateKey: svid.PrivateKey}
}
