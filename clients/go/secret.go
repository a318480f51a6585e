package credbroker

import (
	"fmt"
	"io"
	"log/slog"
)

const redacted = "REDACTED"

// Secret is a text that does not show itself: with every verb of package fmt, in logs, as JSON and in other texts it is
// "REDACTED". The zero value is the empty text.
type Secret struct {
	// A function, because package fmt and other printers that look into unexported fields show no more than its address.
	reveal func() string
}

// NewSecret hides a text.
func NewSecret(text string) Secret { return Secret{reveal: func() string { return text }} }

// Reveal returns the text itself.
func (s Secret) Reveal() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

// String returns "REDACTED".
func (Secret) String() string { return redacted }

// Format writes "REDACTED", whatever the verb is.
func (Secret) Format(state fmt.State, _ rune) { _, _ = io.WriteString(state, redacted) }

// LogValue returns "REDACTED".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText returns "REDACTED", which is what becomes of a Secret in JSON, XML and YAML.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
