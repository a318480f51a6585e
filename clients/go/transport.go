package credbroker

import (
	"io"
	"net/http"
)

// How much of a refused answer is read so that its connection can be used again.
const drained = 64 << 10

// Transport is an http.RoundTripper that authorizes requests with the token of a source. When the server answers 401 it
// asks the broker for a new token, once, and repeats the request with it, if the request's body can be sent again: it has
// none, or GetBody, which http.NewRequest sets for the usual readers.
//
// It sets the Authorization header, whatever the request had there. After a redirect to another scheme, host or port the
// request gets no token.
type Transport struct {
	Source *TokenSource
	// Base makes the requests; nil: http.DefaultTransport.
	Base http.RoundTripper
}

// HTTPClient returns an HTTP client whose requests carry the source's token; see [Transport].
func (s *TokenSource) HTTPClient() *http.Client {
	return &http.Client{Transport: &Transport{Source: s}}
}

// RoundTrip does one request, or two if the first one was answered with 401.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	if strayed(request) {
		return t.base().RoundTrip(request)
	}
	ctx := request.Context()
	token, err := t.Source.Get(ctx)
	if err != nil {
		if request.Body != nil {
			_ = request.Body.Close()
		}
		return nil, err
	}
	answer, err := t.base().RoundTrip(with(token, request))
	if err != nil || answer.StatusCode != http.StatusUnauthorized || !replayable(request) {
		return answer, err
	}
	// The server's own answer says more than a refresh that failed.
	newer, err := t.Source.Refresh(ctx, token.Revision)
	if err != nil {
		return answer, nil
	}
	again := with(newer, request)
	if request.GetBody != nil {
		if again.Body, err = request.GetBody(); err != nil {
			return answer, nil
		}
	}
	_, _ = io.CopyN(io.Discard, answer.Body, drained)
	_ = answer.Body.Close()
	return t.base().RoundTrip(again)
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

// with returns a copy of the request that carries the token.
func with(token *Token, request *http.Request) *http.Request {
	copied := request.Clone(request.Context())
	token.SetAuthHeader(copied)
	return copied
}

func replayable(request *http.Request) bool {
	return request.Body == nil || request.Body == http.NoBody || request.GetBody != nil
}

// strayed tells whether a redirect led to another origin than the one that the program asked: whoever answers there has
// no business with the token. The client sets Response to what redirected it.
func strayed(request *http.Request) bool {
	for before := request; before.Response != nil; {
		before = before.Response.Request
		if before == nil || before.URL.Scheme != request.URL.Scheme || before.URL.Host != request.URL.Host {
			return true
		}
	}
	return false
}
