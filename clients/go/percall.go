package credbroker

import (
	"context"
	"fmt"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// PerRPCCredentials authorizes the calls of a gRPC client with the source's token:
//
//	grpc.NewClient(target, grpc.WithTransportCredentials(tls), grpc.WithPerRPCCredentials(source.PerRPCCredentials()))
//
// They require transport security: gRPC makes no client without it, and no connection that does not keep the token private
// (TLS does, and so does a Unix socket with credentials/local). For a server that only speaks plaintext there is
// [AllowPlaintext].
func (s *TokenSource) PerRPCCredentials(options ...PerRPCOption) credentials.PerRPCCredentials {
	result := perRPC{source: s}
	for _, option := range options {
		option(&result)
	}
	return result
}

// PerRPCOption is an option of [TokenSource.PerRPCCredentials].
type PerRPCOption func(*perRPC)

// AllowPlaintext sends the token over channels that do not keep it private, too. Whoever can read what goes over them has
// the token: use it for a server on the same host, or behind a proxy on the same host that adds TLS.
func AllowPlaintext() PerRPCOption { return func(p *perRPC) { p.plaintext = true } }

type perRPC struct {
	source    *TokenSource
	plaintext bool
}

// RequireTransportSecurity tells gRPC to send the token over connections only that keep it private.
func (p perRPC) RequireTransportSecurity() bool { return !p.plaintext }

// Format says whose token it is, whatever the verb is.
func (p perRPC) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, p.source.String()) }

// GetRequestMetadata returns the metadata of one call.
func (p perRPC) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := p.source.Get(ctx)
	if err != nil {
		return nil, callStatus(err)
	}
	return map[string]string{"authorization": token.Authorization()}, nil
}

// callStatus is how the call ends that gets no token: UNAVAILABLE if trying again may help, else UNAUTHENTICATED, because
// gRPC lets credentials end a call with few codes only. The broker's details, the reason among them, stay in it.
func callStatus(err error) error {
	result := status.Convert(err).Proto()
	if over, _ := ends(err); over {
		result.Code = int32(codes.Unauthenticated)
	} else {
		result.Code = int32(codes.Unavailable)
	}
	if ended := status.FromContextError(err); ended.Code() != codes.Unknown {
		result.Code = int32(ended.Code())
	}
	result.Message = err.Error()
	return status.ErrorProto(result)
}
