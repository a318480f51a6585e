package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"

	pb "credbroker.dev/interop/gen"
)

type fields = map[string]string

func wrong(format string, values ...any) error { return fmt.Errorf(format, values...) }

// refused says whether a call failed as it should.
func refused(err error, code codes.Code, reason string, want fields) error {
	if err == nil {
		return errors.New("it was answered")
	}
	info := errorInfo(err)
	if status.Code(err) != code || info.GetReason() != reason || info.GetDomain() != "credbroker.dev" ||
		!maps.Equal(info.GetMetadata(), want) {
		return wrong("%v with %v", err, info)
	}
	count := 0
	for _, detail := range status.Convert(err).Details() {
		if _, ok := detail.(*errdetails.ErrorInfo); ok {
			count++
		}
	}
	if count != 1 || status.Convert(err).Message() == "" {
		return wrong("%d times ErrorInfo in %v", count, err)
	}
	return nil
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	conn, err := dial()
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	broker := pb.NewCredentialBrokerClient(conn)
	token := func(ctx context.Context, provider string) (*pb.GetTokenResponse, error) {
		return broker.GetToken(ctx, &pb.GetTokenRequest{Provider: provider})
	}
	key := func(name string) (*pb.GetApiKeyResponse, error) {
		return broker.GetApiKey(authorized(ctx), &pb.GetApiKeyRequest{Name: name})
	}

	failed := false
	check := func(name string, run func() error) {
		if err := run(); err != nil {
			failed = true
			fmt.Printf("not ok %s: %s\n", name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("ok", name)
		}
	}

	check("token", func() error {
		answer, err := token(authorized(ctx), "github")
		if err != nil {
			return err
		}
		got := answer.GetToken()
		left := got.GetExpiresIn().AsDuration()
		until := time.Until(got.GetExpireTime().AsTime())
		if got.GetAccessToken() != "gho_demo" || got.GetTokenType() != "bearer" || got.GetScope() != "repo" ||
			got.GetRevision() == "" || left < 50*time.Minute || left > time.Hour || (left-until).Abs() > time.Minute {
			return wrong("%v", answer)
		}
		return nil
	})
	check("api key", func() error {
		answer, err := key("openai")
		if err == nil && answer.GetApiKey() != "sk-demo" {
			return wrong("%v", answer)
		}
		return err
	})
	check("no refresh token", func() error {
		answer, err := token(authorized(ctx), "github")
		if err != nil {
			return err
		}
		if bytes, err := proto.Marshal(answer); err != nil || strings.Contains(string(bytes), "ghr_never") {
			return wrong("%q, %v", bytes, err)
		}
		messages := pb.File_credbroker_v1_credential_broker_proto.Messages()
		for i := range messages.Len() {
			all := messages.Get(i).Fields()
			for j := range all.Len() {
				if field := all.Get(j); strings.Contains(string(field.Name()), "refresh") {
					return wrong("%s", protoreflect.Descriptor(field).FullName())
				}
			}
		}
		return nil
	})
	check("lists", func() error {
		providers, err := broker.ListProviders(authorized(ctx), &pb.ListProvidersRequest{})
		if err != nil || !slices.Equal(providers.GetProviders(), []string{"github"}) {
			return wrong("%v, %v", providers, err)
		}
		buckets, err := broker.ListBuckets(authorized(ctx), &pb.ListBucketsRequest{Provider: "github"})
		if err != nil || !slices.Equal(buckets.GetBuckets(), []string{"default"}) {
			return wrong("%v, %v", buckets, err)
		}
		names, err := broker.ListApiKeys(authorized(ctx), &pb.ListApiKeysRequest{})
		if err != nil || !slices.Equal(names.GetNames(), []string{"openai"}) {
			return wrong("%v, %v", names, err)
		}
		return nil
	})
	check("outside the policy", func() error {
		_, err := token(authorized(ctx), "gitlab")
		_, keyErr := key("anthropic")
		return errors.Join(
			refused(err, codes.PermissionDenied, "UNAUTHORIZED", fields{"provider": "gitlab", "bucket": "default"}),
			refused(keyErr, codes.PermissionDenied, "UNAUTHORIZED", fields{"name": "anthropic"}))
	})
	check("outside the policy and not stored", func() error {
		_, err := token(authorized(ctx), "nowhere")
		return refused(err, codes.PermissionDenied, "UNAUTHORIZED", fields{"provider": "nowhere", "bucket": "default"})
	})
	check("no capability", func() error {
		_, err := token(ctx, "github")
		return refused(err, codes.Unauthenticated, "UNAUTHENTICATED", nil)
	})
	check("wrong capability", func() error {
		other := metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.Repeat("0", 64))
		_, err := token(other, "github")
		return refused(err, codes.Unauthenticated, "UNAUTHENTICATED", nil)
	})
	check("not found", func() error {
		_, err := token(authorized(ctx), "absent")
		_, keyErr := key("absent")
		return errors.Join(
			refused(err, codes.NotFound, "NOT_FOUND", fields{"provider": "absent", "bucket": "default"}),
			refused(keyErr, codes.NotFound, "NOT_FOUND", fields{"name": "absent"}))
	})
	check("invalid request", func() error {
		_, err := token(authorized(ctx), "../etc")
		for _, detail := range status.Convert(err).Details() {
			if bad, ok := detail.(*errdetails.BadRequest); ok {
				if v := bad.GetFieldViolations(); len(v) != 1 || v[0].GetField() != "provider" || v[0].GetDescription() == "" {
					return wrong("%v", bad)
				}
				return refused(err, codes.InvalidArgument, "INVALID_REQUEST", fields{"field": "provider"})
			}
		}
		return wrong("no BadRequest: %v", err)
	})
	check("unknown method", func() error {
		err := conn.Invoke(authorized(ctx), "/credbroker.v1.CredentialBroker/Nothing", &emptypb.Empty{}, &emptypb.Empty{})
		return refused(err, codes.Unimplemented, "UNIMPLEMENTED", nil)
	})
	check("deadline passed", func() error {
		short, cancel := context.WithTimeout(authorized(ctx), time.Nanosecond)
		defer cancel()
		if _, err := token(short, "github"); status.Code(err) != codes.DeadlineExceeded {
			return wrong("%v", err)
		}
		return nil
	})
	check("deadline kept", func() error {
		enough, cancel := context.WithTimeout(authorized(ctx), 5*time.Second)
		defer cancel()
		_, err := token(enough, "github")
		return err
	})
	check("calls in parallel", func() error {
		results := make(chan error, 20)
		for range cap(results) {
			go func() {
				got, err := accessToken(ctx, conn, "github")
				if err == nil && got != "gho_demo" {
					err = wrong("%s", got)
				}
				results <- err
			}()
		}
		var all error
		for range cap(results) {
			all = errors.Join(all, <-results)
		}
		return all
	})
	check("second channel", func() error {
		second, err := dial()
		if err != nil {
			return err
		}
		defer second.Close()
		got, err := accessToken(ctx, second, "github")
		if err == nil && got != "gho_demo" {
			return wrong("%s", got)
		}
		return err
	})
	check("health", func() error {
		for _, service := range []string{"", "credbroker.v1.CredentialBroker"} {
			answer, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
			if err != nil || answer.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				return wrong("%q: %v, %v", service, answer, err)
			}
		}
		return nil
	})
	if failed {
		os.Exit(1)
	}
}
