package vdeplug

import (
	"context"
	"fmt"
	"time"

	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name: "restart",
		Open: plugsOn(openRestart),
		Usage: Usage{
			Form:  "restart://[SECONDS]{NETWORK}",
			About: "another network, which is opened again every 20 seconds, or SECONDS, while it is gone",
		},
	})
}

// openRestart opens a network that reconnects whatever the options say, at its own interval.
// Braces are required, so that a forgotten network is an error and not the default network.
func openRestart(ctx context.Context, l Locator, o *Options) (packet.Transport, error) {
	every, vnl, err := parseRestart(l)
	if err != nil {
		return nil, err
	}
	restarting := *o
	restarting.Reconnect, restarting.every = true, every
	return openInner(ctx, vnl, &restarting)
}

func parseRestart(l Locator) (every time.Duration, inner string, err error) {
	t, err := l.ParseSlashed()
	if err != nil {
		return 0, "", err
	}
	if !t.HasInner {
		return 0, "", fmt.Errorf("no inner network: write it between braces at the end, as %s{vde://}; {} is your default network", l)
	}
	inner, t.HasInner = t.Inner, false
	seconds := 20
	if t.Addr != "" {
		const day = 24 * 60 * 60
		if err := NumberOption(&seconds, 1, day)(t.Addr, true); err != nil {
			return 0, "", fmt.Errorf("restart %q: seconds: %w", t.Addr, err)
		}
	}
	return time.Duration(seconds) * time.Second, inner, t.Apply(nil)
}
