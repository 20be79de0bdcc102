package stack_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vdestack/vdestack/internal/netns/netnstest"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/stack"
	"github.com/vdestack/vdestack/vdeplug"
	"golang.org/x/sys/unix"
)

// What is weak in libvdestack 0.1.2, and the tests that this package is not:
//
//	 1 commands hang in a stack without network   TestBesideCommand
//	 2 calls hang when the helper or TAP is gone  lifecycle.TestHelperKilled, TestHelperStopped; TestInterfaceGone,
//	                                              TestConfigErrors, permissions.TestRefusals
//	 3 a stream that ends takes all the CPU       TestPlugEnds
//	 4 what a deleted stack leaves                TestPlugsLeave, lifecycle.TestMany; TestVXVDECaptured (the good-bye)
//	 5 the coprocess stays as a zombie            TestPlugsLeave
//	 6 death by a signal is success               TestCommand/status
//	 7 the loss of the switch is not noticed      TestReconnectNever
//	 8 two tasks with one TLS                     none of ours has any; netns.TestSocket, TestStartBeside
//	 9 errors of writing are not looked at        TestFramesRefused
//	10 an error is taken for a length             TestFramesRefused
//	11 SIGCHLD and wait see the helper            lifecycle.TestSurroundings
//	12 the helper acts before its ids are mapped  TestFirstCommand
//	13 sockets wait for commands                  TestBesideCommand
//	14 an error leaves things behind              TestNewBlocked, TestNewCancelled, lifecycle.TestLimit, permissions.TestRefusals
//	15 an exit status is lost                     TestStatuses
//	16 root needs user namespaces                 netns.TestWithoutUserNS

// works uses a stack without its network.
func works(t *testing.T, s *Stack) {
	t.Helper()
	ln := testenv.Listen(t, s, "tcp", "127.0.0.1:0")
	testenv.Check(t, testenv.Closing(s.Dial("tcp", ln.Addr().String())))
	testenv.Check(t, s.Command(t.Context(), "true").Run())
	testenv.Check(t, s.Sysctl("net.ipv4.ip_forward", "1"))
}

// noChildren fails the test if the process has children, dead ones included.
// The helper is none for wait.
func noChildren(t *testing.T) {
	t.Helper()
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("child %d is left, %v", pid, err)
	}
}

// A testPlug receives what a test puts into frames. It ends with err when that
// is closed.
type testPlug struct {
	frames chan []byte
	err    error
	recvs  atomic.Int32
	closed chan struct{}
	once   sync.Once
}

func newTestPlug(t *testing.T) (*testPlug, *Stack) {
	t.Helper()
	p := &testPlug{frames: make(chan []byte), closed: make(chan struct{})}
	stack.Opens <- func() (vdeplug.Conn, error) { return p, nil }
	return p, openOnce(t, "testplug://", "10.0.0.1/24", "fc00::1:1/64")
}

// openOnce makes a stack that leaves a network alone that has gone.
func openOnce(t *testing.T, vnl string, addrs ...string) *Stack {
	t.Helper()
	return made(t, Config{Interfaces: []Interface{{VNL: vnl, Addrs: testenv.Prefixes(addrs...), NoReconnect: true}}})
}

func (p *testPlug) Recv(frame []byte) (int, error) {
	p.recvs.Add(1)
	select {
	case f, ok := <-p.frames:
		if !ok {
			return 0, p.err
		}
		return copy(frame, f), nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *testPlug) Send([]byte) error { return nil }

func (p *testPlug) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// TestPlugEnds has a network that ends: it is asked once more and never again,
// and the stack works on without.
func TestPlugEnds(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	p, s := newTestPlug(t)
	p.frames <- make([]byte, 60)
	before := p.recvs.Load()
	p.err = errors.New("that was it")
	close(p.frames)
	testenv.Eventually(t, "the end of the network", func() bool { return s.Stats().Interfaces[0].Err != nil })
	if err := s.Stats().Interfaces[0].Err; !errors.Is(err, p.err) {
		t.Errorf("the network has ended with %v", err)
	}
	works(t, s)
	if err := s.Command(t.Context(), "ping", "-c", "1", "-W", "0.1", "10.0.0.2").Run(); err == nil {
		t.Error("somebody answers")
	}
	if n := p.recvs.Load(); n > before+1 {
		t.Errorf("a network that has ended was asked %d times", n-before)
	}

	for vnl, want := range map[string]string{
		"=true":                       "has ended: exit status 0",
		"cmd://sh -c 'exit 3'":        "has ended: exit status 3",
		"cmd://sh -c 'kill -KILL $$'": "has ended: signal: killed",
		"cmd://sh -c 'exec >&- 2>&-; exec sleep 1000'": "has closed its output",
	} {
		s := openOnce(t, vnl, "10.0.0.1/24")
		testenv.Eventually(t, vnl, func() bool { return s.Stats().Interfaces[0].Err != nil })
		if err := s.Stats().Interfaces[0].Err; !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want that it %s", vnl, err, want)
		}
		works(t, s)
		testenv.Check(t, s.Close())
		noChildren(t)
	}
}

