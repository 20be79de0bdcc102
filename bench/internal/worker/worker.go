// Package worker is the measured side of a benchmark: it makes stacks, moves data
// between them and reports times. A worker is a program that answers each line of its
// standard input, a request, with one line on its standard output, so that stacks of
// other languages and modules are measured in the same way. Fields are separated by
// tabs:
//
//	pair MTU A B              make two stacks on one network, the first on the
//	                          locator A, the second on B; no values
//	half SIDE MTU LOCATOR     make only the first (SIDE 1) or the second (2) of
//	                          them; another worker has the other; no values
//	stream N SIZE MS          send from the second stack to the first over N TCP
//	                          connections at once, in writes of SIZE bytes, for
//	                          MS milliseconds; bytes received, and nanoseconds
//	                          from the first connection to the last end; then
//	                          the memory allocations of the middle half of that
//	                          time, and the frames that the program carried in
//	                          it, both 0 if they are not counted
//	receive N SIZE MS         the first half's part of a stream; the same values
//	send N SIZE MS            the second half's part; no values
//	rtt SIZE N                N round trips of SIZE bytes over one TCP connection
//	                          with TCP_NODELAY; the nanoseconds of each
//	echo SIZE                 the first half's part of round trips; no values
//	ping SIZE N               the second half's part; the nanoseconds of each
//	reflect SIZE              the first half's part of datagrams: send back what
//	                          comes, until an empty one does; no values
//	packets SIZE WINDOW MS    the second half's part: send UDP datagrams of SIZE
//	                          bytes for MS milliseconds, with WINDOW of them on
//	                          their way there and back; datagrams that came back,
//	                          those that were lost, and nanoseconds
//	open N PAUSE LOCATOR      N times, with PAUSE milliseconds between them, make
//	                          a stack on the locator, with %d replaced by a
//	                          number, and a socket in it, and close both; an
//	                          empty locator gives loopback only; the nanoseconds
//	                          until each socket, then those of each close
//	sockets N THREADS         make and close N sockets in one stack, by THREADS
//	                          threads or goroutines; nanoseconds in all
//	dials N                   dial and close N TCP connections in one stack, one
//	                          after the other; nanoseconds in all
//	gather N LOCATOR          make N stacks that stay; nanoseconds in all
//	crowd N AT_ONCE LOCATOR   the same, AT_ONCE of them at once
//	reach N                   exchange packets between every Nth of them and all
//	                          others; pairs of stacks, and how many of them
//	                          reached each other
//	disband                   close these stacks; nanoseconds until the last Close
//	                          has returned, and until nothing of the stacks is
//	                          left
//
// An answer is "ok" and decimal values, or "error" and a text, after which a worker may
// end. The end of the input ends the worker. Every request ends: connections have
// deadlines.
package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// Spare is how long a transfer may take beyond its planned time.
	Spare = 10 * time.Second
	// Port is where the first half of a pair listens.
	Port = 5001
)

// A Contestant makes the stacks that are measured.
type Contestant struct {
	// Pair makes two stacks on the network of the locators a and b.
	Pair func(mtu int, a, b string) (Pair, error)
	// Half makes the first or the second of them. Nil: it cannot.
	Half func(side, mtu int, vnl string) (Pair, error)
	// Open makes a stack on the network of a locator, which is empty for loopback
	// only. Stacks with other numbers are other hosts.
	Open func(vnl string, number int) (Stack, error)
	// Reach exchanges packets between every nth stack and all others. Nil: it
	// cannot.
	Reach func(stacks []Stack, n int) (pairs, reached int)
	// Trace records what the process has, and returns a function that waits until it
	// has no more than that and what it keeps ready. Nil: not checked.
	Trace func() (gone func() error, err error)
}

// A Pair is two stacks on one network, or one of them.
type Pair interface {
	// Listen listens for TCP in the first stack; port 0 picks one.
	Listen(port int) (net.Listener, error)
	// Dial connects from the second stack to the first.
	Dial(ctx context.Context, port int) (net.Conn, error)
	Close() error
}

// A Carrier is a Pair that counts the frames that the program carries.
type Carrier interface {
	Frames() uint64
}

