package credbroker_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/oauth2"

	"credbroker.dev/go"
)

// ask does a request and returns the status; the answer has to be readable to its end.
func ask(t *testing.T, client *http.Client, request *http.Request) int {
	t.Helper()
	answer, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(within(t, 10*time.Second), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

// unreplayable is a reader that net/http cannot rewind.
type unreplayable struct{ io.Reader }

func TestARefusedRequestIsRepeatedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	source := w.client().TokenSource("acme")
	client, url := source.HTTPClient(), w.provider.URL+"/resource"

	if got := ask(t, client, request(t, "GET", url, nil)); got != http.StatusOK {
		t.Fatal(got)
	}
	first := w.provider.seen()

	w.provider.revokeAll()
	if got := ask(t, client, request(t, "POST", url, unreplayable{strings.NewReader("once")})); got != http.StatusUnauthorized {
		t.Errorf("a body that cannot be sent again: %d", got)
	}
	if seen := w.provider.seen(); len(seen) != 1 || seen[0].body != "once" {
		t.Errorf("%v", seen)
	}
	original := request(t, "POST", url, strings.NewReader("the body"))
	if got := ask(t, client, original); got != http.StatusOK {
		t.Errorf("%d", got)
	}
	if original.Header.Get("Authorization") != "" {
		t.Error("the caller's request was changed")
	}
	seen := w.provider.seen()
	if len(seen) != 2 || seen[0].authorization != first[0].authorization ||
		seen[1].authorization == first[0].authorization || seen[0].body != "the body" || seen[1].body != "the body" {
		t.Errorf("%v", seen)
	}
	if n := w.provider.refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestManyRefusedRequestsShareARefresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	source := w.client().TokenSource("acme")
	get(t, source)
	w.provider.revokeAll()
	client := source.HTTPClient()
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() {
			answer, err := client.Get(w.provider.URL + "/resource")
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Error(answer.Status)
			}
		})
	}
	group.Wait()
	if n := w.provider.refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
}

func TestAServerThatRefusesEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, _ *http.Request) {
		asked++
		writer.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprint(writer, "no")
	}))
	defer server.Close()
	client := w.client()
	if got := ask(t, client.TokenSource("acme").HTTPClient(), request(t, "GET", server.URL, nil)); got != 401 || asked != 2 {
		t.Errorf("%d, asked %d times", got, asked)
	}
	// github has nothing to refresh with: the server's answer is the answer.
	asked = 0
	if got := ask(t, client.TokenSource("github").HTTPClient(), request(t, "GET", server.URL, nil)); got != 401 || asked != 1 {
		t.Errorf("%d, asked %d times", got, asked)
	}
}

// closing notes whether a request's body was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestARequestWithoutATokenIsNotSent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	body := &closing{Reader: strings.NewReader("text")}
	_, err := w.client().TokenSource("absent").HTTPClient().Do(request(t, "POST", w.provider.URL+"/resource", body))
	if !errors.Is(err, credbroker.NotFound) || !body.closed || len(w.provider.seen()) != 0 {
		t.Errorf("%v, closed: %v", err, body.closed)
	}
}

func TestARedirectDoesNotCarryTheTokenAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client().TokenSource("acme").HTTPClient()
	var stranger []string
	server := httptest.NewServer(http.HandlerFunc(func(writer http.ResponseWriter, r *http.Request) {
		stranger = append(stranger, r.Header.Get("Authorization"))
		if back := r.URL.Query().Get("back"); back != "" {
			http.Redirect(writer, r, back, http.StatusFound)
		}
	}))
	defer server.Close()
	elsewhere := w.provider.URL + "/elsewhere?to="

	ask(t, client, request(t, "GET", elsewhere+server.URL, nil))
	if len(stranger) != 1 || stranger[0] != "" {
		t.Errorf("the stranger got %q", stranger)
	}
	if got := ask(t, client, request(t, "GET", elsewhere+"/resource", nil)); got != http.StatusOK {
		t.Errorf("the same origin: %d", got)
	}
	w.provider.seen()
	// And back again: the stranger chose where to, so it is none of the token's business.
	ask(t, client, request(t, "GET", elsewhere+server.URL+"?back="+w.provider.URL+"/resource", nil))
	if seen := w.provider.seen(); len(seen) != 1 || seen[0].authorization != "" {
		t.Errorf("%v", seen)
	}
}

func TestOAuth2(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20*time.Second)
	source := w.client().TokenSource("acme")
	token, err := source.Token()
	if err != nil || !token.Valid() || token.Type() != "Bearer" || token.RefreshToken != "" ||
		time.Until(token.Expiry) > 20*time.Second || time.Until(token.Expiry) < 15*time.Second {
		t.Errorf("%v", err)
	}
	client := oauth2.NewClient(context.Background(), source)
	if got := ask(t, client, request(t, "GET", w.provider.URL+"/resource", nil)); got != http.StatusOK {
		t.Errorf("%d", got)
	}
}
