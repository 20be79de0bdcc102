//go:build amd64 || arm64

package stack

import (
	"errors"

	"github.com/vdestack/vdestack/internal/netns"
	"github.com/vdestack/vdestack/internal/sockets"
	"golang.org/x/sys/unix"
)

// SocketStats returns what the kernel counts of the sockets of the stack. After Close, the
// error is [net.ErrClosed].
func (s *Stack) SocketStats() (SocketStats, error) {
	s = s.orNone()
	texts, err := s.ns.ReadFiles(socketFiles...)
	if err == nil && texts[0] == "" {
		err = errors.New("the counters of the kernel are not in " + socketFiles[0] + ": mount the whole /proc")
	}
	if err != nil {
		return SocketStats{}, s.wrap(err)
	}
	listening, err := netns.WithRoom(s.listening)
	if err != nil {
		return SocketStats{}, s.wrap(err)
	}
	var st SocketStats
	st.decode(texts, uint64(listening))
	return st, nil
}

// listening counts the TCP sockets that listen.
func (s *Stack) listening() (int, error) {
	diag, err := s.ns.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0, err
	}
	defer unix.Close(diag)
	return sockets.Listening(diag)
}