// A Datagrammer is a Pair that has UDP too.
type Datagrammer interface {
	// ListenPacket makes a socket in the first stack.
	ListenPacket(port int) (PacketConn, error)
	// DialPacket makes one in the second stack that is connected to it.
	DialPacket(port int) (net.Conn, error)
}

// A PacketConn is a [net.UDPConn].
type PacketConn interface {
	net.PacketConn
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, to netip.AddrPort) (int, error)
}

// A Stack is one stack.
type Stack interface {
	// Socket makes a TCP socket in the stack.
	Socket() (io.Closer, error)
	// Listen listens on the stack's loopback.
	Listen() (net.Listener, error)
	// Dial connects to the listener.
	Dial(ctx context.Context, address string) (net.Conn, error)
	Close() error
}

// A Quieter is a Stack that sends packets when it is idle, until it is told to be quiet.
type Quieter interface {
	Quiet() error
}

// Serve answers the requests of in until it ends.
func (c *Contestant) Serve(in io.Reader, out io.Writer) error {
	s := server{c: c}
	defer s.close()
	for lines := bufio.NewScanner(in); ; {
		if !lines.Scan() {
			return lines.Err()
		}
		answer := []byte("ok")
		values, err := s.answer(strings.Split(lines.Text(), "\t"))
		if err != nil {
			answer = fmt.Appendf(nil, "error\t%s", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		for _, v := range values {
			answer = strconv.AppendInt(append(answer, '\t'), v, 10)
		}
		if _, err := out.Write(append(answer, '\n')); err != nil {
			return err
		}
	}
}

// A server has the stacks that were asked for.
type server struct {
	c        *Contestant
	pair     Pair
	gathered []Stack
	gone     func() error // waits until nothing of them is left; may be nil
}

func (s *server) close() {
	if s.pair != nil {
		s.pair.Close()
		s.pair = nil
	}
	for _, st := range s.gathered {
		st.Close()
	}
	s.gathered = nil
}

// A request is a kind of request. Its arguments are numbers that are not negative, and
// then texts.
type request struct {
	numbers, texts int
	pair           bool // it needs the stacks of a pair
	answer         func(s *server, n []int, text []string) ([]int64, error)
}

var requests = map[string]request{
	"pair":    {1, 2, false, (*server).makePair},
	"half":    {2, 1, false, (*server).makeHalf},
	"stream":  {3, 0, true, (*server).stream},
	"receive": {3, 0, true, (*server).receive},
	"send":    {3, 0, true, (*server).send},
	"rtt":     {2, 0, true, (*server).rtt},
	"echo":    {1, 0, true, (*server).echo},
	"ping":    {2, 0, true, (*server).ping},
	"reflect": {1, 0, true, (*server).reflect},
	"packets": {3, 0, true, (*server).packets},
	"open":    {2, 1, false, (*server).open},
	"sockets": {2, 0, false, (*server).sockets},
	"dials":   {1, 0, false, (*server).dials},
	"gather":  {1, 1, false, (*server).gather},
	"crowd":   {2, 1, false, (*server).crowd},
	"reach":   {1, 0, false, (*server).reach},
	"disband": {0, 0, false, (*server).disband},
}

func (s *server) answer(fields []string) ([]int64, error) {
	name, args := fields[0], fields[1:]
	r, ok := requests[name]
	if !ok {
		return nil, fmt.Errorf("unknown request %q", name)
	}
	if len(args) != r.numbers+r.texts {
		return nil, fmt.Errorf("request %q has %d arguments, not %d", name, len(args), r.numbers+r.texts)
	}
	numbers := make([]int, r.numbers)
	for i, text := range args[:r.numbers] {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("request %q: %q is not a number", name, text)
		}
		numbers[i] = n
	}
	if r.pair && s.pair == nil {
		return nil, errors.New("there are no stacks: ask for a pair first")
	}
	return r.answer(s, numbers, args[r.numbers:])
}

func (s *server) makePair(n []int, text []string) ([]int64, error) {
	s.close()
	var err error
	s.pair, err = s.c.Pair(n[0], text[0], text[1])
	return nil, err
}

func (s *server) makeHalf(n []int, text []string) ([]int64, error) {
	s.close()
	if s.c.Half == nil {
		return nil, errors.ErrUnsupported
	}
	var err error
	s.pair, err = s.c.Half(n[0], n[1], text[0])
	return nil, err
}
