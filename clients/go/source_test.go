package credbroker_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"credbroker.dev/go"
)

// get is a token that must be there and good.
func get(t *testing.T, source *credbroker.TokenSource) *credbroker.Token {
	t.Helper()
	token, err := source.Get(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	if !token.Valid() {
		t.Fatalf("a token that has expired: %v", token)
	}
	return token
}

// isActive tells what the provider thinks of a token.
func (p *provider) isActive(token *credbroker.Token) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, known := p.active[token.AccessToken.Reveal()]
	return known && time.Now().Before(until)
}

// deliveries is how often the broker gave an entry's token to anybody.
func deliveries(t *testing.T, client *credbroker.Client, provider string) uint64 {
	t.Helper()
	stats, err := client.GetBucketStats(within(t, 10*time.Second), provider)
	if err != nil {
		t.Fatal(err)
	}
	return stats.RequestCount
}

func TestASourceFollowsItsEntry(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2*time.Second)
	client := w.client()
	source := client.TokenSource("acme")
	revisions := map[string]bool{}
	asked := 0
	for began := time.Now(); time.Since(began) < 8*time.Second; time.Sleep(5 * time.Millisecond) {
		token := get(t, source)
		if !w.provider.isActive(token) {
			t.Fatalf("the provider does not know %v", token)
		}
		revisions[token.Revision] = true
		asked++
	}
	if len(revisions) < 5 {
		t.Errorf("%d tokens in 8 s, of 2 s each", len(revisions))
	}
	// One for each token, and one for the first question.
	if n := deliveries(t, client, "acme"); asked < 500 || n > uint64(len(revisions))+2 {
		t.Errorf("%d deliveries of %d tokens for %d questions", n, len(revisions), asked)
	}
}

func TestAskingAValidTokenWaitsForNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	source := w.client().TokenSource("github")
	first := get(t, source)
	w.pause()
	defer w.resume()
	var group sync.WaitGroup
	began := time.Now()
	for range 100 {
		group.Go(func() {
			for range 100 {
				token, err := source.Get(t.Context())
				if err != nil || token.Revision != first.Revision {
					t.Errorf("%v, %v", token, err)
					return
				}
			}
		})
	}
	group.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("10000 questions took %v", took)
	}
}

func TestManyWhoAskAtFirstShareOneCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	source := client.TokenSource("acme")
	var group sync.WaitGroup
	for range 500 {
		group.Go(func() {
			if _, err := source.Get(within(t, 10*time.Second)); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := deliveries(t, client, "acme"); n > 5 {
		t.Errorf("%d deliveries", n)
	}
}

// A broker that is away: the token is served until it expires and never longer, and the broker is found again.
func TestASourceOutlivesItsBroker(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*world){"stopped": (*world).stop, "killed": (*world).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 4*time.Second)
			source := w.client().TokenSource("acme")
			before := get(t, source)
			for range 2 {
				end(w)
				served := 0
				var expired error
				for deadline := time.Now().Add(10 * time.Second); expired == nil; time.Sleep(10 * time.Millisecond) {
					token, err := source.Get(within(t, time.Second))
					if expired = err; err != nil {
						break
					}
					served++
					if !token.Valid() || !w.provider.isActive(token) || time.Now().After(deadline) {
						t.Fatalf("%v was served", token)
					}
				}
				if served < 10 || !errors.Is(expired, credbroker.ErrUnreachable) {
					t.Errorf("%d times served, then %v", served, expired)
				}
				w.start()
				after := get(t, source)
				if after.Revision == before.Revision {
					t.Errorf("the same token %v", after)
				}
				before = after
				// And the stream is there again: a new token arrives without a question.
				eventually(t, 5*time.Second, "the next token", func() bool { return get(t, source).Revision != before.Revision })
				before = get(t, source)
			}
		})
	}
}

// While the broker is away and comes back within the life of the token, nobody notices.
func TestAShortAbsenceIsNotSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 6*time.Second)
	source := w.client().TokenSource("acme")
	get(t, source)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			w.stop()
			time.Sleep(300 * time.Millisecond)
			w.start()
			time.Sleep(2 * time.Second)
		}
	}()
	for running := true; running; time.Sleep(5 * time.Millisecond) {
		select {
		case <-done:
			running = false
		default:
			if token := get(t, source); !w.provider.isActive(token) {
				t.Fatalf("the provider does not know %v", token)
			}
		}
	}
}

func TestARemovedEntryIsServedNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	source := client.TokenSource("github")
	get(t, source)
	for range 2 {
		if _, err := client.RemoveToken(t.Context(), "github"); err != nil {
			t.Fatal(err)
		}
		var err error
		eventually(t, 5*time.Second, "the source hears of it", func() bool {
			_, err = source.Get(within(t, 5*time.Second))
			return err != nil
		})
		if !errors.Is(err, credbroker.NotFound) {
			t.Errorf("%v", err)
		}
		// Who asks again asks anew.
		w.cli(`{"access_token":"gho_second","expires_in":3600}`, "token", "import", "github")
		eventually(t, 5*time.Second, "the next token", func() bool {
			token, err := source.Get(within(t, 5*time.Second))
			return err == nil && token.AccessToken.Reveal() == "gho_second"
		})
	}
}

