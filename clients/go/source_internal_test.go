package credbroker

import (
	"errors"
	"path/filepath"
	"testing"
	"time"
)

// A token that does not expire is asked for again from time to time where no stream tells of a new one.
func TestATokenThatNothingFollows(t *testing.T) {
	client, err := New(Config{Socket: filepath.Join(t.TempDir(), "nobody")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	source := client.TokenSource("github")
	source.token = &Token{AccessToken: NewSecret("t"), received: now()}
	source.token.received.monotonic -= unwatched - 10*time.Second
	if token, err := source.Get(t.Context()); err != nil || token != source.token {
		t.Errorf("before it is time: %v, %v", token, err)
	}
	source.token.received.monotonic -= 11 * time.Second
	if _, err := source.Get(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("when it is time: %v", err)
	}
	// Now there is a stream, or one is being tried for.
	if token, err := source.Get(t.Context()); err != nil || !token.Valid() {
		t.Errorf("while it is followed: %v, %v", token, err)
	}
}

// An answer that was under way when the broker took the entry away does not bring its token back.
func TestATokenThatWasTakenBackStaysAway(t *testing.T) {
	client, err := New(Config{Socket: filepath.Join(t.TempDir(), "nobody")})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	source := client.TokenSource("github")
	always := func(*Token) bool { return true }
	seen := source.dropped
	source.lost(&Error{Reason: NotFound})
	source.keep(&Token{AccessToken: NewSecret("late")}, seen, always)
	if source.token != nil {
		t.Error("it is there again")
	}
	source.keep(&Token{AccessToken: NewSecret("new")}, source.dropped, always)
	source.lost(&Error{Reason: ProviderUnavailable})
	if !source.token.Valid() {
		t.Error("a provider that fails takes nothing back")
	}
}

// The stream and a refresh are not in step: what was sent before the refresh does not undo it.
func TestALateMessageDoesNotUndoARefresh(t *testing.T) {
	source := &TokenSource{replaced: "1"}
	for revision, want := range map[string]string{"1": "2", "3": "3"} {
		source.token = &Token{Revision: "2"}
		source.arrived(&Token{Revision: revision})
		if source.token.Revision != want {
			t.Errorf("%s after 2: %s", revision, source.token.Revision)
		}
	}
}
