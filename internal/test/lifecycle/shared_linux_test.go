//go:build amd64 || arm64

package lifecycle

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/rendezvous"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/rtnl"
	"golang.org/x/sys/unix"
)

func init() { register(receiver, sender, visitor) }

// transferred is how much one process sends to another.
const transferred = 48 << 20

// receiver has a stack on a shared network, and receives from one sender.
func receiver() {
	s := newStack(on(os.Args[1], os.Args[2]+"/16"))
	l := must(s.Listen("tcp", os.Args[2]+":5000"))
	fmt.Println("ready")
	c := must(l.Accept())
	n := must(io.Copy(io.Discard, c))
	fmt.Println("received", n)
	must(c.Write([]byte{0}))
	finish(s)
}

// sender sends to a receiver when it is told to.
func sender() {
	s := newStack(on(os.Args[1], os.Args[2]+"/16"))
	d := vdestack.Dialer{Stack: s}
	c := must(d.Dial("tcp", os.Args[3]+":5000")).(*net.TCPConn)
	fmt.Println("ready")
	must(os.Stdin.Read(make([]byte, 1)))
	b := make([]byte, 64<<10)
	for range transferred / len(b) {
		must(c.Write(b))
	}
	check(c.CloseWrite())
	must(io.ReadFull(c, b[:1]))
	fmt.Println("sent")
	finish(s)
}

// visitor joins, and reaches another stack.
func visitor() {
	s := newStack(on(os.Args[1], os.Args[2]+"/16"))
	d := vdestack.Dialer{Stack: s}
	if _, err := d.Dial("tcp", os.Args[3]+":9"); err == nil || !errors.Is(err, unix.ECONNREFUSED) {
		fail("reaching another member: %v", err)
	}
	fmt.Println("reached")
	finish(s)
}

// finish closes the stack at the end of the input.
func finish(s *vdestack.Stack) {
	io.Copy(io.Discard, os.Stdin)
	check(s.Close())
}

// A sharer is a process on a shared network.
type sharer struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func share(t *testing.T, name string, args ...string) *sharer {
	t.Helper()
	cmd := program(t, name, args...)
	out, in := launch(t, cmd)
	return &sharer{cmd, in, out}
}

// rounds returns how often members are killed: VDESTACK_KILLS, or a few.
func rounds() int {
	if n, err := strconv.Atoi(os.Getenv("VDESTACK_KILLS")); err == nil {
		return n
	}
	return 8
}

// TestKillShared kills one of the eight processes on a shared network at random, while
// each two of them have a transfer, in turn the one that has made the network. The other
// transfers are complete, another process can join, and nothing is left when the rest
// closes, or is killed too.
func TestKillShared(t *testing.T) {
	testenv.Long(t)
	watch := testenv.Must(vdestack.Open(""))(t)
	defer watch.Close()
	const pairs = 4
	for round := range rounds() {
		dir := testenv.ShortDir(t)
		vnl := "lan://" + filepath.Join(dir, "net")
		var all []*sharer
		for i := range pairs {
			r := share(t, "receiver", vnl, fmt.Sprintf("10.1.0.%d", i+1))
			all = append(all, r)
			readLine(t, r.out)
		}
		for i := range pairs {
			all = append(all, share(t, "sender", vnl, fmt.Sprintf("10.1.1.%d", i+1), fmt.Sprintf("10.1.0.%d", i+1)))
		}
		for _, s := range all[pairs:] {
			readLine(t, s.out)
		}
		gone := watchNetwork(t, watch, filepath.Join(dir, "net"))
		for _, s := range all[pairs:] {
			testenv.Must(s.in.Write([]byte("g")))(t)
		}
		time.Sleep(rand.N(100 * time.Millisecond)) // the moment, not a wait
		victim := round % len(all)
		all[victim].cmd.Process.Kill()
		all[victim].cmd.Wait()
		survivor := ""
		for i := range pairs {
			if i == victim%pairs {
				continue
			}
			survivor = fmt.Sprintf("10.1.0.%d", i+1)
			if got, want := readLine(t, all[i].out), fmt.Sprint("received ", transferred); got != want {
				t.Errorf("round %d, victim %d, transfer %d: %q, want %q", round, victim, i, got, want)
			}
			readLine(t, all[pairs+i].out)
		}
		v := share(t, "visitor", vnl, "10.1.2.1", survivor)
		readLine(t, v.out)
		all = append(all, v)
		for i, s := range all {
			if i == victim {
				continue
			}
			if round%2 == 0 || i%pairs == victim%pairs { // who has lost its peer
				s.cmd.Process.Kill()
				s.cmd.Wait()
				continue
			}
			s.in.Close()
			testenv.Check(t, s.cmd.Wait())
		}
		gone()
		// The last one may have been killed: the next one begins anew, and removes the files.
		s := testenv.Must(vdestack.Open(vnl, "10.1.0.1/16"))(t)
		testenv.Check(t, s.Close())
		if left := testenv.Must(os.ReadDir(dir))(t); len(left) > 0 {
			t.Errorf("files are left: %v", left)
		}
	}
}

// watchNetwork puts one end of a veth pair into a network, and the other into a stack: that
// is gone when the network is. It returns a function that waits for that.
func watchNetwork(t *testing.T, s *vdestack.Stack, path string) func() {
	t.Helper()
	nl := testenv.Must(s.RTNL())(t)
	index := 0
	m, err := rendezvous.Join(t.Context(), path, func() (int, error) {
		return -1, errors.New("there is no network")
	}, func(fd int) (err error) {
		ns := os.NewFile(uintptr(fd), "netns")
		defer ns.Close()
		index, err = nl.LinkAdd(rtnl.LinkSpec{Name: "watch", Kind: "veth", Peer: &rtnl.LinkSpec{Name: "watched", NetNS: ns}})
		return err
	})
	testenv.Check(t, err)
	m.Leave()
	return func() {
		t.Helper()
		defer nl.Close()
		testenv.Eventually(t, "the end of the network", func() bool {
			_, err := nl.Link(index)
			return err != nil
		})
	}
}
