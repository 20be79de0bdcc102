//go:build amd64 || arm64

package netns

import (
	"net"
	"os"
)

// A Base is the namespace where a helper rests, which has no interface but loopback. All
// namespaces that one helper enters have the same base.
type Base struct{ h *helper }

// Base returns the base of the helper that enters the namespace. Use it while the
// namespace is open, or from Hold on.
func (n *NS) Base() Base { return Base{n.h} }

// Hold keeps the helper until release, also if its last namespace is closed before.
func (h Base) Hold() (release func()) {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	h.h.users++
	return h.h.release
}

// Current reports whether it is the base of new namespaces: its helper was not killed, and
// the process is still the same user.
func (h Base) Current() bool {
	helpers.mu.Lock()
	defer helpers.mu.Unlock()
	return h.h == helpers.own && !h.h.calls.lost() && h.h.has()
}

// Sockets makes two sockets there, of one kind. They are close-on-exec and belong to the
// caller.
func (h Base) Sockets(domain, typ, proto int) (fds [2]int, err error) {
	r := newRequest(nil)
	defer r.free()
	for range fds {
		r.calls = append(r.calls, socketCall(domain, typ, proto))
	}
	h.h.do(r)
	for i := range fds {
		ret, err := r.result(i)
		if err != nil {
			closeAll(fds[:i])
			return fds, explainSocket(os.NewSyscallError("socket", err), domain, typ, proto)
		}
		fds[i] = int(ret)
	}
	return fds, nil
}

// With calls f with the descriptor of the namespace, which stays open meanwhile. f must
// not wait.
func (n *NS) With(f func(fd int) error) error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if n.fd < 0 {
		return net.ErrClosed
	}
	return f(n.fd)
}
