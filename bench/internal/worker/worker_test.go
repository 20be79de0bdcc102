package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// loopback is a contestant whose stacks are all the host's loopback.
var loopback = Contestant{
	Pair: func(mtu int, a, b string) (Pair, error) {
		if a == "missing" {
			return nil, errors.New("no such\nnetwork")
		}
		return &hostPair{}, nil
	},
	Open:  func(string, int) (Stack, error) { return hostStack{}, nil },
	Reach: func(stacks []Stack, n int) (pairs, reached int) { return len(stacks) * n, len(stacks) },
	Trace: func() (func() error, error) { return func() error { return nil }, nil },
}

type hostPair struct{ frames atomic.Uint64 }

func (*hostPair) Listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

func (p *hostPair) Dial(ctx context.Context, port int) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}

// Frames counts the calls.
func (p *hostPair) Frames() uint64 { return p.frames.Add(1) }

func (*hostPair) ListenPacket(port int) (PacketConn, error) {
	return net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
}

func (*hostPair) DialPacket(port int) (net.Conn, error) {
	return net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
}

func (*hostPair) Close() error { return nil }

type hostStack struct{}

func (hostStack) Socket() (io.Closer, error) { return io.NopCloser(nil), nil }

func (hostStack) Listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func (hostStack) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

func (hostStack) Close() error { return nil }

func TestServe(t *testing.T) {
	tests := []struct {
		name, request string
		values        int
		err           string // beginning
	}{
		{name: "early stream", request: "stream\t1\t1024\t1", err: "there are no stacks"},
		{name: "early half", request: "half\t1\t1500\ta", err: "unsupported"},
		{name: "bad network", request: "pair\t1500\tmissing\tb", err: "no such; network"},
		{name: "pair", request: "pair\t1500\ta\tb"},
		{name: "stream", request: "stream\t1\t131072\t10", values: 4},
		{name: "streams", request: "stream\t4\t131072\t10", values: 4},
		{name: "rtt", request: "rtt\t64\t7", values: 7},
		{name: "open", request: "open\t3\t1\t", values: 6},
		{name: "sockets", request: "sockets\t10\t4", values: 1},
		{name: "dials", request: "dials\t10", values: 1},
		{name: "gather", request: "gather\t5\tmem://x", values: 1},
		{name: "reach", request: "reach\t2", values: 2},
		{name: "disband", request: "disband", values: 2},
		{name: "crowd", request: "crowd\t9\t4\tmem://x", values: 1},
		{name: "no number", request: "rtt\t64\tmany", err: `request "rtt": "many" is not`},
		{name: "negative", request: "sockets\t-1\t1", err: `request "sockets": "-1" is not`},
		{name: "short", request: "rtt\t64", err: `request "rtt" has 1 arguments`},
		{name: "empty", request: "", err: `unknown request ""`},
		{name: "unknown", request: "fly\t1\t2", err: `unknown request "fly"`},
	}
	var in strings.Builder
	for _, tt := range tests {
		in.WriteString(tt.request + "\n")
	}
	var out bytes.Buffer
	if err := loopback.Serve(strings.NewReader(in.String()), &out); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line, err := out.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if tt.err != "" {
				if got[0] != "error" || len(got) != 2 || !strings.HasPrefix(got[1], tt.err) {
					t.Fatalf("answer %q, want the error %q", line, tt.err)
				}
				return
			}
			if got[0] != "ok" || len(got)-1 != tt.values {
				t.Fatalf("answer %q, want ok and %d values", line, tt.values)
			}
			for _, v := range got[1:] {
				if n, err := strconv.ParseInt(v, 10, 64); err != nil || n < 0 {
					t.Errorf("value %q, %v, want a number", v, err)
				}
			}
		})
	}
}

// TestHalves streams from one worker to another, and has round trips.
func TestHalves(t *testing.T) {
	half := Contestant{Half: func(side, mtu int, vnl string) (Pair, error) { return &hostPair{}, nil }}
	run := func(side, request string) <-chan string {
		answer := make(chan string, 1)
		go func() {
			var out bytes.Buffer
			half.Serve(strings.NewReader("half\t"+side+"\t1500\tx\n"+request+"\n"), &out)
			answer <- out.String()
		}()
		return answer
	}
	sent, received := run("2", "send\t2\t1000\t20"), run("1", "receive\t2\t1000\t20")
	if got, want := <-sent, "ok\nok\n"; got != want {
		t.Errorf("the sender says %q, want %q", got, want)
	}
	got := strings.Split(strings.TrimPrefix(<-received, "ok\nok\t"), "\t")
	if n, err := strconv.Atoi(got[0]); err != nil || n <= 0 || n%1000 != 0 || len(got) != 4 {
		t.Errorf("the receiver says %q, want writes of 1000 bytes and three other values", got)
	}
	echoed, times := run("1", "echo\t64"), run("2", "ping\t64\t7")
	if got := strings.Count(<-times, "\t"); got != 7 {
		t.Errorf("%d round trips, want 7", got)
	}
	if got, want := <-echoed, "ok\nok\n"; got != want {
		t.Errorf("the first half says %q, want %q", got, want)
	}
	reflected, packets := run("1", "reflect\t64"), run("2", "packets\t64\t8\t10")
	if got := strings.Split(strings.TrimPrefix(<-packets, "ok\nok\t"), "\t"); len(got) != 3 || got[0] == "0" {
		t.Errorf("datagrams %q, want three values", got)
	}
	if got, want := <-reflected, "ok\nok\n"; got != want {
		t.Errorf("the first half says %q, want %q", got, want)
	}
}
