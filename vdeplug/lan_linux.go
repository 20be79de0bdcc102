//go:build amd64 || arm64

package vdeplug

import (
	"context"

	"github.com/vdestack/vdestack/internal/bridge"
	"github.com/vdestack/vdestack/internal/packet"
)

// A lanConn is a plug on a network of the kernel that processes share.
type lanConn struct {
	tapConn
	tap *bridge.Tap
}

func openShared(ctx context.Context, path string) (packet.Transport, error) {
	t, err := bridge.OpenTap(ctx, path)
	if err != nil {
		return nil, err
	}
	return &lanConn{tapConn{name: "lan://" + path, dev: t.Device}, t}, nil
}

// Close leaves the network.
func (c *lanConn) Close() error { return c.tap.Close() }
