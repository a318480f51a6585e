package credbroker_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"credbroker.dev/go"
	pb "credbroker.dev/go/credbrokerpb"
)

// fake is a broker for what a real one does not do on demand: answers of a later version, many names.
type fake struct {
	pb.UnimplementedCredentialBrokerServer
	socket    string
	version   error
	versions  atomic.Int32
	refusal   error
	providers []string
	asked     atomic.Int32
	token     *pb.AccessToken
	left      atomic.Int64 // How long the last call was given.
	watched   atomic.Int32
	unwatched error // How a stream ends.
	stop      func()
}

func newFake(t *testing.T) *fake {
	t.Helper()
	return newFakeAt(t, filepath.Join(t.TempDir(), "s"))
}

func newFakeAt(t *testing.T, socket string) *fake {
	t.Helper()
	f := &fake{socket: socket, token: &pb.AccessToken{
		AccessToken: "eternal", TokenType: "DPoP", Extra: map[string]string{"id": "extra-value"},
	}}
	listener, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pb.RegisterCredentialBrokerServer(server, f)
	go func() { _ = server.Serve(listener) }()
	f.stop = server.Stop
	t.Cleanup(f.stop)
	return f
}

func (f *fake) client(t *testing.T) *credbroker.Client {
	return newClient(t, credbroker.Config{Socket: f.socket})
}

func (f *fake) GetServerInfo(context.Context, *pb.GetServerInfoRequest) (*pb.GetServerInfoResponse, error) {
	f.versions.Add(1)
	return &pb.GetServerInfoResponse{Version: 1}, f.version
}

func (f *fake) WatchToken(_ *pb.WatchTokenRequest, _ grpc.ServerStreamingServer[pb.WatchTokenResponse]) error {
	f.watched.Add(1)
	if f.unwatched == nil {
		return status.Error(codes.Unimplemented, "of an earlier version")
	}
	return f.unwatched
}

func (f *fake) GetToken(ctx context.Context, _ *pb.GetTokenRequest) (*pb.GetTokenResponse, error) {
	f.asked.Add(1)
	if deadline, bounded := ctx.Deadline(); bounded {
		f.left.Store(int64(time.Until(deadline)))
	}
	return &pb.GetTokenResponse{Token: f.token}, f.refusal
}

func (f *fake) ListProviders(_ context.Context, r *pb.ListProvidersRequest) (*pb.ListProvidersResponse, error) {
	from, _ := strconv.Atoi(r.GetPageToken())
	to := min(from+int(r.GetPageSize()), len(f.providers))
	answer := &pb.ListProvidersResponse{Providers: f.providers[from:to]}
	if to < len(f.providers) {
		answer.NextPageToken = strconv.Itoa(to)
	}
	return answer, nil
}

func refusal(code codes.Code, domain, reason string) error {
	said, err := status.New(code, "in words").WithDetails(
		&errdetails.ErrorInfo{Domain: domain, Reason: reason, Metadata: map[string]string{"k": "v"}})
	if err != nil {
		return err
	}
	return said.Err()
}

func TestAReasonOfTheFutureIsKept(t *testing.T) {
	f := newFake(t)
	f.refusal = refusal(codes.ResourceExhausted, credbroker.Domain, "TOO_MANY_MOONS")
	var got *credbroker.Error
	if err := call(t.Context(), f.client(t)); !errors.As(err, &got) || got.Reason != "TOO_MANY_MOONS" ||
		got.Code != codes.ResourceExhausted || got.Message != "in words" || got.Metadata["k"] != "v" ||
		!errors.Is(err, credbroker.Reason("TOO_MANY_MOONS")) {
		t.Errorf("%+v", got)
	}
	f.refusal = refusal(codes.NotFound, "elsewhere.example", "NOT_FOUND")
	if err := call(t.Context(), f.client(t)); !errors.As(err, &got) || got.Reason != "" || got.Code != codes.NotFound ||
		errors.Is(err, credbroker.NotFound) || errors.Is(err, credbroker.Reason("")) {
		t.Errorf("another domain's reason: %+v", got)
	}
}

