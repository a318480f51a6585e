package credbroker_test

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"credbroker.dev/go"
)

func silent(context.Context, credbroker.Prompt) (string, error) { return "", nil }

func TestADeviceLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	source := client.TokenSource("fresh")
	if _, err := source.Get(within(t, 5*time.Second)); !errors.Is(err, credbroker.NotFound) {
		t.Errorf("before: %v", err)
	}
	shown := 0
	token, err := client.Login(within(t, 30*time.Second), "fresh", credbroker.LoginOptions{},
		func(_ context.Context, prompt credbroker.Prompt) (string, error) {
			shown++
			if prompt.Flow != credbroker.FlowDeviceCode || prompt.VerificationURL != w.provider.URL+"/enter" ||
				prompt.VerificationURLComplete != w.provider.URL+"/enter?code=WDJB-MJHT" || prompt.UserCode != "WDJB-MJHT" ||
				prompt.AuthURL != "" || time.Until(prompt.ExpireTime) < time.Minute {
				t.Errorf("%+v", prompt)
			}
			time.AfterFunc(2500*time.Millisecond, func() { w.provider.with(func(p *provider) { p.answer = "yes" }) })
			return "", nil
		})
	if err != nil || shown != 1 || !w.provider.isActive(token) {
		t.Fatalf("%v, %v", token, err)
	}
	if after := get(t, source); after.Revision != token.Revision {
		t.Errorf("%v instead of %v", after, token)
	}
}

// Each of the flows in which a browser comes back with a code.
func TestLoginsWithACode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	ctx := within(t, 30*time.Second)
	// What the provider would send the browser to, after the user has agreed.
	answer := func(prompt credbroker.Prompt, code string) string {
		page, err := url.Parse(prompt.AuthURL)
		if err != nil || !strings.HasPrefix(prompt.AuthURL, w.provider.URL+"/authorize?") || prompt.UserCode != "" {
			t.Errorf("%+v, %v", prompt, err)
			return ""
		}
		asked := page.Query()
		return asked.Get("redirect_uri") + "?" + url.Values{"code": {code}, "state": {asked.Get("state")}}.Encode()
	}
	login := func(flow credbroker.Flow, code string) (*credbroker.Token, error) {
		return client.Login(ctx, "fresh", credbroker.LoginOptions{Flow: flow, Bucket: "default"},
			func(_ context.Context, prompt credbroker.Prompt) (string, error) {
				if prompt.Flow != flow {
					t.Errorf("%+v", prompt)
				}
				target := answer(prompt, code)
				if flow == credbroker.FlowPKCERedirect {
					return target + "\n", nil
				}
				page, err := http.Get(target)
				if err == nil {
					_ = page.Body.Close()
				}
				return "", err
			})
	}
	for _, flow := range []credbroker.Flow{credbroker.FlowPKCERedirect, credbroker.FlowBrowserRedirect} {
		if token, err := login(flow, "bad"); !errors.Is(err, credbroker.ExchangeFailed) || token != nil {
			t.Errorf("%s with a wrong code: %v, %v", flow, token, err)
		}
	}
	if token, err := login(credbroker.FlowPKCERedirect, "good"); err != nil || !w.provider.isActive(token) {
		t.Errorf("%v, %v", token, err)
	}
	if _, err := client.RemoveToken(ctx, "fresh"); err != nil {
		t.Error(err)
	}
	if token, err := login(credbroker.FlowBrowserRedirect, "good"); err != nil || !w.provider.isActive(token) {
		t.Errorf("%v, %v", token, err)
	}
}

func TestALoginToWhatMayNotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	w.provider.with(func(p *provider) { p.answer = "yes" })
	token, err := w.client().Login(within(t, 20*time.Second), "secret", credbroker.LoginOptions{}, silent)
	if err != nil || token != nil {
		t.Errorf("%v, %v", token, err)
	}
}

func TestLoginsThatFail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	login := func(ctx context.Context, provider string, flow credbroker.Flow, show credbroker.ShowPrompt) error {
		token, err := client.Login(ctx, provider, credbroker.LoginOptions{Flow: flow}, show)
		if token != nil {
			t.Errorf("a token: %v", token)
		}
		return err
	}
	ctx := within(t, 60*time.Second)

	if err := login(ctx, "github", "", silent); !errors.Is(err, credbroker.Unauthorized) {
		t.Errorf("without --allow-login: %v", err)
	}
	if err := login(ctx, "fresh", "by post", silent); !errors.Is(err, credbroker.InvalidRequest) {
		t.Errorf("a flow that is none: %v", err)
	}
	w.provider.with(func(p *provider) { p.answer = "no" })
	if err := login(ctx, "fresh", credbroker.FlowDeviceCode, silent); !errors.Is(err, credbroker.AccessDenied) {
		t.Errorf("the user says no: %v", err)
	}
	w.provider.with(func(p *provider) { p.answer = "" })

	// 16 logins may be open at once. Those that were abandoned are not open any more.
	failed := errors.New("no terminal")
	client = w.client() // The rate is counted for each connection.
	for range 20 {
		if err := login(ctx, "fresh", "", func(context.Context, credbroker.Prompt) (string, error) { return "", failed }); err != failed {
			t.Fatal(err)
		}
	}
	client = w.client() // The rate is counted for each connection.
	for range 20 {
		cancelled, cancel := context.WithCancel(ctx)
		err := login(cancelled, "fresh", "", func(context.Context, credbroker.Prompt) (string, error) {
			cancel()
			return "", nil
		})
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	client = w.client() // The rate is counted for each connection.
	for range 20 {
		if err := login(ctx, "fresh", credbroker.FlowPKCERedirect, silent); !errors.Is(err, credbroker.InvalidRequest) {
			t.Fatal(err)
		}
	}
	w.provider.with(func(p *provider) { p.answer = "yes" })
	client = w.client()
	if _, err := client.GetToken(ctx, "fresh"); !errors.Is(err, credbroker.NotFound) {
		t.Errorf("an abandoned login was completed: %v", err)
	}
}
