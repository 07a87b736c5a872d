// gopeer is the reference Go client, go-spiffe, as a peer: each subcommand does one thing over the Workload API named by
// SPIFFE_ENDPOINT_SOCKET and prints one fact a line, "word value", for the checks that run it. Exit status 1, with the
// reason on standard error, when go-spiffe refuses.
//
//	gopeer x509                          every SVID, each chain verified with the bundles that came along
//	gopeer write DIR                     svid.pem, key.pem, bundle.pem, and intermediates.pem if there are any
//	gopeer jwt AUDIENCE OTHER            a JWT-SVID for AUDIENCE, judged here and by the Workload API
//	gopeer watch UPDATES                 X.509 contexts until that many serial numbers were seen
//	gopeer dial ADDRESS SERVER           hello over mutual TLS to the one server allowed
//	gopeer dial-across UPDATES ADDRESS SERVER   the same again and again while the own SVID rotates
//	gopeer dial-each                     hello for each line "ADDRESS SERVER" of standard input, all from one source
//	gopeer judge BUNDLE CHAIN           both in PEM, by crypto/x509 and go-spiffe (judge.go)
//	gopeer oracle                        inputs for `spiffe batch`, each with go-spiffe's verdict (oracle.go)
//	gopeer harness                       the conformance suite's contract, until killed (harness.go)
//	gopeer serve CLIENT                  answers hello to the one client allowed, until killed
//	gopeer dial-as MODE ADDRESS ...      hello in one of go-spiffe's modes for clients (modes.go)
//	gopeer serve-as MODE ...             answers hello in one of its modes for servers, until killed
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc/status"
)

// patience bounds every subcommand but serve and harness, which live until their parent ends them, and each hello of dial-each.
const patience = 30 * time.Second

func main() {
	if len(os.Args) < 2 {
		exit(2, fmt.Errorf("usage: gopeer x509|write|jwt|watch|dial|dial-across|dial-each|dial-as|judge|oracle|harness|serve|serve-as ..."))
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	verb, args := os.Args[1], os.Args[2:]
	var err error
	switch {
	case verb == "x509" && len(args) == 0:
		err = fetchX509(ctx)
	case verb == "write" && len(args) == 1:
		err = write(ctx, args[0])
	case verb == "jwt" && len(args) == 2:
		err = judgeJWT(ctx, args[0], args[1])
	case verb == "watch" && len(args) == 1:
		err = watch(ctx, args[0])
	case verb == "dial" && len(args) == 2:
		err = dialAs(ctx, "mtls", args[0], args[1:])
	case verb == "dial-across" && len(args) == 3:
		err = dialAcross(ctx, args[0], args[1], args[2])
	case verb == "dial-each" && len(args) == 0:
		err = dialEach(ctx)
	case verb == "judge" && len(args) == 2:
		err = judge(args[0], args[1])
	case verb == "oracle" && len(args) == 0:
		err = oracle()
	case verb == "harness" && len(args) == 0:
		err = serveHarness()
	case verb == "serve" && len(args) == 1:
		err = serveAs(ctx, "mtls", args)
	case verb == "dial-as" && len(args) > 2:
		err = dialAs(ctx, args[0], args[1], args[2:])
	case verb == "serve-as" && len(args) > 0:
		err = serveAs(ctx, args[0], args[1:])
	default:
		exit(2, fmt.Errorf("%s: unknown, or a wrong number of arguments", verb))
	}
	if err != nil {
		exit(1, err)
	}
}

func exit(code int, err error) {
	fmt.Fprintln(os.Stderr, "gopeer:", err)
	os.Exit(code)
}

func fetchX509(ctx context.Context) error {
	x, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		// The code is a line of its own so that a check need not read go-spiffe's wording.
		fmt.Println("refused", status.Code(err))
		return err
	}
	for _, svid := range x.SVIDs {
		if err := report("svid", svid, x.Bundles); err != nil {
			return err
		}
	}
	for _, b := range x.Bundles.Bundles() {
		fmt.Println("bundle", b.TrustDomain(), len(b.X509Authorities()))
	}
	return nil
}

// report verifies the chain and prints "word id serial not-after-in-seconds".
func report(word string, svid *x509svid.SVID, bundles x509bundle.Source) error {
	id, _, err := x509svid.Verify(svid.Certificates, bundles)
	if err != nil {
		return fmt.Errorf("the chain of %s does not verify: %w", svid.ID, err)
	}
	if id != svid.ID {
		return fmt.Errorf("the chain of %s verifies as %s", svid.ID, id)
	}
	leaf := svid.Certificates[0]
	fmt.Printf("%s %s %x %d\n", word, id, leaf.SerialNumber, leaf.NotAfter.Unix())
	return nil
}

