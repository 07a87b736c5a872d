package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/jwtbundle"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

// judged is one line of what "gopeer oracle" prints: a line for `spiffe batch`, and what go-spiffe makes of the same input.
type judged struct {
	Line map[string]any `json:"line"`
	OK   bool           `json:"ok"`
	// Facts is the ID, or for a bundle the numbers of its authorities.
	Facts string `json:"facts"`
	Why   string `json:"why"`
	// Chain is the chain once more, in PEM and leaf first, for judges that take files; At is the time of the verdict.
	Chain []string `json:"chain,omitempty"`
	At    int64    `json:"at"`
}

var now = time.Now().UTC().Truncate(time.Second)

// oracle prints chains, tokens, bundles and names with go-spiffe's verdicts; chains also pass through crypto/x509, below it.
func oracle() error {
	var all []judged
	for _, part := range []func() ([]judged, error){judgeNames, judgeChains, judgeTokens, judgeBundles} {
		some, err := part()
		if err != nil {
			return err
		}
		all = append(all, some...)
	}
	out := json.NewEncoder(os.Stdout)
	for _, one := range all {
		if err := out.Encode(one); err != nil {
			return err
		}
	}
	return nil
}

func verdict(line map[string]any, facts string, err error) judged {
	j := judged{Line: line, OK: err == nil, Facts: facts, At: now.Unix()}
	if err != nil {
		j.Facts, j.Why = "", err.Error()
	}
	return j
}

func judgeNames() ([]judged, error) {
	var all []judged
	for _, text := range []string{
		"spiffe://a", "spiffe://a/x", "spiffe://1.2.3.4/x", "spiffe://a..b/x", "spiffe://-_-/Foo/b.a-r_1", "spiffe://a/...",
		"", "spiffe://", "spiffe:///x", "http://a/x", "SPIFFE://a/x", "spiffe://A/x", "spiffe://a/", "spiffe://a//x",
		"spiffe://a/./x", "spiffe://a/../x", "spiffe://a/x/", "spiffe://a/%61", "spiffe://a/x?y", "spiffe://a/x#y", "spiffe://u@a/x",
		"spiffe://a:80/x", "spiffe://[::1]/x", "spiffe://a/x y", "spiffe://a/é", "spiffe://é/x", "spiffe://a/x\x00", " spiffe://a/x",
		"spiffe://a/" + strings.Repeat("x", 2037), "spiffe://a/" + strings.Repeat("x", 2038),
		"spiffe://" + strings.Repeat("a", 255) + "/x", "spiffe://" + strings.Repeat("a", 256) + "/x",
	} {
		id, err := spiffeid.FromString(text)
		name := fmt.Sprintf("id %q", text)
		if len(text) > 100 {
			name = fmt.Sprintf("id of %d bytes", len(text))
		}
		line := map[string]any{"case": name, "op": "id.parse", "text": text}
		all = append(all, verdict(line, id.String(), err))
	}
	return all, nil
}

type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func template(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), BasicConstraintsValid: true,
	}
}

func caTemplate(name string) *x509.Certificate {
	t := template(name)
	t.IsCA, t.KeyUsage = true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	return t
}

func leafTemplate(uris ...string) *x509.Certificate {
	t := template("leaf")
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil {
			panic(err)
		}
		t.URIs = append(t.URIs, u)
	}
	return t
}

