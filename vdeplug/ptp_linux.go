package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/vdestack/vdestack/internal/p2p"
	"github.com/vdestack/vdestack/internal/packet"
)

func init() {
	Register(Scheme{
		Name: "ptp",
		Open: plugsOn(openPTP),
		Usage: Usage{
			Form:  "ptp://PATH[[OPTIONS]]",
			About: "a cable between two programs of this host",
			Options: []OptionUsage{
				{Name: "seqpacket", About: "the other end is of a version of vdeplug after 4.0.1"},
			},
		},
	})
}

// openPTP connects two ends. The body is the path as it is written; if it ends with "]",
// it has options, and quoting as in vde. Versions of vdeplug after 4.0.1 have sockets of
// another type (seqpacket), which cannot be connected to those of 4.0.1.
func openPTP(ctx context.Context, l Locator, _ *Options) (packet.Transport, error) {
	path, seqpacket, err := parsePTP(l)
	if err != nil {
		return nil, err
	}
	if seqpacket {
		return p2p.OpenSeqpacketPTP(ctx, path)
	}
	return p2p.OpenPTP(path)
}

// parsePTP returns the absolute path of a locator: the process may go elsewhere.
func parsePTP(l Locator) (path string, seqpacket bool, err error) {
	path = l.Body()
	if strings.HasSuffix(path, "]") {
		t, err := l.ParseBracketed()
		if err == nil {
			err = t.Apply(map[string]func(string, bool) error{"seqpacket": FlagOption(&seqpacket)})
		}
		if err != nil {
			return "", false, err
		}
		path = t.Addr
	}
	if path == "" {
		return "", false, errors.New("no path given")
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", false, err
	}
	max := p2p.MaxPTPPath
	if seqpacket {
		max = p2p.MaxSeqpacketPTPPath
	}
	if len(path) > max {
		return "", false, fmt.Errorf("path %q has %d bytes, a socket's path at most %d", path, len(path), max)
	}
	return path, seqpacket, nil
}