func TestOneHandshakeForAConnection(t *testing.T) {
	f := newFake(t)
	client := f.client(t)
	f.version = refusal(codes.FailedPrecondition, credbroker.Domain, "UNKNOWN_VERSION")
	if err := call(t.Context(), client); !errors.Is(err, credbroker.UnknownVersion) {
		t.Errorf("%v", err)
	}
	f.version = nil
	f.versions.Store(0)
	results := make(chan error)
	for range 50 {
		go func() { results <- call(t.Context(), client) }()
	}
	for range 50 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if n := f.versions.Load(); n != 1 {
		t.Errorf("%d handshakes", n)
	}
	f.stop()
	if err := call(t.Context(), client); !errors.Is(err, credbroker.ErrUnreachable) {
		t.Errorf("%v", err)
	}
	f = newFakeAt(t, f.socket)
	if err := call(t.Context(), client); err != nil || f.versions.Load() != 1 {
		t.Errorf("another broker: %d handshakes, %v", f.versions.Load(), err)
	}
}

func TestATokenThatDoesNotExpire(t *testing.T) {
	token, err := newFake(t).client(t).GetToken(t.Context(), "github")
	if err != nil {
		t.Fatal(err)
	}
	if left, expires := token.ExpiresIn(); expires || left != 0 || !token.Valid() || !token.ExpireTime.IsZero() {
		t.Errorf("%v, %v", token, left)
	}
	if other := token.OAuth2(); !other.Valid() || !other.Expiry.IsZero() || other.Type() != "DPoP" ||
		other.Extra("id") != "extra-value" {
		t.Error("as an oauth2.Token")
	}
	if token.Authorization() != "DPoP eternal" || token.Extra["id"].Reveal() != "extra-value" {
		t.Errorf("%v", token)
	}
}

// A broker without WatchToken: the source asks.
func TestASourceWithoutAStream(t *testing.T) {
	f := newFake(t)
	source := f.client(t).TokenSource("github")
	for range 3 {
		if token, err := source.Get(within(t, 5*time.Second)); err != nil || token.AccessToken.Reveal() != "eternal" {
			t.Errorf("%v, %v", token, err)
		}
	}
	if n := f.asked.Load(); n != 1 {
		t.Errorf("%d calls for a token that is at hand", n)
	}
}

func TestACallWithoutADeadlineGetsOne(t *testing.T) {
	f := newFake(t)
	client := f.client(t)
	for want, ctx := range map[time.Duration]context.Context{30 * time.Second: t.Context(), time.Hour: within(t, time.Hour)} {
		if err := call(ctx, client); err != nil {
			t.Error(err)
		}
		if left := time.Duration(f.left.Load()); left > want || left < want-5*time.Second {
			t.Errorf("%v instead of %v", left, want)
		}
	}
}

// A broker that says when to come again is asked again then, and one that does not, soon.
func TestAStreamIsOpenedAgain(t *testing.T) {
	for said, most := range map[time.Duration]int32{time.Hour: 1, 0: 100} {
		f := newFake(t)
		details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: credbroker.Domain, Reason: "STORE_UNAVAILABLE"}}
		if said != 0 {
			details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(said)})
		}
		ended, err := status.New(codes.Unavailable, "later").WithDetails(details...)
		if err != nil {
			t.Fatal(err)
		}
		f.unwatched = ended.Err()
		source := f.client(t).TokenSource("github")
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if _, err := source.Get(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := f.watched.Load(); n > most || most > 1 && (n < 3 || n > 15) {
			t.Errorf("%d streams within 2 s, for RetryInfo %v", n, said)
		}
		if n := f.asked.Load(); n != 1 {
			t.Errorf("%d calls", n)
		}
	}
}

// The host's clock and this one differ by years: what the broker says about the time that remains is what counts.
func TestClocksThatDiffer(t *testing.T) {
	f := newFake(t)
	source := f.client(t).TokenSource("github")
	f.token = &pb.AccessToken{AccessToken: "a", ExpireTime: timestamppb.New(time.Unix(0, 0)), ExpiresIn: durationpb.New(time.Hour)}
	token, err := source.Get(t.Context())
	if err != nil || !token.Valid() || !token.OAuth2().Valid() {
		t.Errorf("the host is behind: %v, %v", token, err)
	}
	f = newFake(t)
	source = f.client(t).TokenSource("github")
	f.token = &pb.AccessToken{
		AccessToken: "a", ExpireTime: timestamppb.New(time.Now().Add(10000 * time.Hour)), ExpiresIn: durationpb.New(time.Second),
	}
	token, err = source.Get(t.Context())
	if err != nil || !token.Valid() {
		t.Errorf("the host is ahead: %v, %v", token, err)
	}
	time.Sleep(time.Second)
	f.refusal = refusal(codes.FailedPrecondition, credbroker.Domain, "NEEDS_LOGIN")
	if _, err := source.Get(t.Context()); token.Valid() || !errors.Is(err, credbroker.NeedsLogin) {
		t.Errorf("the host is ahead, and the token has expired: %v, %v", token, err)
	}
}
