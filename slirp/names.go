package slirp

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const dnsPort = 53

// A nameservers is the list of the host, which may change.
type nameservers struct {
	mu      sync.Mutex // guards the fields below
	checked time.Time
	file    time.Time // when the file was changed
	list    []netip.AddrPort
}

// resolvConf is where the host says its name servers.
var resolvConf = "/etc/resolv.conf"

// checkInterval is how long a list is taken to be true.
const checkInterval = time.Second

// all returns the name servers of the host, one at least.
func (n *nameservers) all() []netip.AddrPort {
	n.mu.Lock()
	defer n.mu.Unlock()
	if now := time.Now(); n.list == nil || now.Sub(n.checked) > checkInterval {
		n.checked = now
		info, err := os.Stat(resolvConf)
		if err != nil || n.list == nil || !info.ModTime().Equal(n.file) {
			if err == nil {
				n.file = info.ModTime()
			}
			text, _ := os.ReadFile(resolvConf)
			n.list = parseNameservers(string(text))
		}
	}
	return n.list
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
