// A credbroker client in Go: generated stubs, a plain channel, and how to read an error.
package main

import (
	"context"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "credbroker.dev/interop/gen"
)

// dial opens a channel to the broker. It connects with the first call.
func dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+os.Getenv("CREDBROKER_SOCKET"),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// authorized adds the capability that every call carries.
func authorized(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+os.Getenv("CREDBROKER_CAPABILITY"))
}

// errorInfo tells why a call failed. Decide by its reason, never by the status code or the message.
func errorInfo(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return nil
}

// accessToken is what a program needs at least.
func accessToken(ctx context.Context, conn *grpc.ClientConn, provider string) (string, error) {
	answer, err := pb.NewCredentialBrokerClient(conn).GetToken(authorized(ctx), &pb.GetTokenRequest{Provider: provider})
	return answer.GetToken().GetAccessToken(), err
}
