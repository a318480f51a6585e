package credbroker_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"log"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"credbroker.dev/go"
)

// A type of a program's that has one of ours inside, where package fmt cannot call methods.
type holder struct {
	hidden  credbroker.Secret
	token   *credbroker.Token
	value   credbroker.Token
	source  *credbroker.TokenSource
	client  *credbroker.Client
	Visible credbroker.Secret
}

func TestSecretsDoNotShow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, time.Hour)
	client := w.client()
	source := client.TokenSource("github")
	token := get(t, source)
	key, err := client.GetAPIKey(t.Context(), "openai")
	if err != nil {
		t.Fatal(err)
	}
	_, refused := client.GetToken(t.Context(), "gitlab")
	// Nothing works in these: package fmt reads their fields where it is not told better.
	idle := w.client()
	quiet := idle.TokenSource("github")
	config := credbroker.Config{Socket: w.socket, Capability: credbroker.NewSecret(w.capability)}
	values := map[string]any{
		"token": token, "token's value": *token, "access token": token.AccessToken, "pointer": &token.AccessToken,
		"key": key, "source": source, "client": client, "config": config, "error": refused,
		"list": []*credbroker.Token{token}, "map": map[string]credbroker.Secret{"k": key},
		"save":   credbroker.NewToken{AccessToken: key},
		"holder": holder{key, token, *token, quiet, idle, key}, "holders": &[]holder{{hidden: key, value: *token}},
		"per call": source.PerRPCCredentials(), "transport": source.HTTPClient().Transport,
	}
	secrets := []string{githubToken, openaiKey, w.capability}
	var forms []string
	for _, secret := range secrets {
		forms = append(forms, secret, fmt.Sprintf("%x", secret), fmt.Sprintf("%X", secret), fmt.Sprintf("% x", secret),
			strings.Trim(fmt.Sprint([]byte(secret)), "[]"))
	}
	hidden := func(where string, text string) {
		t.Helper()
		for i, form := range forms {
			if strings.Contains(text, form) {
				t.Errorf("%s shows secret %d", where, i/5)
			}
		}
	}
	for name, value := range values {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%t", "%p", "%T", "%20.90s"} {
			hidden(name+" "+verb, fmt.Sprintf(verb, value))
		}
		if text, err := json.Marshal(value); err == nil {
			hidden(name+" as JSON", string(text))
		}
		if text, err := xml.Marshal(value); err == nil {
			hidden(name+" as XML", string(text))
		}
		var out bytes.Buffer
		log.New(&out, "", 0).Println(value)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "value", value)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "value", value)
		hidden(name+" in a log", out.String())
		hidden(name+" by reflection", fmt.Sprint(reflect.ValueOf(value)))
	}
	if fmt.Sprint(token.AccessToken) != "REDACTED" || !strings.Contains(fmt.Sprintf("%+v", token), token.Revision) {
		t.Errorf("what may be shown is not: %+v", token)
	}
	if text, err := json.Marshal(key); err != nil || string(text) != `"REDACTED"` {
		t.Errorf("%s, %v", text, err)
	}
	if (credbroker.Secret{}).Reveal() != "" {
		t.Error("the zero value")
	}
}
