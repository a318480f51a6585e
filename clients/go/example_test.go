package credbroker_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	credbroker "credbroker.dev/go"
)

func Example() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	// Once:
	token, err := client.GetToken(context.Background(), "github", credbroker.MinValidity(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("the token of revision", token.Revision, "is", token.AccessToken.Reveal())

	// For as long as the program runs:
	web := client.TokenSource("github").HTTPClient()
	answer, err := web.Get("https://api.github.com/user")
	if err != nil {
		log.Fatal(err)
	}
	defer answer.Body.Close()
}

// What a program may do about a refusal.
func ExampleError() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	_, err = client.GetToken(context.Background(), "github")

	var refused *credbroker.Error
	switch {
	case err == nil:
	case errors.Is(err, credbroker.ErrUnreachable):
		log.Fatal("no broker: ", err)
	case errors.Is(err, credbroker.NotFound), errors.Is(err, credbroker.NeedsLogin):
		log.Fatal("log in first: ", err)
	case errors.As(err, &refused) && refused.RetryAfter > 0:
		time.Sleep(refused.RetryAfter)
	default:
		log.Fatal(err)
	}
}

func ExampleReason() {
	var err error = &credbroker.Error{Reason: credbroker.NeedsLogin, Message: "log in to github/default"}
	fmt.Println(errors.Is(err, credbroker.NeedsLogin), errors.Is(err, credbroker.NotFound))
	fmt.Println(err)
	// Output:
	// true false
	// credbroker: NEEDS_LOGIN: log in to github/default
}

func ExampleSecret() {
	key := credbroker.NewSecret("sk-0123456789")
	fmt.Printf("%v %+v %q %x\n", key, struct{ Key credbroker.Secret }{key}, key, key)
	fmt.Println(len(key.Reveal()))
	// Output:
	// REDACTED {Key:REDACTED} REDACTED REDACTED
	// 13
}

// A token source is an oauth2.TokenSource, for the many libraries that take one.
func ExampleTokenSource_Token() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	web := oauth2.NewClient(context.Background(), client.TokenSource("google", credbroker.Bucket("work")))
	_, _ = web.Get("https://www.googleapis.com/oauth2/v3/userinfo")
}

func ExampleTransport() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	web := &http.Client{
		Timeout: 10 * time.Second,
		Transport: &credbroker.Transport{
			Source: client.TokenSource("acme"),
			Base:   &http.Transport{MaxIdleConnsPerHost: 10},
		},
	}
	_, _ = web.Get("https://api.acme.example/me")
}

func ExampleTokenSource_PerRPCCredentials() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	connection, err := grpc.NewClient("api.acme.example:443",
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{})),
		grpc.WithPerRPCCredentials(client.TokenSource("acme").PerRPCCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
}

func ExampleClient_Login() {
	client, err := credbroker.FromEnv()
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	show := func(_ context.Context, prompt credbroker.Prompt) (string, error) {
		switch prompt.Flow {
		case credbroker.FlowDeviceCode:
			fmt.Printf("Open %s and enter %s\n", prompt.VerificationURL, prompt.UserCode)
			return "", nil
		case credbroker.FlowBrowserRedirect:
			fmt.Printf("Open %s on the host\n", prompt.AuthURL)
			return "", nil
		default:
			fmt.Printf("Open %s and paste the code that you get: ", prompt.AuthURL)
			code, err := bufio.NewReader(os.Stdin).ReadString('\n')
			return code, err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if _, err := client.Login(ctx, "github", credbroker.LoginOptions{}, show); err != nil {
		log.Fatal(err)
	}
}
