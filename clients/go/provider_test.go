package credbroker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// provider is a small authorization server, whose refresh tokens are good once, and a resource server that believes it.
type provider struct {
	*httptest.Server
	mu        sync.Mutex
	lifetime  time.Duration
	issued    int
	refreshed int
	refresh   string               // The one that is good.
	active    map[string]time.Time // Access tokens, and until when.
	down      bool
	refusing  bool   // It wants a login.
	answer    string // What the user says to a device login: "", "yes" or "no".
	devices   int
	asked     []resourceRequest
}

// resourceRequest is what the resource server has seen.
type resourceRequest struct {
	authorization, body string
}

func newProvider(t *testing.T, lifetime time.Duration) *provider {
	p := &provider{lifetime: lifetime, active: map[string]time.Time{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", p.token)
	mux.HandleFunc("POST /device", p.device)
	mux.HandleFunc("/resource", p.resource)
	mux.HandleFunc("/elsewhere", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, r.URL.Query().Get("to"), http.StatusTemporaryRedirect)
	})
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) configuration(names ...string) string {
	text := ""
	for _, name := range names {
		text += fmt.Sprintf("[providers.%[1]s]\nclient_id = \"tests\"\ntoken_endpoint = \"%[2]s/token\"\n"+
			"device_authorization_endpoint = \"%[2]s/device\"\nauthorization_endpoint = \"%[2]s/authorize\"\n"+
			"redirect_url = \"%[2]s/paste\"\nflow = \"device_code\"\n", name, p.URL)
	}
	return text
}

// issue makes a token set. The lock is held.
func (p *provider) issue() map[string]any {
	p.issued++
	access := fmt.Sprintf("acme_access_%d", p.issued)
	p.refresh = fmt.Sprintf("acme_refresh_%d", p.issued)
	p.active[access] = time.Now().Add(p.lifetime)
	return map[string]any{
		"access_token": access, "refresh_token": p.refresh, "token_type": "bearer", "expires_in": p.lifetime.Seconds(),
	}
}

// tokenSet is what a login leaves behind.
func (p *provider) tokenSet() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, _ := json.Marshal(p.issue())
	return string(text)
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (p *provider) token(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch grant := r.FormValue("grant_type"); {
	case p.down:
		w.Header().Set("Retry-After", "7")
		reply(w, http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"})
	case grant == "refresh_token" && r.FormValue("refresh_token") == p.refresh && !p.refusing:
		p.refreshed++
		reply(w, http.StatusOK, p.issue())
	case grant == "authorization_code" && r.FormValue("code") == "good" && r.FormValue("code_verifier") != "":
		reply(w, http.StatusOK, p.issue())
	case grant == "urn:ietf:params:oauth:grant-type:device_code" && p.answer == "":
		reply(w, http.StatusBadRequest, map[string]string{"error": "authorization_pending"})
	case grant == "urn:ietf:params:oauth:grant-type:device_code" && p.answer == "yes":
		reply(w, http.StatusOK, p.issue())
	case grant == "urn:ietf:params:oauth:grant-type:device_code":
		reply(w, http.StatusBadRequest, map[string]string{"error": "access_denied"})
	default:
		reply(w, http.StatusBadRequest, map[string]string{"error": "invalid_grant"})
	}
}

func (p *provider) device(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices++
	reply(w, http.StatusOK, map[string]any{
		"device_code": fmt.Sprintf("device-%d", p.devices), "user_code": "WDJB-MJHT", "verification_uri": p.URL + "/enter",
		"verification_uri_complete": p.URL + "/enter?code=WDJB-MJHT", "expires_in": 300, "interval": 1,
	})
}

// resource answers 200 to a token that is active and 401 to others; it remembers who asked.
func (p *provider) resource(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	authorization := r.Header.Get("Authorization")
	p.asked = append(p.asked, resourceRequest{authorization, string(body)})
	access, _ := strings.CutPrefix(authorization, "Bearer ")
	if until, known := p.active[access]; !known || time.Now().After(until) {
		reply(w, http.StatusUnauthorized, map[string]bool{"active": false})
		return
	}
	reply(w, http.StatusOK, map[string]bool{"active": true})
}

// with does something to the provider.
func (p *provider) with(change func(*provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// revokeAll makes every access token useless, as a provider does that a broker hears nothing of.
func (p *provider) revokeAll() { p.with(func(p *provider) { clear(p.active) }) }

// seen returns what the resource server was asked since the last time.
func (p *provider) seen() []resourceRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := p.asked
	p.asked = nil
	return seen
}

func (p *provider) refreshes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.refreshed
}
