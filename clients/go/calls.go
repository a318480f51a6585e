package credbroker

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "credbroker.dev/go/credbrokerpb"
)

// The largest page that the broker serves.
const pageSize = 500

// EntryOption is an option of every call that is about an entry.
type EntryOption interface{ applyToEntry(*entry) }

// TokenOption is an option of [Client.GetToken]; every EntryOption is one.
type TokenOption interface{ applyToToken(*tokenRequest) }

type entry struct{ provider, bucket string }

func (e entry) String() string {
	if e.bucket == "" {
		return e.provider + "/default"
	}
	return e.provider + "/" + e.bucket
}

type tokenRequest struct {
	entry
	validity *durationpb.Duration
}

// Bucket names an entry's bucket. Without it, or if it is empty, the bucket is "default".
type Bucket string

func (b Bucket) applyToEntry(e *entry)        { e.bucket = string(b) }
func (b Bucket) applyToToken(r *tokenRequest) { r.bucket = string(b) }

// MinValidity is how long the token shall still be valid. The broker caps it at half of the token's lifetime.
type MinValidity time.Duration

func (m MinValidity) applyToToken(r *tokenRequest) { r.validity = durationpb.New(time.Duration(m)) }

func entryOf(provider string, options []EntryOption) entry {
	entry := entry{provider: provider}
	for _, option := range options {
		option.applyToEntry(&entry)
	}
	return entry
}

// GetToken returns a usable access token of a provider's entry. The broker refreshes it first if it has to. A program
// that needs it more than once follows the entry with a [TokenSource].
func (c *Client) GetToken(ctx context.Context, provider string, options ...TokenOption) (*Token, error) {
	request := tokenRequest{entry: entry{provider: provider}}
	for _, option := range options {
		option.applyToToken(&request)
	}
	return c.getToken(ctx, request)
}

func (c *Client) getToken(ctx context.Context, request tokenRequest) (*Token, error) {
	answer, err := c.stub.GetToken(ctx, &pb.GetTokenRequest{
		Provider: request.provider, Bucket: request.bucket, MinValidity: request.validity,
	})
	if err != nil {
		return nil, err
	}
	return tokenFrom(answer.GetToken()), nil
}

// RefreshToken asks for a new access token because the one with this revision was refused where it was used. If the entry
// has another one by now, that is the answer.
func (c *Client) RefreshToken(ctx context.Context, provider, revision string, options ...EntryOption) (*Token, error) {
	return c.refreshToken(ctx, entryOf(provider, options), revision)
}

func (c *Client) refreshToken(ctx context.Context, entry entry, revision string) (*Token, error) {
	answer, err := c.stub.RefreshToken(ctx, &pb.RefreshTokenRequest{
		Provider: entry.provider, Bucket: entry.bucket, Revision: revision,
	})
	if err != nil {
		return nil, err
	}
	return tokenFrom(answer.GetToken()), nil
}

// NewToken is what [Client.SaveToken] stores.
type NewToken struct {
	AccessToken Secret
	// ExpiresIn is how long the token is good from now on; 0: it does not expire.
	ExpiresIn time.Duration
	// TokenType is the token type of RFC 6749 section 7.1; empty: "Bearer".
	TokenType string
	Scope     string
}

// SaveToken replaces the access token of an entry that is stored. It needs the right to save.
func (c *Client) SaveToken(ctx context.Context, provider string, token NewToken, options ...EntryOption) error {
	entry := entryOf(provider, options)
	message := &pb.AccessToken{
		AccessToken: token.AccessToken.Reveal(), TokenType: tokenType(token.TokenType), Scope: token.Scope,
	}
	if token.ExpiresIn != 0 {
		message.ExpiresIn = durationpb.New(token.ExpiresIn)
	}
	_, err := c.stub.SaveToken(ctx, &pb.SaveTokenRequest{Provider: entry.provider, Bucket: entry.bucket, Token: message})
	return err
}

// Revocation is what became of an entry's token at the provider when it was removed (RFC 7009).
type Revocation string

