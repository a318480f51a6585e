package credbroker_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"credbroker.dev/go"
	pb "credbroker.dev/go/credbrokerpb"
)

func TestCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	ctx := within(t, 20*time.Second)

	token, err := client.GetToken(ctx, "github")
	if err != nil {
		t.Fatal(err)
	}
	left, expires := token.ExpiresIn()
	if token.AccessToken.Reveal() != githubToken || token.TokenType != "Bearer" || token.Scope != "repo" ||
		token.Revision == "" || !token.Valid() || !expires || left < 50*time.Minute || left > time.Hour ||
		time.Until(token.ExpireTime) < 50*time.Minute || token.Authorization() != "Bearer "+githubToken {
		t.Errorf("%+v, %v", token, left)
	}
	work, err := client.GetToken(ctx, "github", credbroker.Bucket("work"), credbroker.MinValidity(time.Minute))
	if err != nil || work.AccessToken.Reveal() != "ghw" {
		t.Errorf("%v, %v", work, err)
	}
	if key, err := client.GetAPIKey(ctx, "openai"); err != nil || key.Reveal() != openaiKey {
		t.Errorf("%v, %v", key, err)
	}
	for name, list := range map[string]func() ([]string, error){
		"acme github orphan stale": func() ([]string, error) { return client.ListProviders(ctx) },
		"default work":             func() ([]string, error) { return client.ListBuckets(ctx, "github") },
		"openai":                   func() ([]string, error) { return client.ListAPIKeys(ctx) },
	} {
		if got, err := list(); err != nil || !slices.Equal(got, strings.Fields(name)) {
			t.Errorf("%v, %v; want %s", got, err, name)
		}
	}
	stats, err := client.GetBucketStats(ctx, "github")
	if err != nil || stats.Bucket != "default" || stats.RequestCount != 1 || stats.Percentage != 50 ||
		time.Since(stats.LastUsed).Abs() > time.Minute {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestMoreNamesThanOnePageHolds(t *testing.T) {
	fake := newFake(t)
	for i := range 1203 {
		fake.providers = append(fake.providers, "p"+strings.Repeat("x", i%7))
	}
	got, err := fake.client(t).ListProviders(within(t, 10*time.Second))
	if err != nil || !slices.Equal(got, fake.providers) {
		t.Errorf("%d names, %v", len(got), err)
	}
}

func TestSaveRefreshRemove(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	ctx := within(t, 20*time.Second)

	first, err := client.GetToken(ctx, "acme")
	if err != nil {
		t.Fatal(err)
	}
	second, err := client.RefreshToken(ctx, "acme", first.Revision)
	if err != nil || second.Revision == first.Revision || second.AccessToken.Reveal() == first.AccessToken.Reveal() {
		t.Fatalf("%v, %v", second, err)
	}
	if again, err := client.RefreshToken(ctx, "acme", first.Revision); err != nil || again.Revision != second.Revision {
		t.Errorf("an old revision gets the newest token: %v, %v", again, err)
	}
	if n := w.provider.refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}

	saved := credbroker.NewToken{AccessToken: credbroker.NewSecret("gho_new"), ExpiresIn: time.Minute, Scope: "read"}
	if err := client.SaveToken(ctx, "github", saved); err != nil {
		t.Fatal(err)
	}
	token, err := client.GetToken(ctx, "github")
	if left, _ := token.ExpiresIn(); err != nil || token.AccessToken.Reveal() != "gho_new" || token.Scope != "read" ||
		left > time.Minute || left < 50*time.Second {
		t.Errorf("%v, %v", token, err)
	}
	if err := client.SaveToken(ctx, "acme", saved); !errors.Is(err, credbroker.Unauthorized) {
		t.Errorf("without the right to save: %v", err)
	}

	if revocation, err := client.RemoveToken(ctx, "github"); err != nil ||
		revocation != credbroker.RevocationNotSupported {
		t.Errorf("%v, %v", revocation, err)
	}
	if _, err := client.RemoveToken(ctx, "github"); !errors.Is(err, credbroker.NotFound) {
		t.Errorf("%v", err)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Second)
	client := w.client()
	ctx := within(t, 50*time.Second)
	get := func(provider string) error {
		_, err := client.GetToken(ctx, provider)
		return err
	}
	key := func(name string) error {
		_, err := client.GetAPIKey(ctx, name)
		return err
	}
	wrong := newClient(t, credbroker.Config{Socket: w.socket, Capability: credbroker.NewSecret(strings.Repeat("0", 64))})
	none := newClient(t, credbroker.Config{Socket: w.socket})

	for name, check := range map[string]struct {
		err      error
		reason   credbroker.Reason
		code     codes.Code
		metadata string
	}{
		"absent":           {get("absent"), credbroker.NotFound, codes.NotFound, "absent/default"},
		"absent key":       {key("absent"), credbroker.NotFound, codes.NotFound, ""},
		"not allowed":      {get("gitlab"), credbroker.Unauthorized, codes.PermissionDenied, "gitlab/default"},
		"key, not allowed": {key("anthropic"), credbroker.Unauthorized, codes.PermissionDenied, ""},
		"malformed":        {get("../etc"), credbroker.InvalidRequest, codes.InvalidArgument, ""},
		"no refresh token": {get("stale"), credbroker.NeedsLogin, codes.FailedPrecondition, "stale/default"},
		"not configured":   {get("orphan"), credbroker.ProviderNotFound, codes.NotFound, ""},
		"wrong capability": {call(ctx, wrong), credbroker.Unauthenticated, codes.Unauthenticated, ""},
		"no capability":    {call(ctx, none), credbroker.Unauthenticated, codes.Unauthenticated, ""},
	} {
		var got *credbroker.Error
		if !errors.As(check.err, &got) {
			t.Errorf("%s: %v", name, check.err)
			continue
		}
		if got.Reason != check.reason || got.Code != check.code || status.Code(check.err) != check.code ||
			!errors.Is(check.err, check.reason) || errors.Is(check.err, credbroker.InternalError) || got.Message == "" ||
			errors.Is(check.err, credbroker.ErrUnreachable) || !strings.Contains(got.Error(), string(check.reason)) {
			t.Errorf("%s: %+v", name, got)
		}
		if check.metadata != "" && got.Metadata["provider"]+"/"+got.Metadata["bucket"] != check.metadata {
			t.Errorf("%s: %v", name, got.Metadata)
		}
	}

	var malformed *credbroker.Error
	if errors.As(get("../etc"), &malformed); len(malformed.Violations) != 1 ||
		malformed.Violations[0].Field != "provider" || malformed.Violations[0].Description == "" {
		t.Errorf("%+v", malformed.Violations)
	}

	w.provider.with(func(p *provider) { p.down = true })
	eventually(t, 20*time.Second, "PROVIDER_UNAVAILABLE with a time to wait", func() bool {
		var err *credbroker.Error
		return errors.As(get("acme"), &err) && err.Reason == credbroker.ProviderUnavailable && err.RetryAfter > 0
	})
	eventually(t, 20*time.Second, "RATE_LIMITED with a time to wait", func() bool {
		for range 200 {
			var err *credbroker.Error
			if errors.As(key("openai"), &err) {
				return err.Reason == credbroker.RateLimited && err.RetryAfter > 0
			}
		}
		return false
	})
}

