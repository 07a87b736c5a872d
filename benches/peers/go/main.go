// gobench measures go-spiffe on what the Rust program measures itself with: one JSON object in, one out.
//
// Except for rotations, it runs on one processor and counts the CPU time of its process, so that collecting garbage, part of the cost, is
// in it; of its batches the fastest quarter counts, as on the other side.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"golang.org/x/sys/unix"
)

// work is one operation and what it takes; Kind says which of the other fields count.
type work struct {
	Kind         string   `json:"kind"`
	SpanMillis   int64    `json:"span_ms"`
	ID           string   `json:"id"`
	TrustDomain  string   `json:"trust_domain"`
	Bundle       string   `json:"bundle"`
	Chain        [][]byte `json:"chain"`
	Token        string   `json:"token"`
	Audience     string   `json:"audience"`
	DER          []byte   `json:"der"`
	TrustDomains int      `json:"trust_domains"`
	Plain        bool     `json:"plain"`
	Socket       string   `json:"socket"`
	Dialers      int      `json:"dialers"`
	Address      string   `json:"address"`
	Paced        bool     `json:"paced"`
	Times        int      `json:"times"`
}

// minBatch is long enough for several collections, so that no batch goes without.
const minBatch = 20 * time.Millisecond

const minBatches = 8

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gobench:", err)
		os.Exit(1)
	}
}

func run() error {
	// Whoever waits for more input waits as a connection does, and keeps no processor from the others.
	if err := unix.SetNonblock(unix.Stdin, true); err != nil {
		return err
	}
	input := json.NewDecoder(os.NewFile(uintptr(unix.Stdin), "input"))
	var w work
	if err := input.Decode(&w); err != nil {
		return err
	}
	if w.Kind == "rotation" {
		return w.rotation(input)
	}
	runtime.GOMAXPROCS(1)
	if w.Kind == "source-heap" || w.Kind == "source-update" {
		value, err := w.sources()
		if err != nil {
			return err
		}
		return answer(value)
	}
	op, err := w.operation()
	if err != nil {
		return err
	}
	// What fails is not worth timing.
	if err := op(); err != nil {
		return err
	}
	took, err := measure(op, time.Duration(w.SpanMillis)*time.Millisecond)
	if err != nil {
		return err
	}
	return answer(took)
}

// answer gives nanoseconds, or bytes.
func answer(value float64) error {
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"value": value})
}

func (w *work) operation() (func() error, error) {
	if w.Kind == "id" {
		return func() error {
			_, err := spiffeid.FromString(w.ID)
			return err
		}, nil
	}
	if w.Kind == "handshake" {
		return w.handshake()
	}
	if w.Kind == "source-current" {
		source, err := w.source()
		if err != nil {
			return nil, err
		}
		return func() error {
			_, err := source.GetX509SVID()
			return err
		}, nil
	}
	if w.Kind == "issue-spki" || w.Kind == "issue-csr" {
		return w.issue()
	}
	td, err := spiffeid.TrustDomainFromString(w.TrustDomain)
	if err != nil {
		return nil, err
	}
	document := []byte(w.Bundle)
	bundle, err := spiffebundle.Parse(td, document)
	if err != nil {
		return nil, err
	}
	switch w.Kind {
	case "bundle":
		return func() error {
			_, err := spiffebundle.Parse(td, document)
			return err
		}, nil
	case "x509":
		return func() error {
			_, _, err := x509svid.ParseAndVerify(w.Chain, bundle)
			return err
		}, nil
	case "jwt":
		audience := []string{w.Audience}
		return func() error {
			_, err := jwtsvid.ParseAndValidate(w.Token, bundle, audience)
			return err
		}, nil
	}
	return nil, fmt.Errorf("no operation is called %q", w.Kind)
}

// issue signs a leaf as SPIRE writes them, for a public key or for a signing request whose signature is checked.
func (w *work) issue() (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIFFE"}},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: "example.org"}},
		NotBefore:             now.Add(-10 * time.Second),
		NotAfter:              now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parent, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	most := new(big.Int).Lsh(big.NewInt(1), 128)
	sign := func(public any) error {
		serial, err := rand.Int(rand.Reader, most)
		if err != nil {
			return err
		}
		leaf := &x509.Certificate{
			SerialNumber:          serial,
			Subject:               pkix.Name{Country: []string{"US"}, Organization: []string{"SPIRE"}},
			URIs:                  []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/ns/prod/sa/web"}},
			NotBefore:             now.Add(-10 * time.Second),
			NotAfter:              now.Add(time.Hour),
			KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
		}
		_, err = x509.CreateCertificate(rand.Reader, leaf, parent, public, key)
		return err
	}
	if w.Kind == "issue-spki" {
		public, err := x509.ParsePKIXPublicKey(w.DER)
		if err != nil {
			return nil, err
		}
		return func() error { return sign(public) }, nil
	}
	return func() error {
		request, err := x509.ParseCertificateRequest(w.DER)
		if err != nil {
			return err
		}
		if err := request.CheckSignature(); err != nil {
			return err
		}
		return sign(request.PublicKey)
	}, nil
}

// measure gives the nanoseconds of CPU time that an operation takes.
func measure(op func() error, span time.Duration) (float64, error) {
	times := 1
	for {
		took, err := batch(op, times)
		if err != nil {
			return 0, err
		}
		if took >= minBatch {
			break
		}
		times *= 2
	}
	var batches []float64
	for begin := time.Now(); time.Since(begin) < span || len(batches) < minBatches; {
		took, err := batch(op, times)
		if err != nil {
			return 0, err
		}
		batches = append(batches, float64(took.Nanoseconds())/float64(times))
	}
	slices.Sort(batches)
	quarter := batches[:(len(batches)+3)/4]
	sum := 0.0
	for _, took := range quarter {
		sum += took
	}
	return sum / float64(len(quarter)), nil
}

func batch(op func() error, times int) (time.Duration, error) {
	begin, err := cpuTime()
	if err != nil {
		return 0, err
	}
	for range times {
		if err := op(); err != nil {
			return 0, err
		}
	}
	end, err := cpuTime()
	return end - begin, err
}

func cpuTime() (time.Duration, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &now)
	return time.Duration(now.Nano()), err
}
