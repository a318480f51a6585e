package credbroker

import "time"

// The process's first moment, which the monotonic clock is read against.
var start = time.Now()

// instant is a reading of both clocks.
type instant struct {
	monotonic time.Duration
	wall      time.Time
}

func now() instant {
	now := time.Now()
	return instant{monotonic: now.Sub(start), wall: now.Round(0)}
}

// since is the time that has passed. The monotonic clock stands still while the computer sleeps, and the wall clock can be
// set back: what says more is right, or errs to the side that costs one call.
func (i instant) since(before instant) time.Duration {
	return max(i.monotonic-before.monotonic, i.wall.Sub(before.wall))
}
