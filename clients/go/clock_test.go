package credbroker

import (
	"testing"
	"time"
)

func TestTimeThatHasPassed(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	before := instant{monotonic: time.Minute, wall: noon}
	for name, check := range map[string]struct {
		monotonic, wall, want time.Duration
	}{
		"both run":                     {10 * time.Second, 10 * time.Second, 10 * time.Second},
		"the computer slept":           {10 * time.Second, time.Hour, time.Hour},
		"the wall clock was set back":  {10 * time.Second, -time.Hour, 10 * time.Second},
		"the wall clock was set ahead": {10 * time.Second, 24 * time.Hour, 24 * time.Hour},
	} {
		now := instant{monotonic: time.Minute + check.monotonic, wall: noon.Add(check.wall)}
		if got := now.since(before); got != check.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestATokenIsGoodUntilShortlyBeforeItExpires(t *testing.T) {
	for _, check := range []struct {
		lifetime, after time.Duration
		good            bool
	}{
		{time.Hour, 0, true},
		{time.Hour, time.Hour - 6*time.Second, true},
		{time.Hour, time.Hour - 5*time.Second, false},
		{5 * time.Second, 4400 * time.Millisecond, true},
		{5 * time.Second, 4500 * time.Millisecond, false},
		{0, 0, false},
		{-time.Second, 0, false},
	} {
		token := &Token{AccessToken: NewSecret("t"), expires: true, lifetime: check.lifetime, received: now()}
		later := token.received
		later.monotonic += check.after
		if got := token.validAt(later); got != check.good {
			t.Errorf("%v after %v: %v", check.lifetime, check.after, got)
		}
	}
	if (*Token)(nil).Valid() || (&Token{}).Valid() || !(&Token{AccessToken: NewSecret("t")}).Valid() {
		t.Error("without a lifetime")
	}
}