// A token that another process stores comes by the stream.
func TestANewTokenReplacesAValidOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	source := w.client().TokenSource("github", credbroker.Bucket("work"))
	get(t, source)
	w.cli(`{"access_token":"ghw_second","expires_in":3600}`, "token", "import", "github", "--bucket", "work")
	eventually(t, 5*time.Second, "the new token", func() bool { return get(t, source).AccessToken.Reveal() == "ghw_second" })
}

func TestReasonsReachWhoAsks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Second)
	client := w.client()
	for provider, reason := range map[string]credbroker.Reason{
		"absent": credbroker.NotFound, "gitlab": credbroker.Unauthorized, "stale": credbroker.NeedsLogin,
		"../etc": credbroker.InvalidRequest, "orphan": credbroker.ProviderNotFound,
	} {
		source := client.TokenSource(provider)
		for range 2 {
			if _, err := source.Get(within(t, 10*time.Second)); !errors.Is(err, reason) {
				t.Errorf("%s: %v", provider, err)
			}
			if _, err := source.Token(); !errors.Is(err, reason) {
				t.Errorf("%s: %v", provider, err)
			}
		}
	}
	source := client.TokenSource("acme")
	get(t, source)
	w.provider.with(func(p *provider) { p.refusing = true })
	var err error
	eventually(t, 10*time.Second, "the provider wants a login", func() bool {
		_, err = source.Get(within(t, 10*time.Second))
		return err != nil
	})
	if !errors.Is(err, credbroker.NeedsLogin) {
		t.Errorf("%v", err)
	}
	w.provider.with(func(p *provider) { p.refusing = false })
	w.cli(w.provider.tokenSet(), "token", "import", "acme")
	eventually(t, 10*time.Second, "after the login", func() bool {
		_, err := source.Get(within(t, 10*time.Second))
		return err == nil
	})
}

func TestRefusedTokensAreRefreshedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	source := client.TokenSource("acme")
	first := get(t, source)
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			token, err := source.Refresh(within(t, 10*time.Second), first.Revision)
			if err != nil || token.Revision == first.Revision {
				t.Errorf("%v, %v", token, err)
			}
		})
	}
	group.Wait()
	if n := w.provider.refreshes(); n != 1 {
		t.Errorf("%d refreshes", n)
	}
	second := get(t, source)
	if second.Revision == first.Revision {
		t.Error("the refused token is served")
	}
	w.pause()
	if again, err := source.Refresh(within(t, time.Second), first.Revision); err != nil || again.Revision != second.Revision {
		t.Errorf("a late report of the refused token waits for the broker: %v", err)
	}
	w.resume()
	// An entry that cannot be refreshed goes on with what it has.
	static := client.TokenSource("github")
	token := get(t, static)
	if _, err := static.Refresh(t.Context(), token.Revision); !errors.Is(err, credbroker.NeedsLogin) {
		t.Errorf("%v", err)
	}
	if get(t, static).Revision != token.Revision {
		t.Error("another token")
	}
}

func TestEndOfASource(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	closed, other := client.TokenSource("github"), client.TokenSource("acme")
	get(t, closed)
	get(t, other)
	closed.Close()
	closed.Close()
	if _, err := closed.Get(t.Context()); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := closed.Token(); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("%v", err)
	}
	if _, err := closed.Refresh(t.Context(), ""); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("%v", err)
	}
	get(t, other)

	waiting := client.TokenSource("github")
	w.pause()
	time.AfterFunc(100*time.Millisecond, waiting.Close)
	if _, err := waiting.Get(within(t, 10*time.Second)); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("while it waits: %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := client.TokenSource("github").Get(cancelled); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	time.AfterFunc(100*time.Millisecond, func() { _ = client.Close() })
	if _, err := client.TokenSource("github").Get(within(t, 10*time.Second)); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("while the client is closed: %v", err)
	}
	if _, err := other.Get(t.Context()); !errors.Is(err, credbroker.ErrClosed) {
		t.Errorf("after the client: %v", err)
	}
	w.resume()
}

// More sources than a connection may have streams: they all work.
func TestMoreSourcesThanStreams(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	for range 70 {
		source := client.TokenSource("github")
		eventually(t, 10*time.Second, "the rate allows a call", func() bool {
			_, err := source.Get(within(t, 5*time.Second))
			if err != nil && !errors.Is(err, credbroker.RateLimited) {
				t.Fatal(err)
			}
			return err == nil
		})
	}
}

// Not parallel: it looks at every goroutine of the process.
func TestNothingRunsAfterClose(t *testing.T) {
	w := newWorld(t, time.Hour)
	running := func() int {
		stacks := make([]byte, 1<<20)
		return strings.Count(string(stacks[:runtime.Stack(stacks, true)]), ").follow(")
	}
	client := w.client()
	one, two := client.TokenSource("github"), client.TokenSource("acme")
	get(t, one)
	get(t, two)
	eventually(t, 5*time.Second, "two streams", func() bool { return running() == 2 })
	one.Close()
	eventually(t, 5*time.Second, "one stream", func() bool { return running() == 1 })
	_ = client.Close()
	eventually(t, 5*time.Second, "no stream", func() bool { return running() == 0 })
}
