package credbroker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "credbroker.dev/go/credbrokerpb"
)

const (
	// How long to wait before the stream is opened again: a random part of a time that doubles.
	shortestPause = 100 * time.Millisecond
	longestPause  = 2 * time.Second
	// How long a token is taken for the entry's newest while nothing follows the entry and nothing tries to.
	unwatched = 30 * time.Second
)

// TokenSource follows an entry and keeps its newest token at hand. It is an oauth2.TokenSource.
//
// As long as its token is valid, asking for it costs no call: the broker renews the token in time and sends the new one.
// When the broker is away for a while, the source goes on with the token that it has until that expires, and connects
// again by itself. It never gives out an expired token: if it has none that is valid, it asks the broker and returns
// what that says. An error is never kept; the next who asks asks anew.
//
// Its methods may be called from many goroutines. It begins to follow the entry when it is first asked and ends when it
// or its client is closed. One client can follow 64 entries at once; a further source works too, but asks the broker
// every 30 s instead.
type TokenSource struct {
	client *Client
	entry  entry
	life   context.Context
	end    context.CancelCauseFunc
	shared singleflight.Group

	mu       sync.Mutex
	token    *Token
	replaced string // The revision that a refresh has replaced.
	dropped  uint   // How often a token was taken back.
	watching bool
}

var _ oauth2.TokenSource = (*TokenSource)(nil)

// TokenSource returns a source of a provider's entry.
func (c *Client) TokenSource(provider string, options ...EntryOption) *TokenSource {
	source := &TokenSource{client: c, entry: entryOf(provider, options)}
	source.life, source.end = context.WithCancelCause(c.life)
	return source
}

// String returns the entry's name.
func (s *TokenSource) String() string { return "credbroker token source of " + s.entry.String() }

// Format writes the entry's name, whatever the verb is: the fields are not for other goroutines.
func (s *TokenSource) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, s.String()) }

// Close ends the source. Who asks after that gets [ErrClosed].
func (s *TokenSource) Close() { s.end(ErrClosed) }

// Get returns a valid token. Only if there is none at hand it waits for the broker, for as long as the context says, or
// for 30 s.
func (s *TokenSource) Get(ctx context.Context) (*Token, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	token, seen := s.token, s.dropped
	good := token.Valid() && (s.watching || now().since(token.received) < unwatched)
	if !good && !s.watching {
		s.watching = true
		go s.follow()
	}
	s.mu.Unlock()
	if good {
		return token, nil
	}
	return s.share(ctx, "get", func(ctx context.Context) (*Token, error) {
		token, err := s.client.getToken(ctx, tokenRequest{entry: s.entry})
		if err != nil {
			s.lost(err)
			return nil, err
		}
		return s.keep(token, seen, func(newest *Token) bool { return !newest.Valid() }), nil
	})
}

// Token is [TokenSource.Get] as golang.org/x/oauth2 wants it.
func (s *TokenSource) Token() (*oauth2.Token, error) {
	token, err := s.Get(context.Background())
	if err != nil {
		return nil, err
	}
	return token.OAuth2(), nil
}

// Refresh returns a token that is newer than the one with this revision, which was refused where it was used. All who
// report the same revision at a time share one call.
func (s *TokenSource) Refresh(ctx context.Context, revision string) (*Token, error) {
	if err := s.usable(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	token, seen := s.token, s.dropped
	s.mu.Unlock()
	if token.Valid() && token.Revision != revision {
		return token, nil
	}
	return s.share(ctx, "refresh "+revision, func(ctx context.Context) (*Token, error) {
		// A refresh that fails takes nothing back: the token may be good elsewhere, and the stream tells if it is not.
		token, err := s.client.refreshToken(ctx, s.entry, revision)
		if err != nil {
			return nil, err
		}
		s.mu.Lock()
		s.replaced = revision
		s.mu.Unlock()
		return s.keep(token, seen, func(newest *Token) bool { return !newest.Valid() || newest.Revision == revision }), nil
	})
}

// usable tells whether the source and the caller are still there.
func (s *TokenSource) usable(ctx context.Context) error {
	if cause := context.Cause(s.life); cause != nil {
		return cause
	}
	return s.client.failed(ctx.Err())
}

// share runs a call once for all who want its result at the same time. Who goes away does not end it for the others.
func (s *TokenSource) share(ctx context.Context, what string, call func(context.Context) (*Token, error)) (*Token, error) {
	result := s.shared.DoChan(what, func() (any, error) {
		ctx, cancel := context.WithTimeout(s.life, callTimeout)
		defer cancel()
		return call(ctx)
	})
	select {
	case result := <-result:
		if cause := context.Cause(s.life); result.Err != nil && cause != nil {
			return nil, cause
		}
		token, _ := result.Val.(*Token)
		return token, result.Err
	case <-ctx.Done():
		return nil, s.client.failed(ctx.Err())
	case <-s.life.Done():
		return nil, context.Cause(s.life)
	}
}

// keep makes a token that was asked for the newest one, if what is there may be replaced and none was taken back since,
// and returns what to give out.
func (s *TokenSource) keep(token *Token, seen uint, replaceable func(*Token) bool) *Token {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped != seen {
		return token
	}
	if replaceable(s.token) {
		s.token = token
	}
	return s.token
}

// lost takes the token back if the error says that it must not be used any more.
func (s *TokenSource) lost(err error) {
	if _, revoked := ends(err); revoked {
		s.mu.Lock()
		s.token, s.dropped = nil, s.dropped+1
		s.mu.Unlock()
	}
}

// follow keeps a stream open until the source is closed, or the broker says why there is nothing to follow.
func (s *TokenSource) follow() {
	pause := shortestPause
	for {
		received, err := s.watch()
		over, revoked := ends(err)
		if over {
			s.mu.Lock()
			s.watching = false
			if revoked {
				s.token, s.dropped = nil, s.dropped+1
			}
			s.mu.Unlock()
			return
		}
		if received {
			pause = shortestPause
		}
		wait := pause/2 + rand.N(pause/2)
		if known := (*Error)(nil); errors.As(err, &known) {
			wait = max(wait, known.RetryAfter)
		}
		pause = min(2*pause, longestPause)
		select {
		case <-time.After(wait):
		case <-s.life.Done():
		}
	}
}

// arrived makes a token of the stream the newest one. It may have been sent before a refresh replaced it.
func (s *TokenSource) arrived(token *Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if token.Revision != s.replaced || token.Revision == "" {
		s.token = token
	}
}

// watch keeps the newest token until the stream ends.
func (s *TokenSource) watch() (received bool, err error) {
	ctx, cancel := context.WithCancel(s.life)
	defer cancel()
	stream, err := s.client.stub.WatchToken(ctx,
		&pb.WatchTokenRequest{Provider: s.entry.provider, Bucket: s.entry.bucket})
	for err == nil {
		var message *pb.WatchTokenResponse
		if message, err = stream.Recv(); err == nil {
			received = true
			s.arrived(tokenFrom(message.GetToken()))
		}
	}
	if errors.Is(err, io.EOF) { // The protocol has no such end: whatever it was, it may pass.
		err = status.Error(codes.Unavailable, "the stream ended")
	}
	return received, s.client.failed(err)
}
