package credbroker_test

import (
	"errors"
	"net/http"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/oauth2"

	credbroker "credbroker.dev/go"
)

// required is a variable that the ring sets. Whoever has a credbroker to test with has to run these tests as ci.sh does.
func required(t *testing.T, name string) string {
	t.Helper()
	_ = binary(t)
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run ci.sh as README.md says", name)
	}
	return value
}

func fromEnv(t *testing.T) *credbroker.Client {
	t.Helper()
	_, _ = required(t, credbroker.EnvSocket), required(t, credbroker.EnvCapability)
	client, err := credbroker.FromEnv()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestWhatTheSandboxMayRead(t *testing.T) {
	client := fromEnv(t)
	ctx := within(t, 20*time.Second)
	if token, err := client.GetToken(ctx, "github"); err != nil || token.AccessToken.Reveal() != "gho_demo" {
		t.Errorf("%v, %v", token, err)
	}
	if key, err := client.GetAPIKey(ctx, "openai"); err != nil || key.Reveal() != "sk-demo" {
		t.Errorf("%v, %v", key, err)
	}
	_, err := client.GetToken(ctx, "gitlab")
	_, keyErr := client.GetAPIKey(ctx, "anthropic")
	if !errors.Is(err, credbroker.Unauthorized) || !errors.Is(keyErr, credbroker.Unauthorized) {
		t.Errorf("%v, %v", err, keyErr)
	}
	_, err = client.GetToken(ctx, "absent")
	_, keyErr = client.GetAPIKey(ctx, "absent")
	if !errors.Is(err, credbroker.NotFound) || !errors.Is(keyErr, credbroker.NotFound) {
		t.Errorf("%v, %v", err, keyErr)
	}
}

// Tokens of 5 seconds by a real provider, used all the time: none is refused, and one stream brings them all.
func TestATokenThatRotatesIsAlwaysGood(t *testing.T) {
	client := fromEnv(t)
	url := required(t, "TEST_RESOURCE_URL")
	seconds, err := strconv.Atoi(required(t, "TEST_SECONDS"))
	if err != nil || seconds < 1 {
		t.Fatalf("TEST_SECONDS: %v", err)
	}
	source := client.TokenSource("acme")
	plain := http.DefaultClient
	before := deliveries(t, client, "acme")
	clients := []*http.Client{source.HTTPClient(), {Transport: &oauth2.Transport{Source: source}}, plain}
	revisions := map[string]bool{}
	requests := 0
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		for _, client := range clients {
			asked := request(t, http.MethodGet, url, nil)
			token := get(t, source)
			revisions[token.Revision] = true
			if client == plain {
				token.SetAuthHeader(asked)
			}
			if status := ask(t, client, asked); status != http.StatusOK {
				t.Fatalf("the resource server answered %d after %d requests", status, requests)
			}
			requests++
		}
	}
	t.Logf("%d requests with %d tokens", requests, len(revisions))
	if len(revisions) < max(2, seconds/5) {
		t.Errorf("%d tokens in %d s", len(revisions), seconds)
	}
	// Each token came once by the stream; the first one was asked for as well. A stream that is opened again, or a refused
	// request that the transport hides, would be a delivery more.
	if n := deliveries(t, client, "acme") - before; n < uint64(len(revisions)) || n > uint64(len(revisions))+2 {
		t.Errorf("%d deliveries of %d tokens", n, len(revisions))
	}
}
