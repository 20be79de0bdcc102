package slirp

import (
	"context"
	"net"
	"syscall"
)

// dial connects to the socket, or starts the command.
func (s service) dial(ctx context.Context) (stream, error) {
	if s.path == "" {
		return startCommand(s.command)
	}
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error { return c.Control(refuseRights) }}
	c, err := d.DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, err
	}
	return c.(stream), nil
}
