//go:build amd64 || arm64

package netns

import "os"

// A Home is the namespace where a helper rests, which has no interface but
// loopback. All namespaces that one helper enters have the same home.
type Home struct{ h *helper }

// Home returns the home of the helper that enters the namespace. It is to be used
// while the namespace is open.
func (n *NS) Home() Home { return Home{n.h} }

// Socket makes a socket there. It is close-on-exec and belongs to the caller.
func (h Home) Socket(domain, typ, proto int) (fd int, err error) {
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