func call(ctx context.Context, client *credbroker.Client) error {
	_, err := client.GetToken(ctx, "github")
	return err
}

func TestTheCallersMetadataStaysWithTheCaller(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	ctx := metadata.AppendToOutgoingContext(within(t, 10*time.Second), "authorization", "Bearer of-somebody-else")
	if err := call(ctx, w.client()); err != nil {
		t.Error(err)
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "sock")
	client := newClient(t, credbroker.Config{Socket: socket})
	for range 3 {
		began := time.Now()
		err := call(t.Context(), client)
		if !errors.Is(err, credbroker.ErrUnreachable) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	if _, err := client.TokenSource("github").Get(t.Context()); !errors.Is(err, credbroker.ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestConfiguration(t *testing.T) {
	t.Setenv(credbroker.EnvSocket, "")
	if _, err := credbroker.FromEnv(); !errors.Is(err, credbroker.ErrNotConfigured) ||
		!strings.Contains(err.Error(), "credbroker run") {
		t.Errorf("%v", err)
	}
	if _, err := credbroker.New(credbroker.Config{}); !errors.Is(err, credbroker.ErrNotConfigured) {
		t.Errorf("%v", err)
	}
	t.Setenv(credbroker.EnvSocket, "/nowhere")
	for _, capability := range []string{"not hex\r\n", strings.Repeat("ab", 31), strings.Repeat("zy", 32)} {
		t.Setenv(credbroker.EnvCapability, capability)
		if _, err := credbroker.FromEnv(); !errors.Is(err, credbroker.ErrNotConfigured) ||
			strings.Contains(err.Error(), capability) {
			t.Errorf("%v", err)
		}
	}
	w := newWorld(t, time.Hour)
	t.Setenv(credbroker.EnvSocket, w.socket)
	t.Setenv(credbroker.EnvCapability, w.capability)
	client, err := credbroker.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := call(within(t, 10*time.Second), client); err != nil {
		t.Error(err)
	}
}

func TestContextsAndClosing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	if err := call(within(t, 10*time.Second), client); err != nil {
		t.Fatal(err)
	}

	w.pause()
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if err := call(cancelled, client); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := call(within(t, 100*time.Millisecond), client); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = client.Close() })
	if err := call(within(t, 10*time.Second), client); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("a call that was under way: %v", err)
	}
	if err := call(t.Context(), client); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("a later call: %v", err)
	}
	w.resume()
}

func TestABrokerThatWasStartedAgainIsFoundAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	ctx := within(t, 50*time.Second)
	if err := call(ctx, client); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.stop()
		// Long enough for gRPC to wait for a second between its own tries.
		for began := time.Now(); time.Since(began) < 2*time.Second; time.Sleep(50 * time.Millisecond) {
			if err := call(ctx, client); !errors.Is(err, credbroker.ErrUnreachable) {
				t.Fatalf("%v", err)
			}
		}
		w.start()
		if err := call(ctx, client); err != nil {
			t.Errorf("the first call: %v", err)
		}
	}
}

func TestTheStubCarriesTheCapability(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	stub := w.client().Stub()
	ctx := within(t, 10*time.Second)
	answer, err := stub.GetServerInfo(ctx, &pb.GetServerInfoRequest{})
	if err != nil || answer.GetVersion() != 1 {
		t.Errorf("%v, %v", answer, err)
	}
	_, err = stub.GetToken(ctx, &pb.GetTokenRequest{Provider: "absent"})
	if !errors.Is(err, credbroker.NotFound) {
		t.Errorf("%v", err)
	}
}