// TestPlugsLeave closes stacks on networks of every kind: nothing of them is
// left, neither descriptors nor processes, dead or alive.
func TestPlugsLeave(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	dir := testenv.ShortDir(t)
	sw := startSwitch(t, filepath.Join(dir, "switch"))
	var all string // numbers of processes
	for round := range 3 {
		pids := filepath.Join(dir, fmt.Sprint("pids", round))
		long := fmt.Sprintf("sh -c 'echo $$ >>%s; sleep 1000 & echo $! >>%[1]s; wait'", pids)
		for _, vnl := range []string{
			"null://", "mem://" + t.Name(), "lan://" + t.Name(), filepath.Join(dir, "switch"), "ptp://" + filepath.Join(dir, "ptp"),
			"udp://127.0.0.1:5555->127.0.0.1:5556", "vxvde://234.0.0.1", "=cat", "cmd://" + long,
		} {
			s := testenv.Must(Open(vnl, "10.0.0.1/24"))(t)
			if strings.HasSuffix(vnl, long) {
				testenv.Eventually(t, vnl, func() bool {
					text, _ := os.ReadFile(pids)
					return strings.Count(string(text), "\n") == 2
				})
			}
			if err := s.Close(); err != nil {
				t.Errorf("%s: %v", vnl, err)
			}
		}
		text := testenv.Must(os.ReadFile(pids))(t)
		all += string(text)
	}
	for pid := range strings.FieldsSeq(all) {
		testenv.Eventually(t, "the end of process "+pid, func() bool {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			return err != nil || strings.Contains(string(stat), ") Z ") // of init, which may be slow
		})
	}
	sw.Kill(t)
	noChildren(t)
}

// TestInterfaceGone takes the interface away under a stack.
func TestInterfaceGone(t *testing.T) {
	testenv.Long(t)
	netnstest.NoLeaks(t)
	for _, vnl := range []string{"mem://" + t.Name(), "lan://" + t.Name(), "ptp://" + filepath.Join(t.TempDir(), "p")} {
		s := open(t, vnl, "10.0.0.1/24")
		peer := open(t, vnl, "10.0.0.2/24")
		testenv.Check(t, s.Run(t.Context(), "ip link del vde0"))
		testenv.Eventually(t, "the end of the interface", func() bool { return s.Stats().Interfaces[0].Err != nil })
		t.Log(s.Stats().Interfaces[0].Err)
		peer.Command(t.Context(), "ping", "-c", "1", "-W", "0.1", "10.0.0.1").Run() // frames for it
		works(t, s)
		if err := s.Close(); err != nil {
			t.Errorf("%s: %v", vnl, err)
		}
		if err := peer.Close(); err != nil {
			t.Errorf("%s: %v", vnl, err)
		}
	}
}

// TestFramesRefused sends what the interface refuses: frames that are none, and
// all while it is down. They are counted, and it goes on.
func TestFramesRefused(t *testing.T) {
	netnstest.NoLeaks(t)
	p, s := newTestPlug(t)
	dropped := func() uint64 { return s.Stats().Interfaces[0].RxDropped }
	for i, frame := range [][]byte{{}, {1}, make([]byte, 13)} {
		p.frames <- frame
		testenv.Eventually(t, fmt.Sprintf("frame of %d bytes", len(frame)), func() bool { return dropped() == uint64(i)+1 })
	}
	testenv.Check(t, s.Run(t.Context(), "ip link set vde0 down"))
	frame := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 0x88, 0xb5}, make([]byte, 46)...)
	for range 10 {
		p.frames <- frame
	}
	testenv.Eventually(t, "frames while it is down", func() bool { return dropped() == 13 })
	testenv.Check(t, s.Run(t.Context(), "ip link set vde0 up"))
	before := s.Stats().Interfaces[0].RxFrames
	p.frames <- frame
	testenv.Eventually(t, "a frame when it is up", func() bool { return s.Stats().Interfaces[0].RxFrames == before+1 })
	if err := s.Stats().Interfaces[0].Err; err != nil || dropped() != 13 {
		t.Errorf("%d dropped, %v", dropped(), err)
	}
	works(t, s)
}

// TestBesideCommand does everything in stacks where a command runs, one of them
// without a network.
func TestBesideCommand(t *testing.T) {
	netnstest.NoLeaks(t)
	for _, vnl := range []string{"", "mem://" + t.Name()} {
		s := open(t, vnl)
		c := s.Command(t.Context(), "cat")
		in := testenv.Must(c.StdinPipe())(t)
		testenv.Check(t, c.Start())
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() { works(t, s) })
		}
		wg.Wait()
		testenv.Check(t, s.Run(t.Context(), "true; true"))
		in.Close()
		testenv.Check(t, c.Wait())
	}
}

// TestStatuses has many commands end at once: each has its own status.
func TestStatuses(t *testing.T) {
	netnstest.NoLeaks(t)
	s := open(t, "")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var wg sync.WaitGroup
	for code := range 50 {
		c := s.Command(t.Context(), "sh", "-c", fmt.Sprintf("read x; exit %d", code))
		if code%10 == 9 {
			c.Args[2] = "read x; kill -TERM $$"
		}
		c.Stdin = r
		testenv.Check(t, c.Start())
		wg.Go(func() {
			err := c.Wait()
			exit, _ := errors.AsType[*exec.ExitError](err)
			switch {
			case code == 0 && err == nil:
			case code%10 == 9 && exit != nil && exit.Error() == "signal: terminated":
			case code > 0 && exit != nil && exit.ExitCode() == code:
			default:
				t.Errorf("command %d: %v", code, err)
			}
		})
	}
	w.Close() // all read the end now
	wg.Wait()
	noChildren(t)
}

func init() {
	testenv.Programs["first command"] = func() {
		s, err := Open("")
		if err != nil {
			log.Fatal(err)
		}
		c := s.Command(context.Background(), "id")
		c.Stdout = os.Stdout
		if err := errors.Join(c.Run(), s.Close()); err != nil {
			log.Fatal(err)
		}
	}
}

// TestFirstCommand has programs whose first deed is a command: its ids are those
// of the program.
func TestFirstCommand(t *testing.T) {
	want := testenv.Must(exec.Command("id").Output())(t)
	for range 5 {
		got, err := testenv.Program(t.Context(), t, "first command").Output()
		if err != nil || string(got) != string(want) {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
}
