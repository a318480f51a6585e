package credbroker

import (
	"net/http"
	"strings"
	"time"

	"golang.org/x/oauth2"

	pb "credbroker.dev/go/credbrokerpb"
)

// Token is an access token. It can be printed: the secret parts show as "REDACTED".
type Token struct {
	// AccessToken is the secret that goes into an Authorization header.
	AccessToken Secret
	// TokenType is the token type of RFC 6749 section 7.1, "Bearer" if the provider named it in whatever case, or not at
	// all.
	TokenType string
	// Scope has the space-separated scopes; empty if the provider did not say.
	Scope string
	// Extra has the further fields that the host's configuration names for the provider.
	Extra map[string]Secret
	// Revision is opaque and changes with every new access token of the entry. See [Client.RefreshToken].
	Revision string
	// ExpireTime is when the token expires, by the host's wall clock, for people to read: a sandbox's clock may be wrong.
	// Zero: it does not expire. Use Valid and ExpiresIn to decide.
	ExpireTime time.Time

	expires  bool
	lifetime time.Duration // What remained when the token was received.
	received instant
}

func tokenFrom(message *pb.AccessToken) *Token {
	token := &Token{
		AccessToken: NewSecret(message.GetAccessToken()),
		TokenType:   tokenType(message.GetTokenType()),
		Scope:       message.GetScope(),
		Revision:    message.GetRevision(),
		received:    now(),
	}
	if extra := message.GetExtra(); len(extra) > 0 {
		token.Extra = make(map[string]Secret, len(extra))
		for name, value := range extra {
			token.Extra[name] = NewSecret(value)
		}
	}
	if expiry := message.GetExpireTime(); expiry != nil {
		token.ExpireTime = expiry.AsTime()
	}
	if left := message.GetExpiresIn(); left != nil {
		token.expires, token.lifetime = true, left.AsDuration()
	}
	return token
}

// tokenType writes the usual type as resource servers want it: some take "Bearer" only, and some providers say "bearer".
func tokenType(said string) string {
	if said == "" || strings.EqualFold(said, "bearer") {
		return "Bearer"
	}
	return said
}

// ExpiresIn returns for how long the token is still good, and false if it does not expire.
func (t *Token) ExpiresIn() (time.Duration, bool) {
	return t.expiresInAt(now())
}

func (t *Token) expiresInAt(now instant) (time.Duration, bool) {
	if !t.expires {
		return 0, false
	}
	return t.lifetime - now.since(t.received), true
}

// Valid tells whether the token may be used now. Like the broker it counts a token as expired a little before it is, so
// that a request arrives in time: 5 s, or a tenth of the time that it was good for, if that is less.
func (t *Token) Valid() bool { return t.validAt(now()) }

func (t *Token) validAt(now instant) bool {
	if t == nil || t.AccessToken.Reveal() == "" {
		return false
	}
	left, expires := t.expiresInAt(now)
	return !expires || left > min(5*time.Second, t.lifetime/10)
}

// Authorization returns the value of an Authorization header: the type and the token. Keep it out of logs.
func (t *Token) Authorization() string { return t.TokenType + " " + t.AccessToken.Reveal() }

// SetAuthHeader sets the Authorization header of a request.
func (t *Token) SetAuthHeader(request *http.Request) {
	request.Header.Set("Authorization", t.Authorization())
}

// OAuth2 returns the token as golang.org/x/oauth2 has it. Its expiry is by this process's clock. That type shows the
// token when it is printed.
func (t *Token) OAuth2() *oauth2.Token {
	token := &oauth2.Token{AccessToken: t.AccessToken.Reveal(), TokenType: t.TokenType}
	if t.expires {
		token.Expiry = t.received.wall.Add(t.lifetime)
	}
	extra := make(map[string]any, len(t.Extra)+1)
	for name, value := range t.Extra {
		extra[name] = value.Reveal()
	}
	if t.Scope != "" {
		extra["scope"] = t.Scope
	}
	return token.WithExtra(extra)
}
