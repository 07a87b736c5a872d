// go-spiffe's six modes: three for clients and three for servers.
//
//	tls       the server shows its SVID, the client nothing
//	mtls      both show their SVIDs
//	mtls-web  the server shows a certificate of the Web PKI, the client its SVID
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// dialAs takes the ID of the server, or for the Web PKI a file of roots and the server's name.
func dialAs(ctx context.Context, mode, address string, args []string) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	config, err := clientConfig(mode, source, args)
	if err != nil {
		return err
	}
	peer, answer, err := hello(ctx, config, address)
	if err != nil {
		return err
	}
	fmt.Println("peer", peer)
	fmt.Println("answer", answer)
	return nil
}

func clientConfig(mode string, source *workloadapi.X509Source, args []string) (*tls.Config, error) {
	if mode == "mtls-web" && len(args) == 2 {
		pem, err := os.ReadFile(args[0])
		if err != nil {
			return nil, err
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: no certificates", args[0])
		}
		config := tlsconfig.MTLSWebClientConfig(source, roots)
		config.ServerName = args[1]
		return config, nil
	}
	authorizer, err := authorizer(args)
	if err != nil {
		return nil, err
	}
	switch mode {
	case "tls":
		return tlsconfig.TLSClientConfig(source, authorizer), nil
	case "mtls":
		return tlsconfig.MTLSClientConfig(source, source, authorizer), nil
	}
	return nil, fmt.Errorf("%s: no such mode, or a wrong number of arguments", mode)
}

// serveAs takes the ID of the client, where one has to be shown, and for the Web PKI files of the certificate and its key. It needs its
// first SVID before ctx ends; what it does afterwards lasts until its parent ends it.
func serveAs(ctx context.Context, mode string, args []string) error {
	source, err := workloadapi.NewX509Source(ctx)
	if err != nil {
		return err
	}
	defer source.Close()
	config, err := serverConfig(mode, source, args)
	if err != nil {
		return err
	}
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		return err
	}
	fmt.Println("listening on", listener.Addr())
	go tellRevisions(source)
	for {
		c, err := listener.Accept()
		if err != nil {
			return err
		}
		go greet(c)
	}
}

func serverConfig(mode string, source *workloadapi.X509Source, args []string) (*tls.Config, error) {
	if mode == "tls" && len(args) == 0 {
		return tlsconfig.TLSServerConfig(source), nil
	}
	if mode == "mtls-web" && len(args) == 3 {
		authorizer, err := authorizer(args[:1])
		if err != nil {
			return nil, err
		}
		certificate, err := tls.LoadX509KeyPair(args[1], args[2])
		if err != nil {
			return nil, err
		}
		return tlsconfig.MTLSWebServerConfig(&certificate, source, authorizer), nil
	}
	authorizer, err := authorizer(args)
	if err != nil {
		return nil, err
	}
	if mode == "mtls" {
		return tlsconfig.MTLSServerConfig(source, source, authorizer), nil
	}
	return nil, fmt.Errorf("%s: no such mode, or a wrong number of arguments", mode)
}

// authorizer allows the one ID that is given.
func authorizer(args []string) (tlsconfig.Authorizer, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d IDs instead of one", len(args))
	}
	id, err := spiffeid.FromString(args[0])
	if err != nil {
		return nil, err
	}
	return tlsconfig.AuthorizeID(id), nil
}
