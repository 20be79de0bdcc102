package vdestack

import (
	"errors"
	"net"
	"os"
	"syscall"
	"testing"
)

// TestNeighborsFull has errors with their reason, which stay what they are.
func TestNeighborsFull(t *testing.T) {
	for _, tt := range []struct {
		err     error
		timeout bool
		want    string
	}{
		{os.ErrDeadlineExceeded, true, "dial tcp: i/o timeout (full)"},
		{os.NewSyscallError("connect", syscall.ETIMEDOUT), true, "dial tcp: connect: connection timed out (full)"},
		{os.NewSyscallError("connect", syscall.EHOSTUNREACH), false, "dial tcp: connect: no route to host (full)"},
	} {
		var err net.Error = &net.OpError{Op: "dial", Net: "tcp", Err: &neighborsFull{tt.err, "full"}}
		if err.Error() != tt.want || err.Timeout() != tt.timeout || !errors.Is(err, tt.err) {
			t.Errorf("%v, timeout %v, want %q, %v", err, err.Timeout(), tt.want, tt.timeout)
		}
	}
}
