package slirp

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const dnsPort = 53

const (
	// answerTime is how long a name server may be silent and still be asked first. It
	// is less than the second after which the quickest clients ask again.
	answerTime = 800 * time.Millisecond
	// probeInterval is how long one that was silent is passed over.
	probeInterval = 10 * time.Second
)

// A nameservers is the list of the host, which may change, and what is known of the
// servers. A client that has no answer asks again from another port, with another
// identifier: so what is remembered is who was silent, not what was asked.
type nameservers struct {
	mu      sync.Mutex // guards the fields below
	checked time.Time
	file    time.Time // when the file was changed
	list    []netip.AddrPort
	waits   map[transport]wait // of those that have not answered since they were asked
}

// A transport is how a server is asked: "udp" or "tcp". One may work without the
// other.
type transport struct {
	network string
	server  netip.AddrPort // without a zone
}

func transportOf(network string, server netip.AddrPort) transport {
	return transport{network, netip.AddrPortFrom(server.Addr().Unmap().WithZone(""), server.Port())}
}

// A wait is for an answer, to any question.
type wait struct {
	since time.Time // the first question after the last answer
	last  time.Time // the last question
}

func (w wait) silent(now time.Time) bool { return !w.since.IsZero() && now.Sub(w.since) >= answerTime }

// resolvConf is where the host says its name servers.
var resolvConf = "/etc/resolv.conf"

// checkInterval is how long a list is taken to be true.
const checkInterval = time.Second

// all returns the name servers of the host, one at least.
func (n *nameservers) all() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.allLocked()
}

func (n *nameservers) allLocked() []netip.AddrPort {
	if now := time.Now(); n.list == nil || now.Sub(n.checked) > checkInterval {
		n.checked = now
		info, err := os.Stat(resolvConf)
		if err != nil || n.list == nil || !info.ModTime().Equal(n.file) {
			if err == nil {
				n.file = info.ModTime()
			}
			text, _ := os.ReadFile(resolvConf)
			list := parseNameservers(string(text))
			if !slices.Equal(list, n.list) {
				clear(n.waits)
			}
			n.list = list
		}
	}
	return n.list
}

// order returns the name servers in the order in which they are to be asked: as the
// host lists them, but silent ones last. If the question went to a server before,
// those after that one come first. The silent ones that are to be asked too are in
// probes: when they are first seen to be silent, for only a packet may be lost, and
// later to find out whether they answer again. Over UDP these are all of them if there
// are no others.
func (n *nameservers) order(network string, before netip.AddrPort) (order, probes []netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.allLocked()
	if i := slices.Index(list, before); i >= 0 {
		list = slices.Concat(list[i+1:], list[:i+1])
	}
	now := time.Now()
	var silent []netip.AddrPort
	for _, s := range list {
		if n.waits[transportOf(network, s)].silent(now) {
			silent = append(silent, s)
		} else {
			order = append(order, s)
		}
	}
	none := len(order) == 0
	for _, s := range silent {
		t := transportOf(network, s)
		w := n.waits[t]
		switch {
		case none && s == silent[0]: // is asked anyway
		case !w.silent(w.last), now.Sub(w.last) >= probeInterval, none && network == "udp":
			w.last = now
			n.waits[t] = w
			probes = append(probes, s)
		}
	}
	return append(order, silent...), probes
}

// asked notes that a server of the list gets a question.
func (n *nameservers) asked(network string, server netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waits == nil {
		n.waits = make(map[transport]wait)
	}
	t := transportOf(network, server)
	w := n.waits[t]
	w.last = time.Now()
	if w.since.IsZero() {
		w.since = w.last
	}
	n.waits[t] = w
}

// connected notes that a server has accepted a connection. One that was silent may
// be so on this one too.
func (n *nameservers) connected(server netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := transportOf("tcp", server); !n.waits[t].silent(time.Now()) {
		delete(n.waits, t)
	}
}

// answered notes that somebody, who may be a server, is not silent.
func (n *nameservers) answered(network string, server netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.waits, transportOf(network, server))
}

// parseNameservers reads a resolv.conf(5). Without a name server it is the one on
// the host itself.
func parseNameservers(text string) (list []netip.AddrPort) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			list = append(list, netip.AddrPortFrom(a.Unmap(), dnsPort))
		}
	}
	if list == nil {
		list = []netip.AddrPort{netip.AddrPortFrom(loopback4, dnsPort)}
	}
	return list
}