func write(ctx context.Context, dir string) error {
	x, err := workloadapi.FetchX509Context(ctx)
	if err != nil {
		return err
	}
	svid := x.DefaultSVID()
	chain, key, err := svid.Marshal()
	if err != nil {
		return err
	}
	bundle, err := x.Bundles.GetX509BundleForTrustDomain(svid.ID.TrustDomain())
	if err != nil {
		return err
	}
	authorities, err := bundle.Marshal()
	if err != nil {
		return err
	}
	files := map[string][]byte{"svid.pem": chain, "key.pem": key, "bundle.pem": authorities}
	for _, c := range svid.Certificates[1:] {
		block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
		files["intermediates.pem"] = append(files["intermediates.pem"], block...)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	fmt.Println("wrote", svid.ID)
	return nil
}

func judgeJWT(ctx context.Context, audience, other string) error {
	svid, err := workloadapi.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return err
	}
	fmt.Println("jwt", svid.ID, strings.Join(svid.Audience, ","))
	source, err := workloadapi.NewJWTSource(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	token := svid.Marshal()
	forged := forge(token)
	for _, c := range []struct{ word, token, audience string }{
		{"good", token, audience}, {"other-audience", token, other}, {"forged", forged, audience},
	} {
		local, err := jwtsvid.ParseAndValidate(c.token, source, []string{c.audience})
		printVerdict("here", c.word, local, err)
		remote, err := workloadapi.ValidateJWTSVID(ctx, c.token, c.audience)
		printVerdict("there", c.word, remote, err)
	}
	return nil
}

// forge changes one character in the middle of the signature: still base64url, still the right length, no longer the issuer's.
func forge(token string) string {
	b := []byte(token)
	i := (strings.LastIndexByte(token, '.') + len(b)) / 2
	if b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	return string(b)
}

func printVerdict(where, what string, svid *jwtsvid.SVID, err error) {
	if err != nil {
		fmt.Println(where, what, "refused", status.Code(err), err)
		return
	}
	fmt.Println(where, what, "accepted", svid.ID)
}

func watch(ctx context.Context, updates string) error {
	wanted, err := strconv.Atoi(updates)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w := &watcher{wanted: wanted, seen: map[string]bool{}, stop: stop}
	err = workloadapi.WatchX509Context(ctx, w)
	if w.err != nil {
		return w.err
	}
	if len(w.seen) < wanted {
		return fmt.Errorf("%d of %d serial numbers seen: %w", len(w.seen), wanted, err)
	}
	return nil
}

type watcher struct {
	wanted int
	seen   map[string]bool
	stop   func()
	err    error
}

func (w *watcher) OnX509ContextUpdate(x *workloadapi.X509Context) {
	svid := x.DefaultSVID()
	serial := svid.Certificates[0].SerialNumber.String()
	if w.err != nil || len(w.seen) == w.wanted || w.seen[serial] {
		return
	}
	w.seen[serial] = true
	w.err = report("update", svid, x.Bundles)
	if w.err != nil || len(w.seen) == w.wanted {
		w.stop()
	}
}

func (w *watcher) OnX509ContextWatchError(err error) {
	if len(w.seen) < w.wanted {
		fmt.Fprintln(os.Stderr, "gopeer: watch:", err)
	}
}

func dialAcross(ctx context.Context, updates, address, server string) error {
	wanted, err := strconv.Atoi(updates)
	if err != nil {
		return err
	}
	id, err := spiffeid.FromString(server)
	if err != nil {
		return err
	}
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	config := tlsconfig.MTLSClientConfig(source, source, tlsconfig.AuthorizeID(id))
	handshakes, serials := 0, map[string]bool{}
	for len(serials) < wanted {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err
		}
		if _, _, err := hello(ctx, config, address); err != nil {
			return fmt.Errorf("handshake %d, with %d serial numbers seen: %w", handshakes+1, len(serials), err)
		}
		handshakes++
		serials[svid.Certificates[0].SerialNumber.String()] = true
	}
	fmt.Println("handshakes", handshakes)
	return nil
}

// dialEach needs its first SVID before ctx ends, and lasts until the end of its input.
func dialEach(ctx context.Context) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	go tellRevisions(source)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		address, server, _ := strings.Cut(lines.Text(), " ")
		config, err := clientConfig("mtls", source, []string{server})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		peer, answer, err := hello(ctx, config, address)
		cancel()
		if err != nil {
			fmt.Println("refused", err)
			continue
		}
		fmt.Println("answered", peer, answer)
	}
	return nil
}

// tellRevisions prints a line when the source has something new; the first was there before.
func tellRevisions(source *workloadapi.X509Source) {
	revision := 1
	for range source.Updated() {
		revision++
		fmt.Println("revision", revision)
	}
}

// hello says it once and returns who answered what.
func hello(ctx context.Context, config *tls.Config, address string) (string, string, error) {
	c, err := (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	conn := c.(*tls.Conn)
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", "", err
		}
	}
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return "", "", err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", "", err
	}
	return peer(conn), strings.TrimRight(string(answer), "\n"), nil
}

// peer is the other end's SPIFFE ID, or else its first DNS name; nobody where it has shown nothing.
func peer(conn *tls.Conn) string {
	certificates := conn.ConnectionState().PeerCertificates
	if len(certificates) == 0 {
		return "nobody"
	}
	if id, err := x509svid.IDFromCert(certificates[0]); err == nil {
		return id.String()
	}
	return certificates[0].DNSNames[0]
}

func greet(c net.Conn) {
	defer c.Close()
	conn := c.(*tls.Conn)
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		fmt.Println("refused", err)
		return
	}
	if err := conn.Handshake(); err != nil {
		fmt.Println("refused", err)
		return
	}
	peer := peer(conn)
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		fmt.Println("unanswered", peer, err)
		return
	}
	if _, err := fmt.Fprintf(conn, "hello, %s\n", peer); err != nil {
		fmt.Println("unanswered", peer, err)
		return
	}
	fmt.Println("greeted", peer, strings.TrimRight(line, "\n"))
}
