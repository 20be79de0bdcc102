package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

const (
	// crowd is how many stacks there are at once.
	crowd = 100
	// village is how many of them are on one network.
	village = 20
)

// TestCrowd has a stack, a server and a client in each of many parallel tests.
// All are there at once, some on the same network, and use the same ports. Each
// client talks to its own server, and to that of another stack.
func TestCrowd(t *testing.T) {
	testenv.Long(t)
	var parallel int
	fmt.Sscan(flag.Lookup("test.parallel").Value.String(), &parallel)
	if parallel < crowd {
		testenv.Skip(t, "with -parallel %d, %d tests do not run at once", parallel, crowd)
	}
	needDescriptors(t, 30*crowd)
	guard(t)
	ctx, cancel := context.WithCancelCause(bounded(t))
	defer cancel(nil)
	ready, finished := newMeeting(crowd), newMeeting(crowd)
	t.Run("stack", func(t *testing.T) { // which ends when all are finished
		for i := range crowd {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				t.Cleanup(func() {
					if t.Failed() {
						cancel(errors.New("another test of the crowd has failed"))
					}
				})
				first := i / village * village
				m := newMember(t, fmt.Sprintf("mem://TestCrowd/%d", first), i)
				if err := ready.wait(ctx); err != nil {
					t.Fatal(err)
				}
				m.check(t, "127.0.0.1", i)
				m.check(t, "::1", i)
				next := first + (i-first+1)%village
				for _, host := range addresses(next) {
					m.check(t, host, next)
				}
				if err := finished.wait(ctx); err != nil {
					t.Fatal(err)
				}
			})
		}
	})
}

// A meeting lets nobody go on before all have come.
type meeting struct {
	missing atomic.Int32
	all     chan struct{}
}

func newMeeting(n int32) *meeting {
	m := &meeting{all: make(chan struct{})}
	m.missing.Store(n)
	return m
}

func (m *meeting) wait(ctx context.Context) error {
	if m.missing.Add(-1) == 0 {
		close(m.all)
	}
	select {
	case <-m.all:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A member is a stack of the crowd with its servers.
type member struct {
	s    *vdestack.Stack
	site *site
}

// addresses returns those of a member.
func addresses(i int) []string {
	return []string{fmt.Sprintf("10.0.0.%d", i+1), fmt.Sprintf("fc00::%d", i+1)}
}

func newMember(t *testing.T, vnl string, i int) *member {
	t.Helper()
	a := addresses(i)
	s := open(t, vnl, a[0]+"/24", a[1]+"/64")
	// While so many do so much, an answer may take longer than the three seconds
	// after which the kernel takes a neighbour for dead.
	for _, name := range []string{"net.ipv4.neigh.vde0.mcast_solicit", "net.ipv6.neigh.vde0.mcast_solicit"} {
		if err := s.Sysctl(name, "20"); err != nil {
			t.Error(err)
		}
	}
	ln, err := s.Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.ListenPacket("udp", ":7")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, p)
	mux := http.NewServeMux()
	mux.HandleFunc("/who", func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, i) })
	// Without TLS, whose hundreds of handshakes would take most of the time.
	m := &member{s, protocols[0].start(t, ln, s, mux)}
	m.site.handle(mux)
	return m
}

// check talks to the servers of a member.
func (m *member) check(t *testing.T, host string, who int) {
	t.Helper()
	site := *m.site
	site.url = "http://" + net.JoinHostPort(host, "80")
	resp, err := site.Get(site.url + "/who")
	if err != nil {
		t.Error(err)
		return
	}
	if got, want := text(resp), fmt.Sprint(who); got != want {
		t.Errorf("%s is number %s, want %s", host, got, want)
	}
	if err := site.echo(payload{uint64(who), 20000}); err != nil {
		t.Errorf("%s: %v", host, err)
	}
	c, err := m.s.Dial("udp", net.JoinHostPort(host, "7"))
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	if err := ask(c.(*net.UDPConn), payload{uint64(who), 5000}.bytes()); err != nil {
		t.Errorf("%s: %v", host, err)
	}
}
