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
// namespace is open.
func (n *NS) Base() Base { return Base{n.h} }

// Socket makes a socket there. It is close-on-exec and belongs to the caller.
func (h Base) Socket(domain, typ, proto int) (fd int, err error) {
	r := newRequest(nil)
	defer r.free()
	r.calls = append(r.calls, socketCall(domain, typ, proto))
	h.h.do(r)
	ret, err := r.result(0)
	if err != nil {
		return -1, explainSocket(os.NewSyscallError("socket", err), domain, typ, proto)
	}
	return int(ret), nil
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
