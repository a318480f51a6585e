// Whoami asks an HTTP API every few seconds who it is, with a token that the credential broker keeps fresh:
//
//	credbroker run --allow github -- go run ./examples/whoami
//	credbroker run --allow acme -- go run ./examples/whoami -provider acme -url https://api.acme.example/me -times 0
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"time"

	credbroker "credbroker.dev/go"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "whoami:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	provider := flag.String("provider", "github", "whose token to use")
	url := flag.String("url", "https://api.github.com/user", "what to ask")
	times := flag.Int("times", 1, "how often; 0: until it is interrupted")
	pause := flag.Duration("pause", 5*time.Second, "how long to wait in between")
	flag.Parse()

	client, err := credbroker.FromEnv()
	if err != nil {
		return err
	}
	defer client.Close()
	web := client.TokenSource(*provider).HTTPClient()

	for n := 1; ; n++ {
		if err := ask(ctx, web, *url); err != nil {
			return err
		}
		if n == *times {
			return nil
		}
		select {
		case <-time.After(*pause):
		case <-ctx.Done():
			return nil
		}
	}
}

func ask(ctx context.Context, web *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := web.Do(request)
	switch {
	case errors.Is(err, credbroker.NotFound), errors.Is(err, credbroker.NeedsLogin):
		return fmt.Errorf("log in on the host with `credbroker login`: %w", err)
	case err != nil:
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	fmt.Printf("%s\n%s\n", answer.Status, text)
	if answer.StatusCode != http.StatusOK {
		return errors.New("the API did not answer with 200")
	}
	return nil
}
