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

// rotation makes connections over TCP without a pause, both ends over sources of their own, until standard input ends. It prints the time
// of the first handshake with each SVID of the server, in nanoseconds since the epoch, and what it has counted at the end.
func (w *work) rotation(input io.Reader) error {
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

	var handshakes, failed atomic.Uint64
	var stop atomic.Bool
	var seen sync.Map
	var dialers sync.WaitGroup
	for range w.Dialers {
		dialers.Add(1)
		go func() {
			defer dialers.Done()
			for !stop.Load() {
				shown, err := exchange(near, listener.Addr().String())
				handshakes.Add(1)
				if err != nil {
					failed.Add(1)
					continue
				}
				if _, known := seen.LoadOrStore(shown, true); !known {
					fmt.Println(time.Now().UnixNano())
				}
			}
		}()
	}
	_, err = io.Copy(io.Discard, input)
	stop.Store(true)
	dialers.Wait()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]uint64{"handshakes": handshakes.Load(), "failed": failed.Load()})
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
