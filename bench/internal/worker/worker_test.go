package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
)

// loopback is a contestant of which both stacks are the host's loopback.
var loopback = Contestant{
	Pair: func(a, b string) (Pair, error) {
		if a == "missing" {
			return nil, errors.New("no such\nnetwork")
		}
		return hostPair{}, nil
	},
	Open: func(string) (Stack, error) { return hostStack{}, nil },
}

type hostPair struct{}

func (hostPair) Listen() (net.Listener, error) { return net.Listen("tcp", "127.0.0.1:0") }

func (hostPair) Dial(ctx context.Context, address string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", address)
}

func (hostPair) Close() error { return nil }

type hostStack struct{}

func (hostStack) Socket() (io.Closer, error) { return io.NopCloser(nil), nil }

func (hostStack) Close() error { return nil }

func TestServe(t *testing.T) {
	tests := []struct {
		name, request string
		values        int
		err           string // beginning
	}{
		{name: "early stream", request: "stream\t1024\t1", err: `request "stream" before pair`},
		{name: "bad network", request: "pair\tmissing\tb", err: "no such; network"},
		{name: "pair", request: "pair\ta\tb"},
		{name: "stream", request: "stream\t131072\t10", values: 2},
		{name: "rtt", request: "rtt\t64\t7", values: 7},
		{name: "open", request: "open\t3\t", values: 6},
		{name: "sockets", request: "sockets\t10\t4", values: 1},
		{name: "no number", request: "rtt\t64\tmany", err: `request "rtt": "many" is not`},
		{name: "negative", request: "open\t-1\t", err: `request "open": "-1" is not`},
		{name: "short", request: "rtt\t64", err: `request "rtt" has 1 arguments`},
		{name: "empty", request: "", err: `request "" has 0 arguments`},
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
