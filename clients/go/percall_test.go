package credbroker_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"credbroker.dev/go"
)

// service is a gRPC server of somebody else's, and what authorization it got.
type service struct {
	address string
	got     chan []string
}

func serve(t *testing.T, network, address string, channel credentials.TransportCredentials) *service {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{address: listener.Addr().String(), got: make(chan []string, 1)}
	server := grpc.NewServer(grpc.Creds(channel), grpc.UnaryInterceptor(
		func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			s.got <- metadata.ValueFromIncomingContext(ctx, "authorization")
			return handle(ctx, request)
		}))
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return s
}

// ask calls the service and returns what it saw.
func (s *service) ask(t *testing.T, target string, channel credentials.TransportCredentials,
	perCall credentials.PerRPCCredentials) ([]string, error) {
	t.Helper()
	connection, err := grpc.NewClient(target, grpc.WithTransportCredentials(channel), grpc.WithPerRPCCredentials(perCall))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	if _, err := healthpb.NewHealthClient(connection).Check(within(t, 10*time.Second), &healthpb.HealthCheckRequest{}); err != nil {
		return nil, err
	}
	return <-s.got, nil
}

func TestPerRPCCredentials(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	source := w.client().TokenSource("github")

	// httptest has a certificate for example.com.
	pki := httptest.NewTLSServer(nil)
	defer pki.Close()
	secure := serve(t, "tcp", "127.0.0.1:0", credentials.NewTLS(&tls.Config{Certificates: pki.TLS.Certificates}))
	roots := x509.NewCertPool()
	roots.AddCert(pki.Certificate())
	channel := credentials.NewTLS(&tls.Config{RootCAs: roots, ServerName: "example.com"})
	plain := serve(t, "tcp", "127.0.0.1:0", insecure.NewCredentials())
	onLoopback := serve(t, "tcp", "127.0.0.1:0", local.NewCredentials())
	socket := filepath.Join(w.directory, "service")
	onSocket := serve(t, "unix", socket, local.NewCredentials())

	sent := func(name string, got []string, err error) {
		t.Helper()
		if err != nil || len(got) != 1 || got[0] != "Bearer "+githubToken {
			t.Errorf("%s: %d values, %v", name, len(got), err)
		}
	}
	kept := func(name string, s *service, err error) {
		t.Helper()
		if err == nil || len(s.got) != 0 || strings.Contains(err.Error(), githubToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	got, err := secure.ask(t, secure.address, channel, source.PerRPCCredentials())
	sent("TLS", got, err)
	got, err = onSocket.ask(t, "unix:"+socket, local.NewCredentials(), source.PerRPCCredentials())
	sent("a Unix socket", got, err)
	_, err = plain.ask(t, plain.address, insecure.NewCredentials(), source.PerRPCCredentials())
	kept("plaintext", plain, err)
	_, err = onLoopback.ask(t, onLoopback.address, local.NewCredentials(), source.PerRPCCredentials())
	kept("a channel that says it is not private", onLoopback, err)
	got, err = plain.ask(t, plain.address, insecure.NewCredentials(), source.PerRPCCredentials(credbroker.AllowPlaintext()))
	sent("plaintext that was allowed", got, err)
}

func TestACallWithoutATokenSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	plain := serve(t, "tcp", "127.0.0.1:0", insecure.NewCredentials())
	client := w.client()
	perCall := func(provider string) credentials.PerRPCCredentials {
		return client.TokenSource(provider).PerRPCCredentials(credbroker.AllowPlaintext())
	}
	reason := func(err error) string {
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				return info.GetReason()
			}
		}
		return ""
	}
	_, err := plain.ask(t, plain.address, insecure.NewCredentials(), perCall("absent"))
	if status.Code(err) != codes.Unauthenticated || reason(err) != "NOT_FOUND" || !strings.Contains(err.Error(), "NOT_FOUND") {
		t.Errorf("%v", err)
	}
	w.stop()
	_, err = plain.ask(t, plain.address, insecure.NewCredentials(), perCall("github"))
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "credential broker") {
		t.Errorf("%v", err)
	}
}
