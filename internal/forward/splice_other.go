//go:build !linux

package forward

import (
	"context"
	"io"
	"net"
	"sync/atomic"
)

type pipes struct{}

func (*pipes) close() {}

func (*pipes) carry(dst, src net.Conn, n *atomic.Uint64) error {
	got, err := io.Copy(dst, src)
	n.Add(uint64(got))
	return err
}

func untilReset(net.Conn) bool { return false }

// MaxClients returns how many clients there may be by default.
func MaxClients(int) int { return 256 }

func lockDirectory(context.Context, string) (unlock func()) { return func() {} }
