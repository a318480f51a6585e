package credbroker_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"credbroker.dev/go"
)

// What the worlds hold. Nothing but Secret.Reveal may show these.
const (
	githubToken = "gho_demo_access"
	openaiKey   = "sk-demo-key"
)

// world is a host of its own: a store, a provider, and a broker that can be stopped and started again.
type world struct {
	t          *testing.T
	binary     string
	directory  string
	socket     string
	capability string
	provider   *provider
	broker     *exec.Cmd
	log        bytes.Buffer
}

// binary returns the credbroker to test with. Without one there is nothing to test against.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("CREDBROKER_BIN")
	if path == "" {
		t.Skip("CREDBROKER_BIN does not name a credbroker")
	}
	return path
}

// newWorld makes a world whose provider's tokens are good for the given time, and starts its broker. Entries: acme rotates;
// github is static; gitlab is stored, but not allowed; absent is allowed, but not stored; stale has expired and cannot be
// renewed; orphan has expired and no provider is configured for it; fresh is empty and may be logged in to; so is
// secret, but it may not be read.
func newWorld(t *testing.T, lifetime time.Duration) *world {
	t.Helper()
	w := &world{t: t, binary: binary(t), provider: newProvider(t, lifetime)}
	var err error
	// Paths of sockets are short.
	if w.directory, err = os.MkdirTemp("", "cb"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(w.directory) })
	for _, name := range []string{"runtime", "data", "state", "config", "config/credbroker", "a %2F#?dir"} {
		if err := os.Mkdir(filepath.Join(w.directory, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.socket = filepath.Join(w.directory, "a %2F#?dir", "sock")
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	w.capability = hex.EncodeToString(key)
	w.write("capability", w.capability+"\n")
	w.write("config/credbroker/config.toml", w.provider.configuration("acme", "fresh", "stale", "secret"))

	w.cli(w.provider.tokenSet(), "token", "import", "acme")
	w.cli(fmt.Sprintf(`{"access_token":%q,"token_type":"bearer","scope":"repo","expires_in":3600}`, githubToken),
		"token", "import", "github")
	w.cli(`{"access_token":"ghw","expires_in":3600}`, "token", "import", "github", "--bucket", "work")
	w.cli(`{"access_token":"hidden","expires_in":3600}`, "token", "import", "gitlab")
	w.cli(`{"access_token":"old","expires_in":0}`, "token", "import", "stale")
	w.cli(`{"access_token":"old","refresh_token":"orphan","expires_in":0}`, "token", "import", "orphan")
	w.cli(openaiKey, "key", "set", "openai")
	w.cli("hidden", "key", "set", "anthropic")
	w.start()
	t.Cleanup(func() {
		w.stop()
		if t.Failed() {
			t.Logf("the broker's log:\n%s", &w.log)
		}
	})
	return w
}

func (w *world) write(name, text string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.directory, name), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// command is a credbroker in this world. Variables with its prefix are configuration, and it refuses those it does not know.
func (w *world) command(arguments ...string) *exec.Cmd {
	command := exec.Command(w.binary, arguments...)
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, "CREDBROKER_") && !strings.HasPrefix(variable, "XDG_") {
			command.Env = append(command.Env, variable)
		}
	}
	for name, directory := range map[string]string{
		"XDG_RUNTIME_DIR": "runtime", "XDG_DATA_HOME": "data", "XDG_STATE_HOME": "state", "XDG_CONFIG_HOME": "config",
	} {
		command.Env = append(command.Env, name+"="+filepath.Join(w.directory, directory))
	}
	return command
}

// cli runs one command on the host.
func (w *world) cli(input string, arguments ...string) {
	w.t.Helper()
	command := w.command(arguments...)
	command.Stdin = strings.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		w.t.Fatalf("credbroker %v: %v\n%s", arguments, err, output)
	}
}

// start starts the broker and waits until it listens.
func (w *world) start() {
	w.t.Helper()
	w.broker = w.command("serve", "--socket", w.socket, "--capability-file", filepath.Join(w.directory, "capability"),
		"--allow", "acme", "--allow", "github/*", "--allow", "absent", "--allow", "stale", "--allow", "orphan",
		"--allow", "fresh", "--allow-key", "openai", "--allow-key", "absent",
		"--allow-login", "fresh", "--allow-login", "secret", "--allow-save", "github", "--allow-remove", "acme", "--allow-remove", "fresh", "--allow-remove", "github")
	w.broker.Stderr = &w.log
	if err := w.broker.Start(); err != nil {
		w.t.Fatal(err)
	}
	eventually(w.t, 20*time.Second, "the broker listens", func() bool {
		connection, err := net.Dial("unix", w.socket)
		if err == nil {
			_ = connection.Close()
		}
		return err == nil
	})
}

// stop ends the broker, and waits for it.
func (w *world) stop() {
	if w.broker != nil {
		_ = w.broker.Process.Signal(syscall.SIGCONT)
		_ = w.broker.Process.Signal(syscall.SIGTERM)
		_ = w.broker.Wait()
		w.broker = nil
	}
}

// kill ends the broker without a word to its clients.
func (w *world) kill() {
	_ = w.broker.Process.Kill()
	_ = w.broker.Wait()
	w.broker = nil
}

// pause makes the broker answer nobody until it goes on.
func (w *world) pause() {
	w.t.Helper()
	w.signal(syscall.SIGSTOP)
	for status := syscall.WaitStatus(0); !status.Stopped(); {
		if _, err := syscall.Wait4(w.broker.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil && err != syscall.EINTR {
			w.t.Fatal(err)
		}
	}
}

func (w *world) resume() { w.t.Helper(); w.signal(syscall.SIGCONT) }

func (w *world) signal(signal syscall.Signal) {
	w.t.Helper()
	if err := w.broker.Process.Signal(signal); err != nil {
		w.t.Fatal(err)
	}
}

// client returns a client of this world's broker.
func (w *world) client() *credbroker.Client {
	w.t.Helper()
	return newClient(w.t, credbroker.Config{Socket: w.socket, Capability: credbroker.NewSecret(w.capability)})
}

func newClient(t *testing.T, config credbroker.Config) *credbroker.Client {
	t.Helper()
	client, err := credbroker.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// eventually waits for a condition.
func eventually(t *testing.T, patience time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// within is a context that ends in time for the test to say what went wrong.
func within(t *testing.T, patience time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}
