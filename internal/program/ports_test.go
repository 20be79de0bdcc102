package program

import (
	"strings"
	"testing"
)

func TestParsePort(t *testing.T) {
	for _, tt := range []struct{ text, network, from, to string }{
		{"8080:80", "tcp", "127.0.0.1:8080", "localhost:80"},
		{"8080:80/tcp", "tcp", "127.0.0.1:8080", "localhost:80"},
		{"0:053/udp", "udp", "127.0.0.1:0", "localhost:53"},
		{"00:80", "tcp", "127.0.0.1:0", "localhost:80"},
		{":8080:80", "tcp", ":8080", "localhost:80"},
		{"0.0.0.0:8080:80", "tcp", "0.0.0.0:8080", "localhost:80"},
		{"8080:10.0.0.1:80", "tcp", "127.0.0.1:8080", "10.0.0.1:80"},
		{"localhost:8080:a.example:80/udp", "udp", "localhost:8080", "a.example:80"},
		{"[::]:8080:[fd00::1]:80", "tcp", "[::]:8080", "[fd00::1]:80"},
		{"[fe80::1%eth0]:65535:1", "tcp", "[fe80::1%eth0]:65535", "localhost:1"},
		{"8080::80", "tcp", "127.0.0.1:8080", ":80"},
		{"unix:/run/x:80", "tcp", "unix:/run/x", "localhost:80"},
		{"unix:@x:10.0.0.1:80/udp", "udp", "unix:@x", "10.0.0.1:80"},
		{"80:unix:/run/a:b/udp", "tcp", "127.0.0.1:80", "unix:/run/a:b/udp"},
	} {
		for _, out := range []bool{false, true} {
			p, err := ParsePort(out, tt.text)
			option := "-p " + tt.text
			if out {
				option = "-P " + tt.text
			}
			if want := (Port{option, out, tt.network, tt.from, tt.to}); err != nil || p != want {
				t.Errorf("%s: got %+v, %v, want %+v", tt.text, p, err, want)
			}
		}
	}
	for _, tt := range []struct{ text, err string }{
		{"", `"" is not a port`},
		{"8080", "the second port is missing"},
		{"8080/udp", "the second port is missing"},
		{"127.0.0.1:8080", "the second port is missing"},
		{"unix:/run/x", "the second port is missing"},
		{"unix:/run/x:", `"" is not a port`},
		{"8080:", `"" is not a port`},
		{":8080:", `"" is not a port`},
		{"8080:http", `"http" is not a port`},
		{"http:80", "the second port is missing"},
		{"65536:80", `"65536" is not a port`},
		{"-1:80", "the second port is missing"},
		{"8080:99999999999999999999", `"99999999999999999999" is not a port`},
		{"8080:0", "a server has a port other than 0"},
		{"::1:8080:80", `"" is not a port: it takes [ADDRESS:]PORT:[ADDRESS:]PORT[/udp], with an IPv6 address in brackets`},
		{"fd00::1:8080:80", `"" is not a port`},
		{"[::1:8080:80", `"[::1:8080:80" has no "]:"`},
		{"[::1]", `"[::1]" has no "]:"`},
		{"8080:80:90", `":90" after the ports is neither /tcp nor /udp`},
		{"8080:80x", `"x" after the ports is neither /tcp nor /udp`},
		{"8080:80/sctp", `"/sctp" after the ports is neither /tcp nor /udp`},
	} {
		if _, err := ParsePort(false, tt.text); err == nil || !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%q: got %v, want %s", tt.text, err, tt.err)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{"1080", "127.0.0.1:1080", ""},
		{":1080", ":1080", ""},
		{"[::1]:0", "[::1]:0", ""},
		{"", "", `"" is not a port: it takes [ADDRESS:]PORT, with an IPv6 address in brackets`},
		{"1080:1", "", `":1" is behind the port`},
		{"unix:/run/x", "", "a unix socket has no port"},
	} {
		got, err := ParseAddress(tt.text)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.HasPrefix(err.Error(), tt.err) {
			t.Errorf("%q: got %q, %v, want %q, %s", tt.text, got, err, tt.want, tt.err)
		}
	}
}