func p256() crypto.Signer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// issue signs with the issuer, or with the key itself when there is none.
func issue(t *x509.Certificate, key crypto.Signer, issuer *authority) *authority {
	parent, signer := t, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, key.Public(), signer)
	if err != nil {
		panic(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return &authority{cert, key}
}

func with(t *x509.Certificate, change func(*x509.Certificate)) *x509.Certificate {
	change(t)
	return t
}

func judgeChains() ([]judged, error) {
	a, b := issue(caTemplate("a"), p256(), nil), issue(caTemplate("b"), p256(), nil)
	middle := issue(caTemplate("middle"), p256(), a)
	below := func(name string, change func(*x509.Certificate)) *authority {
		return issue(with(caTemplate(name), change), p256(), a)
	}
	good := func() *x509.Certificate { return leafTemplate("spiffe://a/x") }
	leaf := func(change func(*x509.Certificate)) []*authority {
		return []*authority{issue(with(good(), change), p256(), a)}
	}
	under := func(m *authority) []*authority { return []*authority{issue(good(), p256(), m), m} }
	keep := func(*x509.Certificate) {}
	stale := issue(with(caTemplate("stale"), func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Minute) }), p256(), nil)
	short := issue(with(caTemplate("short"), func(t *x509.Certificate) { t.MaxPathLenZero = true }), p256(), nil)
	odd := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	shortKey, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		return nil, err
	}
	onCurve := func(curve elliptic.Curve) crypto.Signer {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			panic(err)
		}
		return key
	}
	byRSA := func(algorithm x509.SignatureAlgorithm) ([]*authority, []*authority) {
		root := issue(caTemplate("rsa"), rsaKey, nil)
		leaf := with(good(), func(t *x509.Certificate) { t.SignatureAlgorithm = algorithm })
		return []*authority{issue(leaf, p256(), root)}, []*authority{root}
	}
	pkcs1, pkcs1Root := byRSA(x509.SHA512WithRSA)
	pss, pssRoot := byRSA(x509.SHA256WithRSAPSS)
	// One key and name, certified by both; and another key of that name.
	crossedKey := p256()
	crossedA, crossedB := issue(caTemplate("crossed"), crossedKey, a), issue(caTemplate("crossed"), crossedKey, b)
	twin := issue(caTemplate("crossed"), p256(), a)
	below7 := func() []*authority {
		var chain []*authority
		above := a
		for i := range 7 {
			above = issue(caTemplate(fmt.Sprint("level ", i)), p256(), above)
			chain = append([]*authority{above}, chain...)
		}
		return append([]*authority{issue(good(), p256(), above)}, chain...)
	}()
	// Of its issuer's name, with another key: what Go would take for self-signed, it leaves without a key identifier.
	noLimit := issue(with(caTemplate("short"), func(t *x509.Certificate) {
		t.MaxPathLen, t.AuthorityKeyId = -1, short.cert.SubjectKeyId
	}), p256(), short)
	zero := below("zero", func(t *x509.Certificate) { t.MaxPathLenZero = true })
	serverOnly := below("m", func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	onlyX := below("m", func(t *x509.Certificate) {
		t.PermittedDNSDomains, t.PermittedDNSDomainsCritical = []string{"x.example"}, true
	})
	named := func(name string) *x509.Certificate {
		return with(good(), func(t *x509.Certificate) { t.DNSNames = []string{name} })
	}
	cases := []struct {
		name  string
		chain []*authority
		roots []*authority
	}{
		{"good", leaf(keep), nil},
		{"intermediate", under(middle), nil},
		{"intermediate-missing", under(middle)[:1], nil},
		{"root-sent-along", append(under(middle), a), nil},
		{"reordered", func() []*authority {
			low := issue(caTemplate("low"), p256(), middle)
			return []*authority{issue(good(), p256(), low), middle, low}
		}(), nil},
		{"other-domain", []*authority{issue(good(), p256(), b)}, nil},
		{"other-key-same-name", []*authority{issue(good(), p256(), issue(caTemplate("a"), p256(), nil))}, nil},
		{"rsa", []*authority{issue(good(), rsaKey, a)}, nil},
		{"ed25519", []*authority{issue(good(), edKey, a)}, nil},
		{"p384", []*authority{issue(good(), onCurve(elliptic.P384()), a)}, nil},
		{"p521", []*authority{issue(good(), onCurve(elliptic.P521()), a)}, nil},
		{"p224", []*authority{issue(good(), onCurve(elliptic.P224()), a)}, nil},
		{"rsa-1024", []*authority{issue(good(), shortKey, a)}, nil},
		{"signed-pkcs1-sha512", pkcs1, pkcs1Root},
		{"signed-pss-sha256", pss, pssRoot},
		{"seven-intermediates", below7, nil},
		{"six-intermediates", append([]*authority{issue(good(), p256(), below7[2])}, below7[2:]...), nil},
		{"cross-signed", []*authority{issue(good(), p256(), crossedA), crossedA, crossedB}, nil},
		{"cross-signed-other-first", []*authority{issue(good(), p256(), crossedA), crossedB, crossedA}, nil},
		{"twin-of-the-issuer-first", []*authority{issue(good(), p256(), crossedA), twin, crossedA}, nil},
		{"twin-of-the-authority-first", leaf(keep), []*authority{issue(caTemplate("a"), p256(), nil), a}},
		{"useless-certificates", append(under(middle), issue(good(), p256(), b), b, stale), nil},
		{"leaf-twice", func() []*authority { one := leaf(keep)[0]; return []*authority{one, one} }(), nil},
		{"expired", leaf(func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Minute) }), nil},
		{"not-yet-valid", leaf(func(t *x509.Certificate) { t.NotBefore = now.Add(time.Minute) }), nil},
		{"intermediate-expired", under(below("m", func(t *x509.Certificate) { t.NotAfter = now.Add(-time.Minute) })), nil},
		{"intermediate-no-ca", under(below("m", func(t *x509.Certificate) { t.IsCA = false })), nil},
		{"intermediate-no-cert-sign", under(below("m", func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageCRLSign })), nil},
		{"intermediate-code-signing", under(below("m", func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		})), nil},
		{"intermediate-odd-critical", under(below("m", func(t *x509.Certificate) { t.ExtraExtensions = []pkix.Extension{odd} })), nil},
		{"uri-constraint-inside", under(below("m", func(t *x509.Certificate) { t.PermittedURIDomains = []string{"a"} })), nil},
		{"uri-constraint-outside", under(below("m", func(t *x509.Certificate) { t.PermittedURIDomains = []string{"b"} })), nil},
		{"uri-constraint-excluded", under(below("m", func(t *x509.Certificate) { t.ExcludedURIDomains = []string{"a"} })), nil},
		{"authority-expired", []*authority{issue(good(), p256(), stale)}, []*authority{stale}},
		{"authority-path-length-kept", []*authority{issue(good(), p256(), short)}, []*authority{short}},
		{"authority-path-length-broken", under(issue(caTemplate("m"), p256(), short)), []*authority{short}},
		{"self-issued-below-path-length", []*authority{issue(good(), p256(), noLimit), noLimit}, []*authority{short}},
		{"intermediate-path-length-kept", under(zero), nil},
		{"intermediate-path-length-broken", func() []*authority {
			low := issue(caTemplate("low"), p256(), zero)
			return []*authority{issue(good(), p256(), low), low, zero}
		}(), nil},
		{"intermediate-no-key-usage", under(below("m", func(t *x509.Certificate) { t.KeyUsage = 0 })), nil},
		{"usages-do-not-meet", []*authority{issue(with(good(), func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), p256(), serverOnly), serverOnly}, nil},
		{"usages-meet", []*authority{issue(good(), p256(), serverOnly), serverOnly}, nil},
		{"uri-constraint-sub-domains-only", under(below("m", func(t *x509.Certificate) { t.PermittedURIDomains = []string{".a"} })), nil},
		{"dns-constraint-inside", []*authority{issue(named("x.example"), p256(), onlyX), onlyX}, nil},
		{"dns-constraint-outside", []*authority{issue(named("y.example"), p256(), onlyX), onlyX}, nil},
		{"leaf-as-authority", leaf(keep), nil},
		{"no-uri", leaf(func(t *x509.Certificate) { t.URIs = nil }), nil},
		{"two-uris", leaf(func(t *x509.Certificate) { t.URIs = leafTemplate("spiffe://a/x", "spiffe://a/y").URIs }), nil},
		{"https-uri", leaf(func(t *x509.Certificate) { t.URIs = leafTemplate("https://a/x").URIs }), nil},
		{"no-path", leaf(func(t *x509.Certificate) { t.URIs = leafTemplate("spiffe://a").URIs }), nil},
		{"trailing-slash", leaf(func(t *x509.Certificate) { t.URIs = leafTemplate("spiffe://a/").URIs }), nil},
		{"upper-case-domain", leaf(func(t *x509.Certificate) { t.URIs = leafTemplate("spiffe://A/x").URIs }), nil},
		{"dns-too", leaf(func(t *x509.Certificate) { t.DNSNames = []string{"x.example"} }), nil},
		{"leaf-is-ca", leaf(func(t *x509.Certificate) { t.IsCA = true }), nil},
		{"leaf-cert-sign", leaf(func(t *x509.Certificate) { t.KeyUsage |= x509.KeyUsageCertSign }), nil},
		{"leaf-crl-sign", leaf(func(t *x509.Certificate) { t.KeyUsage |= x509.KeyUsageCRLSign }), nil},
		{"leaf-key-encipherment-only", leaf(func(t *x509.Certificate) { t.KeyUsage = x509.KeyUsageKeyEncipherment }), nil},
		{"leaf-no-key-usage", leaf(func(t *x509.Certificate) { t.KeyUsage = 0 }), nil},
		{"leaf-server-auth-only", leaf(func(t *x509.Certificate) { t.ExtKeyUsage = t.ExtKeyUsage[:1] }), nil},
		{"leaf-any-usage", leaf(func(t *x509.Certificate) { t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), nil},
		{"leaf-empty-subject", leaf(func(t *x509.Certificate) { t.Subject = pkix.Name{} }), nil},
		{"leaf-code-signing", leaf(func(t *x509.Certificate) {
			t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
		}), nil},
		{"leaf-odd-critical", leaf(func(t *x509.Certificate) { t.ExtraExtensions = []pkix.Extension{odd} }), nil},
	}
	var all []judged
	for _, c := range cases {
		if c.roots == nil {
			c.roots = []*authority{a}
		}
		if c.name == "leaf-as-authority" {
			c.roots = c.chain
		}
		var certs []*x509.Certificate
		var der []byte
		for _, one := range c.chain {
			certs = append(certs, one.cert)
			der = append(der, one.cert.Raw...)
		}
		ofA := x509bundle.New(spiffeid.RequireTrustDomainFromString("a"))
		var document strings.Builder
		for _, one := range c.roots {
			ofA.AddX509Authority(one.cert)
			_ = pem.Encode(&document, &pem.Block{Type: "CERTIFICATE", Bytes: one.cert.Raw})
		}
		ofB := x509bundle.FromX509Authorities(spiffeid.RequireTrustDomainFromString("b"), []*x509.Certificate{b.cert})
		id, _, err := x509svid.Verify(certs, x509bundle.NewSet(ofA, ofB), x509svid.WithTime(now))
		line := map[string]any{
			"case": "chain-" + c.name, "op": "x509.verify", "at": now.Format(time.RFC3339),
			"chain_der_b64": base64.StdEncoding.EncodeToString(der),
			"bundles": map[string]string{
				"a": document.String(),
				"b": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.cert.Raw})),
			},
		}
		judgedHere := verdict(line, id.String(), err)
		for _, one := range c.chain {
			block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: one.cert.Raw})
			judgedHere.Chain = append(judgedHere.Chain, string(block))
		}
		all = append(all, judgedHere)
	}
	return all, nil
}

