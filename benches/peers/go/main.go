// gobench times go-spiffe on what the Rust program measures itself with: one JSON object in, one out.
//
// It runs on one processor and counts the CPU time of its process, so that collecting garbage, part of the cost, is
// in it; of its batches the fastest quarter counts, as on the other side.
package main

import (
	"encoding/json"
	"fmt"
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
	Kind        string   `json:"kind"`
	SpanMillis  int64    `json:"span_ms"`
	ID          string   `json:"id"`
	TrustDomain string   `json:"trust_domain"`
	Bundle      string   `json:"bundle"`
	Chain       [][]byte `json:"chain"`
	Token       string   `json:"token"`
	Audience    string   `json:"audience"`
}

// minBatch is long enough for several collections, so that no batch goes without.
const minBatch = 20 * time.Millisecond

const minBatches = 8

func main() {
	runtime.GOMAXPROCS(1)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "gobench:", err)
		os.Exit(1)
	}
}

func run() error {
	var w work
	if err := json.NewDecoder(os.Stdin).Decode(&w); err != nil {
		return err
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
	return json.NewEncoder(os.Stdout).Encode(map[string]float64{"ns": took})
}

func (w *work) operation() (func() error, error) {
	if w.Kind == "id" {
		return func() error {
			_, err := spiffeid.FromString(w.ID)
			return err
		}, nil
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
