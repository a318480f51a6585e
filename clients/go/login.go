package credbroker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	pb "credbroker.dev/go/credbrokerpb"
)

// Flow is a way to log in.
type Flow string

// The ways to log in.
const (
	// FlowDefault: the host's configuration decides.
	FlowDefault Flow = ""
	// FlowPKCERedirect: the user opens a page and pastes the code that they are shown there.
	FlowPKCERedirect Flow = "pkce_redirect"
	// FlowDeviceCode: the user opens a page on any device and enters a code (RFC 8628).
	FlowDeviceCode Flow = "device_code"
	// FlowBrowserRedirect: the user opens a page on the host, which gets the answer by itself (RFC 8252).
	FlowBrowserRedirect Flow = "browser_redirect"
)

var flows = map[Flow]pb.LoginFlow{
	FlowDefault:         pb.LoginFlow_LOGIN_FLOW_UNSPECIFIED,
	FlowPKCERedirect:    pb.LoginFlow_LOGIN_FLOW_PKCE_REDIRECT,
	FlowDeviceCode:      pb.LoginFlow_LOGIN_FLOW_DEVICE_CODE,
	FlowBrowserRedirect: pb.LoginFlow_LOGIN_FLOW_BROWSER_REDIRECT,
}

// How often a login is asked after if the broker does not say.
const usualPollInterval = 2 * time.Second

// Prompt is what the user has to see.
type Prompt struct {
	// Flow is the flow that was begun. It may be another than was asked for: FlowDeviceCode where the host cannot listen
	// for the browser.
	Flow Flow
	// AuthURL is the page to open, with FlowPKCERedirect and FlowBrowserRedirect.
	AuthURL string
	// VerificationURL is the page to open, with FlowDeviceCode.
	VerificationURL string
	// VerificationURLComplete is the same with the code in it, if the provider has such a page.
	VerificationURLComplete string
	// UserCode is what the user enters there.
	UserCode string
	// ExpireTime is when the login ends, by the host's wall clock.
	ExpireTime time.Time
}

// LoginOptions are what a login may be told. The zero value is good.
type LoginOptions struct {
	Bucket Bucket
	Flow   Flow
}

// ShowPrompt shows a prompt to the user. If the prompt's flow is FlowPKCERedirect it returns the code that they pasted:
// CODE, CODE#STATE, or the address of the page where they ended. Otherwise it returns "" at once, while the user still
// reads. An error ends the login.
type ShowPrompt func(ctx context.Context, prompt Prompt) (code string, err error)

// Login logs in to a provider's entry on the host and waits until the user has agreed. It needs the right to log in
// (`--allow-login`). The token is nil if the client may log in to the entry but not read it.
//
// When the context ends or show fails, the login is cancelled: what the user still agrees to is thrown away.
func (c *Client) Login(ctx context.Context, provider string, options LoginOptions, show ShowPrompt) (*Token, error) {
	flow, known := flows[options.Flow]
	if !known {
		return nil, &Error{
			Reason: InvalidRequest, Code: codes.InvalidArgument, Message: fmt.Sprintf("there is no flow %q", options.Flow),
			Metadata: map[string]string{"field": "flow"}, Violations: []FieldViolation{{"flow", "no flow of the protocol"}},
		}
	}
	begun, err := c.stub.InitiateLogin(ctx,
		&pb.InitiateLoginRequest{Provider: provider, Bucket: string(options.Bucket), Flow: flow})
	if err != nil {
		return nil, err
	}
	prompt := promptFrom(begun)
	code, err := show(ctx, prompt)
	if err == nil {
		var token *Token
		if prompt.Flow == FlowPKCERedirect {
			token, err = c.exchange(ctx, begun.GetSessionId(), code)
		} else {
			token, err = c.poll(ctx, begun)
		}
		if err == nil || concluded(err) {
			return token, err
		}
	}
	// The caller's context may have ended; the broker has to hear of it all the same.
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	_, _ = c.stub.CancelLogin(ctx, &pb.CancelLoginRequest{SessionId: begun.GetSessionId()})
	return nil, err
}

func promptFrom(begun *pb.InitiateLoginResponse) Prompt {
	prompt := Prompt{
		AuthURL:                 begun.GetAuthUrl(),
		VerificationURL:         begun.GetVerificationUrl(),
		VerificationURLComplete: begun.GetVerificationUrlComplete(),
		UserCode:                begun.GetUserCode(),
	}
	if expiry := begun.GetExpireTime(); expiry != nil {
		prompt.ExpireTime = expiry.AsTime()
	}
	for flow, number := range flows {
		if number == begun.GetFlow() {
			prompt.Flow = flow
		}
	}
	return prompt
}

func (c *Client) exchange(ctx context.Context, session, code string) (*Token, error) {
	answer, err := c.stub.ExchangeCode(ctx, &pb.ExchangeCodeRequest{SessionId: session, Code: strings.TrimSpace(code)})
	return readable(answer.GetToken()), err
}

func (c *Client) poll(ctx context.Context, begun *pb.InitiateLoginResponse) (*Token, error) {
	interval := begun.GetPollInterval().AsDuration()
	for {
		if interval <= 0 {
			interval = usualPollInterval
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return nil, c.failed(ctx.Err())
		}
		answer, err := c.stub.PollLogin(ctx, &pb.PollLoginRequest{SessionId: begun.GetSessionId()})
		if known := (*Error)(nil); errors.As(err, &known) && known.Reason == RateLimited {
			interval = max(interval, known.RetryAfter)
			continue
		} else if err != nil {
			return nil, err
		}
		switch answer.GetStatus() {
		case pb.LoginStatus_LOGIN_STATUS_COMPLETE:
			return readable(answer.GetToken()), nil
		case pb.LoginStatus_LOGIN_STATUS_ERROR:
			said := answer.GetError()
			return nil, &Error{Reason: Reason(said.GetReason()), Code: codes.FailedPrecondition, Message: said.GetMessage()}
		}
		interval = answer.GetPollInterval().AsDuration()
	}
}

// concluded tells whether the broker itself has ended the login.
func concluded(err error) bool {
	known := (*Error)(nil)
	if !errors.As(err, &known) {
		return false
	}
	switch known.Reason {
	case SessionNotFound, SessionExpired, SessionAlreadyUsed, ExchangeFailed, AccessDenied, ProviderRejected,
		ProviderUnavailable, StoreLocked, StoreCorrupt, StoreUnavailable:
		return true
	}
	return false
}

func readable(message *pb.AccessToken) *Token {
	if message == nil {
		return nil
	}
	return tokenFrom(message)
}