func sign(key *ecdsa.PrivateKey, header, claims string) string {
	message := url64([]byte(header)) + "." + url64([]byte(claims))
	digest := sha256.Sum256([]byte(message))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		panic(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return message + "." + url64(signature)
}

func url64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func judgeTokens() ([]judged, error) {
	key, other := p256().(*ecdsa.PrivateKey), p256().(*ecdsa.PrivateKey)
	td := spiffeid.RequireTrustDomainFromString("a")
	bundle := jwtbundle.New(td)
	if err := bundle.AddJWTAuthority("k", key.Public()); err != nil {
		return nil, err
	}
	document := spiffebundle.FromJWTBundle(bundle)
	text, err := document.Marshal()
	if err != nil {
		return nil, err
	}
	header := `{"alg":"ES256","kid":"k","typ":"JWT"}`
	claims := func(sub, aud, rest string) string {
		return fmt.Sprintf(`{"sub":%q,"aud":%s%s}`, sub, aud, rest)
	}
	exp := func(offset time.Duration) string { return fmt.Sprintf(`,"exp":%d`, now.Add(offset).Unix()) }
	good := claims("spiffe://a/x", `"db"`, exp(time.Hour))
	var all []judged
	for _, c := range []struct{ name, token string }{
		{"good", sign(key, header, good)},
		{"audience-list", sign(key, header, claims("spiffe://a/x", `["x","db"]`, exp(time.Hour)))},
		{"no-kid", sign(key, `{"alg":"ES256"}`, good)},
		{"unknown-kid", sign(key, `{"alg":"ES256","kid":"other"}`, good)},
		{"other-key", sign(other, header, good)},
		{"typ-jose", sign(key, `{"alg":"ES256","kid":"k","typ":"JOSE"}`, good)},
		{"typ-at-jwt", sign(key, `{"alg":"ES256","kid":"k","typ":"at+jwt"}`, good)},
		{"alg-none", url64([]byte(`{"alg":"none"}`)) + "." + url64([]byte(good)) + "."},
		{"alg-hs256", sign(key, `{"alg":"HS256","kid":"k"}`, good)},
		{"alg-es384", sign(key, `{"alg":"ES384","kid":"k"}`, good)},
		{"crit", sign(key, `{"alg":"ES256","kid":"k","crit":["x"],"x":1}`, good)},
		{"jku", sign(key, `{"alg":"ES256","kid":"k","jku":"https://x"}`, good)},
		{"expired", sign(key, header, claims("spiffe://a/x", `"db"`, exp(-time.Hour)))},
		{"not-yet-valid", sign(key, header, claims("spiffe://a/x", `"db"`, exp(time.Hour)+fmt.Sprintf(`,"nbf":%d`, now.Add(time.Hour).Unix())))},
		{"issued-later", sign(key, header, claims("spiffe://a/x", `"db"`, exp(time.Hour)+fmt.Sprintf(`,"iat":%d`, now.Add(time.Hour).Unix())))},
		{"no-exp", sign(key, header, claims("spiffe://a/x", `"db"`, ""))},
		{"exp-text", sign(key, header, claims("spiffe://a/x", `"db"`, `,"exp":"2000000000"`))},
		{"exp-fraction", sign(key, header, claims("spiffe://a/x", `"db"`, fmt.Sprintf(`,"exp":%d.5`, now.Add(time.Hour).Unix())))},
		{"other-audience", sign(key, header, claims("spiffe://a/x", `"cache"`, exp(time.Hour)))},
		{"audience-case", sign(key, header, claims("spiffe://a/x", `"DB"`, exp(time.Hour)))},
		{"no-audience", sign(key, header, claims("spiffe://a/x", `[]`, exp(time.Hour)))},
		{"audience-number", sign(key, header, claims("spiffe://a/x", `7`, exp(time.Hour)))},
		{"subject-no-path", sign(key, header, claims("spiffe://a", `"db"`, exp(time.Hour)))},
		{"subject-no-id", sign(key, header, claims("x", `"db"`, exp(time.Hour)))},
		{"subject-upper-case", sign(key, header, claims("SPIFFE://a/x", `"db"`, exp(time.Hour)))},
		{"unknown-domain", sign(key, header, claims("spiffe://c/x", `"db"`, exp(time.Hour)))},
		{"claim-twice", sign(key, header, `{"sub":"spiffe://a/y",`+good[1:])},
		{"padded", sign(key, header, good) + "="},
		{"forged", forge(sign(key, header, good))},
	} {
		svid, err := jwtsvid.ParseAndValidate(c.token, bundle, []string{"db"})
		id := ""
		if err == nil {
			id = svid.ID.String()
		}
		line := map[string]any{
			"case": "token-" + c.name, "op": "jwt.verify", "token": c.token, "audience": "db",
			"at": now.Format(time.RFC3339), "bundles": map[string]string{"a": string(text)},
		}
		all = append(all, verdict(line, id, err))
	}
	return all, nil
}

func judgeBundles() ([]judged, error) {
	td := spiffeid.RequireTrustDomainFromString("a")
	root := issue(caTemplate("a"), p256(), nil)
	key := p256().(*ecdsa.PrivateKey)
	bundle := spiffebundle.New(td)
	bundle.AddX509Authority(root.cert)
	if err := bundle.AddJWTAuthority("k", key.Public()); err != nil {
		return nil, err
	}
	bundle.SetSequenceNumber(7)
	bundle.SetRefreshHint(time.Minute)
	text, err := bundle.Marshal()
	if err != nil {
		return nil, err
	}
	x5c := base64.StdEncoding.EncodeToString(root.cert.Raw)
	x, y := url64(key.X.FillBytes(make([]byte, 32))), url64(key.Y.FillBytes(make([]byte, 32)))
	members := fmt.Sprintf(`"kty":"EC","crv":"P-256","x":%q,"y":%q`, x, y)
	jwt := fmt.Sprintf(`{"use":"jwt-svid","kid":"k",%s}`, members)
	var all []judged
	for _, c := range []struct{ name, document string }{
		{"good", string(text)},
		{"empty", `{"keys":[]}`},
		{"no-keys", `{}`},
		{"keys-null", `{"keys":null}`},
		{"no-json", `keys`},
		{"array", `[]`},
		{"unknown-use", fmt.Sprintf(`{"keys":[%s,{"use":"odd","kid":"o",%s}]}`, jwt, members)},
		{"no-use", fmt.Sprintf(`{"keys":[%s,{"kid":"o",%s}]}`, jwt, members)},
		{"unknown-type", fmt.Sprintf(`{"keys":[%s,{"use":"jwt-svid","kid":"o","kty":"AKP","alg":"ML-DSA-44","pub":"AA"}]}`, jwt)},
		{"no-kid", fmt.Sprintf(`{"keys":[%s,{"use":"jwt-svid",%s}]}`, jwt, members)},
		{"no-x5c", fmt.Sprintf(`{"keys":[%s,{"use":"x509-svid",%s}]}`, jwt, members)},
		{"x5c-twice", fmt.Sprintf(`{"keys":[{"use":"x509-svid","kty":"EC","x5c":[%q,%q]}]}`, x5c, x5c)},
		{"same-key-twice", fmt.Sprintf(`{"keys":[%s,%s]}`, jwt, jwt)},
		{"keys-twice", fmt.Sprintf(`{"keys":[],"keys":[%s]}`, jwt)},
		{"sequence-negative", `{"keys":[],"spiffe_sequence":-1}`},
		{"sequence-fraction", `{"keys":[],"spiffe_sequence":1.5}`},
		{"sequence-text", `{"keys":[],"spiffe_sequence":"1"}`},
		{"sequence-greatest", `{"keys":[],"spiffe_sequence":18446744073709551615}`},
		{"hint-negative", `{"keys":[],"spiffe_refresh_hint":-1}`},
		{"unknown-member", `{"keys":[],"more":{"x":1}}`},
	} {
		parsed, err := spiffebundle.Parse(td, []byte(c.document))
		facts := ""
		if err == nil {
			facts = fmt.Sprintf("%d %d", len(parsed.X509Authorities()), len(parsed.JWTAuthorities()))
		}
		line := map[string]any{
			"case": "bundle-" + c.name, "op": "bundle.parse", "trust_domain": "a", "format": "spiffe", "document": c.document,
		}
		all = append(all, verdict(line, facts, err))
	}
	return all, nil
}
