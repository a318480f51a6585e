package credbroker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason says why the broker refused a call. Decide by it, never by the status code or the message. It is an error, so
// that errors.Is(err, credbroker.NotFound) tells whether an error has that reason. There may be reasons in the future
// that are not among the constants.
type Reason string

// The reasons of the protocol.
const (
	// NotFound: no such entry or API key is stored. Log in, or store it on the host.
	NotFound Reason = "NOT_FOUND"
	// InvalidRequest: the request is malformed; [Error.Violations] name the fields.
	InvalidRequest Reason = "INVALID_REQUEST"
	// MessageTooLarge: the request is larger than the broker takes.
	MessageTooLarge Reason = "MESSAGE_TOO_LARGE"
	// Unimplemented: the broker does not know the method.
	Unimplemented Reason = "UNIMPLEMENTED"
	// Unauthenticated: the capability is missing or wrong.
	Unauthenticated Reason = "UNAUTHENTICATED"
	// Unauthorized: the sandbox's policy does not allow it; the message names the flag that would.
	Unauthorized Reason = "UNAUTHORIZED"
	// PeerNotAllowed: the broker does not serve this user id.
	PeerNotAllowed Reason = "PEER_NOT_ALLOWED"
	// RateLimited: ask less often; [Error.RetryAfter] says when again.
	RateLimited Reason = "RATE_LIMITED"
	// TooManyStreams: the connection follows as many entries as it may.
	TooManyStreams Reason = "TOO_MANY_STREAMS"
	// TooManySessions: complete or cancel a login first.
	TooManySessions Reason = "TOO_MANY_SESSIONS"
	// SessionNotFound: the login is unknown, or another sandbox's.
	SessionNotFound Reason = "SESSION_NOT_FOUND"
	// SessionExpired: the login was not completed in time.
	SessionExpired Reason = "SESSION_EXPIRED"
	// SessionAlreadyUsed: the login has ended.
	SessionAlreadyUsed Reason = "SESSION_ALREADY_USED"
	// ExchangeFailed: the provider refused the code, or the account is another one than the entry's.
	ExchangeFailed Reason = "EXCHANGE_FAILED"
	// AccessDenied: the user said no.
	AccessDenied Reason = "ACCESS_DENIED"
	// UnknownVersion: client and broker have no protocol version in common.
	UnknownVersion Reason = "UNKNOWN_VERSION"
	// NeedsLogin: the refresh token is absent or was refused. Log in anew.
	NeedsLogin Reason = "NEEDS_LOGIN"
	// ProviderNotFound: the host has no configuration of the provider.
	ProviderNotFound Reason = "PROVIDER_NOT_FOUND"
	// ProviderRejected: the provider does not like the client id, secret, scope or request.
	ProviderRejected Reason = "PROVIDER_REJECTED"
	// ProviderUnavailable: the provider failed, or has not answered yet.
	ProviderUnavailable Reason = "PROVIDER_UNAVAILABLE"
	// LockTimeout: another process works on the entry. Try again.
	LockTimeout Reason = "LOCK_TIMEOUT"
	// ShuttingDown: the broker is stopping.
	ShuttingDown Reason = "SHUTTING_DOWN"
	// DeadlineExceeded: the call took longer than the broker gives it.
	DeadlineExceeded Reason = "DEADLINE_EXCEEDED"
	// StoreLocked: the host's store is locked.
	StoreLocked Reason = "STORE_LOCKED"
	// StoreCorrupt: what the host has stored cannot be read.
	StoreCorrupt Reason = "STORE_CORRUPT"
	// StoreUnavailable: the host's store fails.
	StoreUnavailable Reason = "STORE_UNAVAILABLE"
	// InternalError: the broker's log says why.
	InternalError Reason = "INTERNAL_ERROR"
)

// Error returns the reason's name.
func (r Reason) Error() string { return string(r) }

// Domain is the domain of the broker's reasons.
const Domain = "credbroker.dev"

