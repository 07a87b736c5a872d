package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// rotation makes connections over TCP, both ends over sources of their own, until the input ends: without a pause, or once for each
// object of the input. It prints the time of the first handshake with each SVID of the server, and at the end how many failed, and when
// each of the others began and was done. All times are nanoseconds since the epoch.
func (w *work) rotation(input *json.Decoder) error {
	ctx := context.Background()
	address := workloadapi.WithClientOptions(workloadapi.WithAddr(w.Socket))
	server, err := workloadapi.NewX509Source(ctx, address)
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := workloadapi.NewX509Source(ctx, address)
	if err != nil {
		return err
	}
	defer client.Close()
	far := tlsconfig.MTLSServerConfig(server, server, tlsconfig.AuthorizeAny())
	far.SessionTicketsDisabled = true
	near := tlsconfig.MTLSClientConfig(client, client, tlsconfig.AuthorizeAny())
	listener, err := tls.Listen("tcp", "127.0.0.1:0", far)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()

	// Whoever calls waits for nobody.
	calls := make(chan struct{}, 1<<16)
	var stop atomic.Bool
	next := func() bool {
		if w.Paced {
			<-calls
		}
		return !stop.Load()
	}
	var counted struct {
		Failed    uint64     `json:"failed"`
		Exchanges [][2]int64 `json:"exchanges"`
	}
	seen := make(map[string]bool)
	var counting sync.Mutex
	count := func(began, done int64, shown string, err error) {
		counting.Lock()
		defer counting.Unlock()
		if err != nil {
			counted.Failed++
			return
		}
		counted.Exchanges = append(counted.Exchanges, [2]int64{began, done})
		if !seen[shown] {
			seen[shown] = true
			fmt.Println(done)
		}
	}
	var dialers sync.WaitGroup
	for range w.Dialers {
		dialers.Add(1)
		go func() {
			defer dialers.Done()
			for next() {
				began := time.Now().UnixNano()
				shown, err := exchange(near, listener.Addr().String())
				count(began, time.Now().UnixNano(), shown, err)
			}
		}()
	}
	for {
		var call struct{}
		if err = input.Decode(&call); err != nil {
			break
		}
		calls <- call
	}
	stop.Store(true)
	close(calls)
	dialers.Wait()
	if err != io.EOF {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(counted)
}

// echo sends back the one byte that a connection brings; what goes wrong is counted by the dialer, which waits for it.
func echo(c net.Conn) {
	defer c.Close()
	var one [1]byte
	if _, err := io.ReadFull(c, one[:]); err == nil {
		c.Write(one[:])
	}
}

// exchange returns the serial number that the server presented.
func exchange(config *tls.Config, address string) (string, error) {
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return "", err
	}
	defer c.Close()
	one := [1]byte{'?'}
	if _, err := c.Write(one[:]); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(c, one[:]); err != nil {
		return "", err
	}
	return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
