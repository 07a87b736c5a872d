// The harness of the conformance suite's contract, version 1, on go-spiffe: every decision is go-spiffe's.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type harness struct {
	x509 *workloadapi.X509Source
	// jwt is closed once source is set.
	jwt    chan struct{}
	source *workloadapi.JWTSource
}

// serveHarness runs until its parent ends it.
func serveHarness() error {
	ctx := context.Background()
	h := &harness{jwt: make(chan struct{})}
	go func() {
		// Without an answer to this call, requests that need it fail.
		if source, err := workloadapi.NewJWTSource(ctx); err == nil {
			h.source = source
			close(h.jwt)
		}
	}()
	x509, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	h.x509 = x509
	config := tlsconfig.MTLSServerConfig(x509, x509, tlsconfig.AuthorizeAny())
	peers, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/jwt/validate", answer(h.validate))
	mux.HandleFunc("POST /v1/jwt/fetch", answer(h.fetch))
	mux.HandleFunc("POST /v1/x509/dial", answer(h.dial))
	mux.HandleFunc("GET /v1/info", info)
	go http.Serve(control, mux)
	port := func(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }
	fmt.Printf("SPIFFE_HARNESS_VERSION=1\nSPIFFE_X509_PORT=%d\nSPIFFE_CONTROL_PORT=%d\nREADY\n", port(peers), port(control))
	for {
		c, err := peers.Accept()
		if err != nil {
			return err
		}
		go tellID(c)
	}
}

func info(w http.ResponseWriter, _ *http.Request) {
	body := map[string]string{"sdk": "go-spiffe", "language": "go"}
	if build, ok := debug.ReadBuildInfo(); ok {
		for _, module := range build.Deps {
			if module.Path == "github.com/spiffe/go-spiffe/v2" {
				body["sdk_version"] = module.Version
			}
		}
	}
	w.Header().Set("content-type", "application/json")
	json.NewEncoder(w).Encode(body)
}

func tellID(c net.Conn) {
	defer c.Close()
	conn := c.(*tls.Conn)
	if conn.SetDeadline(time.Now().Add(patience)) != nil || conn.Handshake() != nil {
		return
	}
	if id, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0]); err == nil {
		fmt.Fprintln(conn, id)
	}
}

// rejected is an error by which go-spiffe refused the input.
type rejected struct{ error }

func answer[T any](perform func(context.Context, T) (map[string]any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		var request T
		code, body := http.StatusOK, map[string]any{}
		err := json.NewDecoder(r.Body).Decode(&request)
		if err == nil {
			body, err = perform(ctx, request)
		}
		var refusal rejected
		switch {
		case err == nil:
			body["status"] = "ok"
		case errors.As(err, &refusal):
			code, body = http.StatusUnprocessableEntity, map[string]any{"status": "rejected", "message": err.Error()}
		default:
			code, body = http.StatusInternalServerError, map[string]any{"status": "error", "message": err.Error()}
		}
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(code)
		json.NewEncoder(w).Encode(body)
	}
}

func (h *harness) validate(ctx context.Context, request struct{ Token, Audience string }) (map[string]any, error) {
	select {
	case <-h.jwt:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	svid, err := jwtsvid.ParseAndValidate(request.Token, h.source, []string{request.Audience})
	if err != nil {
		return nil, rejected{err}
	}
	return map[string]any{"spiffe_id": svid.ID.String(), "claims": svid.Claims}, nil
}

type fetchRequest struct {
	Audience []string
	ID       string `json:"spiffe_id"`
}

func (h *harness) fetch(ctx context.Context, request fetchRequest) (map[string]any, error) {
	if len(request.Audience) == 0 {
		return nil, errors.New("no audience")
	}
	params := jwtsvid.Params{Audience: request.Audience[0], ExtraAudiences: request.Audience[1:]}
	if request.ID != "" {
		id, err := spiffeid.FromString(request.ID)
		if err != nil {
			return nil, rejected{err}
		}
		params.Subject = id
	}
	fetched, err := workloadapi.FetchJWTSVIDs(ctx, params)
	if err != nil {
		return nil, err
	}
	svids := []map[string]string{}
	for _, svid := range fetched {
		svids = append(svids, map[string]string{"spiffe_id": svid.ID.String(), "token": svid.Marshal(), "hint": svid.Hint})
	}
	return map[string]any{"svids": svids}, nil
}

func (h *harness) dial(ctx context.Context, request struct{ Address string }) (map[string]any, error) {
	transport, err := (&net.Dialer{}).DialContext(ctx, "tcp", request.Address)
	if err != nil {
		return nil, err
	}
	defer transport.Close()
	conn := tls.Client(transport, tlsconfig.MTLSClientConfig(h.x509, h.x509, tlsconfig.AuthorizeAny()))
	if err := conn.HandshakeContext(ctx); err != nil {
		var network net.Error
		if errors.Is(err, io.EOF) || errors.As(err, &network) {
			return nil, err
		}
		return nil, rejected{err}
	}
	id, err := x509svid.IDFromCert(conn.ConnectionState().PeerCertificates[0])
	if err != nil {
		return nil, rejected{err}
	}
	return map[string]any{"spiffe_id": id.String()}, nil
}
