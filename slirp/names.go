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
	// answerTime is how long a name server may take to answer before it counts as
	// silent: a little less than the second after which the quickest clients ask again.
	answerTime = 800 * time.Millisecond
	// probeInterval is the time between the questions that probe a silent server.
	probeInterval = 10 * time.Second
)

// A nameservers has the host's list of servers, which may change, and which of them are
// silent. Questions are not remembered: a client that gets no answer asks again from
// another port, with another identifier.
type nameservers struct {
	mu      sync.Mutex // guards the fields below
	checked time.Time
	file    time.Time // when the file was changed
	list    []netip.AddrPort
	waits   map[transport]wait // servers that have not answered since they were asked
}

// A transport is a server over "udp" or "tcp". One may work without the other.
type transport struct {
	network string
	server  netip.AddrPort // without a zone
}

func transportOf(network string, server netip.AddrPort) transport {
	return transport{network, netip.AddrPortFrom(server.Addr().Unmap().WithZone(""), server.Port())}
}

// A wait is the wait for an answer, to any question.
type wait struct {
	since time.Time // the first question after the last answer
	last  time.Time // the last question
}

func (w wait) silent(now time.Time) bool { return !w.since.IsZero() && now.Sub(w.since) >= answerTime }

// resolvConf names the host's name servers.
var resolvConf = "/etc/resolv.conf"

// checkInterval is how long the list is used before the file is checked again.
const checkInterval = time.Second

// all returns the name servers of the host, at least one. n.mu is held.
func (n *nameservers) all() []netip.AddrPort {
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

// order returns the name servers in the order in which to ask them: as the host lists
// them, but silent ones last. If the question has gone to the server before, the list
// begins after that one.
//
// probes are silent servers to be asked as well: when they are first seen to be silent,
// as only a packet may be lost, and then every probeInterval. Over UDP they are all
// servers if all are silent.
func (n *nameservers) order(network string, before netip.AddrPort) (order, probes []netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := n.all()
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
		case none && s == silent[0]: // it is asked anyway
		case !w.silent(w.last), now.Sub(w.last) >= probeInterval, none && network == "udp":
			w.last = now
			n.waits[t] = w
			probes = append(probes, s)
		}
	}
	return append(order, silent...), probes
}

// asked records that a server gets a question.
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

// connected records that a server has accepted a connection, which ends the wait. A
// silent one may be silent on this connection too.
func (n *nameservers) connected(server netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := transportOf("tcp", server); !n.waits[t].silent(time.Now()) {
		delete(n.waits, t)
	}
}

// answered records an answer from an address, which may be a server's.
func (n *nameservers) answered(network string, server netip.AddrPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.waits, transportOf(network, server))
}

// parseNameservers reads a resolv.conf(5). Without a name server in it, the server is
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
