package autoconf

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/vdestack/vdestack"
)

// A dnsSetter is a stack, whose DNS is to follow.
type dnsSetter interface {
	DNS() vdestack.DNS
	CompareAndSwapDNS(old, new vdestack.DNS) (swapped bool, err error)
}

// resolver is what a client knows about names.
type resolver struct {
	servers []netip.Addr
	search  []string
}

// A stackNames has the names that the clients of a stack know. The stack has the DNS of its
// user, and what the user has left open is filled in.
type stackNames struct {
	st      dnsSetter
	clients []*Client // with the longest first
	known   map[*Client]resolver
	user    vdestack.DNS // without ours
	set     vdestack.DNS // the stack's since we have set it last
}

// allNames has the names of each stack with clients.
var allNames = struct {
	mu sync.Mutex // guards all, and what is in it; held while a stack's DNS is set
	by map[dnsSetter]*stackNames
}{by: make(map[dnsSetter]*stackNames)}

// setNames has a stack know what one of its clients knows.
func setNames(c *Client, st dnsSetter, known func() resolver) error {
	allNames.mu.Lock()
	defer allNames.mu.Unlock()
	n := allNames.by[st]
	if n == nil {
		n = &stackNames{st: st, known: make(map[*Client]resolver), user: st.DNS()}
		n.set = n.user
		allNames.by[st] = n
	}
	if _, ok := n.known[c]; !ok {
		n.clients = append(n.clients, c)
	}
	r := known()
	n.known[c] = r
	if len(r.servers)+len(r.search) == 0 {
		delete(n.known, c)
		n.clients = slices.DeleteFunc(n.clients, func(o *Client) bool { return o == c })
	}
	if len(n.clients) == 0 {
		delete(allNames.by, st)
	}
	return n.update()
}

// update gives the stack its DNS. What the user sets meanwhile is not lost.
func (n *stackNames) update() error {
	for {
		if now := n.st.DNS(); !reflect.DeepEqual(now, n.set) {
			n.user, n.set = now, now // somebody else has set it
		}
		d := n.filled()
		if reflect.DeepEqual(d, n.set) {
			return nil
		}
		swapped, err := n.st.CompareAndSwapDNS(n.set, d)
		if err != nil {
			return fmt.Errorf("names are resolved as before: %w", err)
		}
		if swapped {
			n.set = d
			return nil
		}
	}
}

// filled returns the DNS of the user, with ours where that has left it open.
func (n *stackNames) filled() vdestack.DNS {
	d := n.user
	if len(d.Servers) > 0 {
		return d
	}
	var search []string
	for _, c := range n.clients {
		for _, a := range n.known[c].servers {
			if s := netip.AddrPortFrom(a, 53); !slices.Contains(d.Servers, s) {
				d.Servers = append(d.Servers, s)
			}
		}
		for _, domain := range n.known[c].search {
			if !slices.Contains(search, domain) {
				search = append(search, domain)
			}
		}
	}
	if len(d.Search) == 0 {
		d.Search = search
	}
	return d
}

// resolvConf returns a resolv.conf(5), as iothconf writes it.
func (r resolver) resolvConf() string {
	var b strings.Builder
	if len(r.search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(r.search, " "))
	}
	for _, a := range r.servers {
		fmt.Fprintf(&b, "nameserver %v\n", a)
	}
	return b.String()
}