// What may become of a token.
const (
	// RevocationUnspecified: the broker did not say.
	RevocationUnspecified Revocation = ""
	// RevocationNotSupported: the provider has no revocation endpoint, or none is configured.
	RevocationNotSupported Revocation = "NOT_SUPPORTED"
	// RevocationDone: the provider confirmed it.
	RevocationDone Revocation = "DONE"
	// RevocationFailed: the provider refused, or could not be reached.
	RevocationFailed Revocation = "FAILED"
	// RevocationPending: the broker goes on with it.
	RevocationPending Revocation = "PENDING"
)

var revocations = map[pb.Revocation]Revocation{
	pb.Revocation_REVOCATION_NOT_SUPPORTED: RevocationNotSupported,
	pb.Revocation_REVOCATION_DONE:          RevocationDone,
	pb.Revocation_REVOCATION_FAILED:        RevocationFailed,
	pb.Revocation_REVOCATION_PENDING:       RevocationPending,
}

// RemoveToken removes an entry (logout). It needs the right to remove.
func (c *Client) RemoveToken(ctx context.Context, provider string, options ...EntryOption) (Revocation, error) {
	entry := entryOf(provider, options)
	answer, err := c.stub.RemoveToken(ctx, &pb.RemoveTokenRequest{Provider: entry.provider, Bucket: entry.bucket})
	return revocations[answer.GetRevocation()], err
}

// GetAPIKey returns an API key by name.
func (c *Client) GetAPIKey(ctx context.Context, name string) (Secret, error) {
	answer, err := c.stub.GetApiKey(ctx, &pb.GetApiKeyRequest{Name: name})
	if err != nil {
		return Secret{}, err
	}
	return NewSecret(answer.GetApiKey()), nil
}

// ListProviders lists the providers of which an entry is stored that this client may read, in order of name.
func (c *Client) ListProviders(ctx context.Context) ([]string, error) {
	return pages(func(page string) ([]string, string, error) {
		answer, err := c.stub.ListProviders(ctx, &pb.ListProvidersRequest{PageSize: pageSize, PageToken: page})
		return answer.GetProviders(), answer.GetNextPageToken(), err
	})
}

// ListBuckets lists the buckets of a provider that this client may read, in order of name.
func (c *Client) ListBuckets(ctx context.Context, provider string) ([]string, error) {
	return pages(func(page string) ([]string, string, error) {
		answer, err := c.stub.ListBuckets(ctx,
			&pb.ListBucketsRequest{Provider: provider, PageSize: pageSize, PageToken: page})
		return answer.GetBuckets(), answer.GetNextPageToken(), err
	})
}

// ListAPIKeys lists the names of the API keys that this client may read, in order of name.
func (c *Client) ListAPIKeys(ctx context.Context) ([]string, error) {
	return pages(func(page string) ([]string, string, error) {
		answer, err := c.stub.ListApiKeys(ctx, &pb.ListApiKeysRequest{PageSize: pageSize, PageToken: page})
		return answer.GetNames(), answer.GetNextPageToken(), err
	})
}

func pages(next func(page string) (names []string, following string, err error)) ([]string, error) {
	var all []string
	for page := ""; ; {
		names, following, err := next(page)
		if err != nil {
			return nil, err
		}
		all = append(all, names...)
		if following == "" {
			return all, nil
		}
		page = following
	}
}

// BucketStats counts the deliveries of a bucket's token by the broker since it started.
type BucketStats struct {
	Bucket       string
	RequestCount uint64
	// Percentage is the bucket's share of the deliveries of the provider's buckets, 0 to 100.
	Percentage float64
	// LastUsed is the last delivery, by the host's wall clock; zero if there was none.
	LastUsed time.Time
}

// GetBucketStats tells how often an entry's token was delivered. Asking is not a use.
func (c *Client) GetBucketStats(ctx context.Context, provider string, options ...EntryOption) (BucketStats, error) {
	entry := entryOf(provider, options)
	answer, err := c.stub.GetBucketStats(ctx, &pb.GetBucketStatsRequest{Provider: entry.provider, Bucket: entry.bucket})
	if err != nil {
		return BucketStats{}, err
	}
	said := answer.GetStats()
	stats := BucketStats{Bucket: said.GetBucket(), RequestCount: said.GetRequestCount(), Percentage: said.GetPercentage()}
	if last := said.GetLastUsedTime(); last != nil {
		stats.LastUsed = last.AsTime()
	}
	return stats, nil
}