var (
	// ErrNotConfigured: there is no [EnvSocket] in the environment, or what there is cannot be used.
	ErrNotConfigured = errors.New("credbroker: not configured")
	// ErrUnreachable: nobody listens on the socket, or the connection was lost during the call.
	ErrUnreachable = errors.New("credbroker: the credential broker cannot be reached")
	// ErrClosed: the [Client] or [TokenSource] was closed.
	ErrClosed = errors.New("credbroker: closed")
)

// Error is a call that failed. errors.Is compares it with a [Reason], with [ErrUnreachable] or [ErrClosed], and with
// context.Canceled and context.DeadlineExceeded; status.FromError gives the gRPC status.
type Error struct {
	// Reason is why the broker refused; empty if the answer did not come from the broker.
	Reason Reason
	// Code is the gRPC status code.
	Code codes.Code
	// Message says what to do, for people.
	Message string
	// Metadata has what the reason is about, such as "provider" and "bucket".
	Metadata map[string]string
	// RetryAfter is how long to wait before asking again; 0 if the broker did not say.
	RetryAfter time.Duration
	// Violations name the fields of a request that is malformed.
	Violations []FieldViolation

	cause  error // ErrUnreachable, ErrClosed or the context's error.
	status *status.Status
}

// FieldViolation is what is wrong with one field of a request.
type FieldViolation struct {
	Field       string
	Description string
}

// Error returns the reason and the message.
func (e *Error) Error() string {
	name := string(e.Reason)
	if name == "" {
		if e.cause != nil {
			return fmt.Sprintf("%v: %s", e.cause, e.Message)
		}
		name = e.Code.String()
	}
	return fmt.Sprintf("credbroker: %s: %s", name, e.Message)
}

// Is tells whether a target is this error's reason.
func (e *Error) Is(target error) bool {
	reason, ok := target.(Reason)
	return ok && reason != "" && reason == e.Reason
}

// Unwrap returns what is behind an error that did not come from the broker.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus returns the status that the call ended with.
func (e *Error) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(e.Code, e.Message)
	}
	return e.status
}

// errorFrom makes an [*Error] of what a call ended with; nil stays nil.
func errorFrom(err error, socket string) error {
	if err == nil {
		return nil
	}
	if known := (*Error)(nil); errors.As(err, &known) {
		return err
	}
	from := status.FromContextError(err)
	if from.Code() == codes.Unknown {
		from = status.Convert(err)
	}
	result := &Error{Code: from.Code(), Message: from.Message(), status: from}
	for _, detail := range from.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == Domain {
				result.Reason, result.Metadata = Reason(detail.GetReason()), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			result.RetryAfter = detail.GetRetryDelay().AsDuration()
		case *errdetails.BadRequest:
			for _, one := range detail.GetFieldViolations() {
				result.Violations = append(result.Violations, FieldViolation{one.GetField(), one.GetDescription()})
			}
		}
	}
	switch {
	case result.Code == codes.Canceled:
		result.cause = context.Canceled
	case result.Code == codes.DeadlineExceeded:
		result.cause = context.DeadlineExceeded
	case result.Code == codes.Unavailable && result.Reason == "":
		result.cause = ErrUnreachable
		result.Message = fmt.Sprintf("nobody answers at %s. Ensure that the sandbox was started correctly and that its "+
			"broker runs (%s)", socket, from.Message())
	}
	return result
}

// ends tells whether following an entry is over with this error, and whether the token that was got by it must not be
// used any more. Everything else passes by itself.
func ends(err error) (over, revoked bool) {
	known := (*Error)(nil)
	if !errors.As(err, &known) {
		return true, false
	}
	switch known.Reason {
	case NotFound, NeedsLogin, Unauthorized, Unauthenticated, PeerNotAllowed:
		return true, true
	case ProviderUnavailable, LockTimeout, ShuttingDown, DeadlineExceeded, StoreLocked, StoreUnavailable, RateLimited:
		return false, false
	}
	return known.Code != codes.Unavailable && known.Code != codes.DeadlineExceeded, false
}
