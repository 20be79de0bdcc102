package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/dns/dnstest"
	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/wireguard"
	"golang.org/x/net/proxy"
)

func TestMain(m *testing.M) {
	testenv.Programs["wgrun"] = main
	testenv.Main(m)
}

func TestParse(t *testing.T) {
	t.Setenv("SHELL", "/bin/myshell")
	for _, tt := range []struct{ args, want, err string }{
		{"wg0.conf", "wg0.conf [/bin/myshell] 0 ", ""},
		{"wg0.conf --", "wg0.conf [/bin/myshell] 0 ", ""},
		{"wg0.conf -p 1:2 -socks5 3 -- ls -l -- x", "wg0.conf [ls -l -- x] 1 127.0.0.1:3", ""},
		{"-v -p 1:2 -p 3:4/udp wg0.conf -- ls", "wg0.conf [ls] 2 ", ""},
		{"", "", "the file is missing"},
		{"-- ls", "", "the file is missing"},
		{"a b", "", `b is a second file: the command follows "--"`},
		{"-x a", "", "-x"},
		{"-p 1 a", "", "the second port is missing"},
		{"-socks5 x a", "", `"x" is not a port`},
		{"-h", "", flag.ErrHelp.Error()},
	} {
		o, err := parse(strings.Fields(tt.args))
		if err != nil || tt.err != "" {
			if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: got %v, want %q", tt.args, err, tt.err)
			}
			continue
		}
		if got := fmt.Sprintf("%s %v %d %s", o.file, o.command, len(o.ports), o.socks); got != tt.want {
			t.Errorf("%q: got %s, want %s", tt.args, got, tt.want)
		}
	}
}

// A server is the other end of a tunnel, with the encrypted socket on the host of the tests: it
// is 10.0.0.1 and www.lab.example, has a web server, and answers DNS questions.
type server struct {
	*wireguard.Tunnel
	key, psk, client wireguard.Key
	endpoint         string
}

func newServer(t *testing.T) *server { return newServerOn(t, nil) }

// newServerOn has the encrypted socket in a stack, of which the client knows 10.0.0.1.
func newServerOn(t *testing.T, underlay *vdestack.Stack) *server {
	t.Helper()
	s := &server{key: wireguard.NewKey(), psk: wireguard.NewKey(), client: wireguard.NewKey()}
	s.Tunnel = testenv.Opened(wireguard.Open(t.Context(), wireguard.Config{
		PrivateKey: s.key, Addrs: testenv.Prefixes("10.0.0.1/24", "fd00::1/64"), Underlay: underlay,
		Peers: []wireguard.Peer{{PublicKey: s.client.Public(), PresharedKey: s.psk, AllowedIPs: testenv.Prefixes("10.0.0.2/32", "fd00::2/128")}},
	}))(t)
	host := "127.0.0.1:"
	if underlay != nil {
		host = "10.0.0.1:"
	}
	s.endpoint = fmt.Sprint(host, testenv.Must(s.ListenPort())(t))
	st := s.Stack()
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(w, "hello %s\n", host)
	})}
	go web.Serve(testenv.Listen(t, st, "tcp", ":80"))
	t.Cleanup(func() { web.Close() })
	p := testenv.ListenPacket(t, st, "udp", "10.0.0.1:53")
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := p.ReadFrom(buf)
			if err != nil {
				return
			}
			if msg := dnstest.Answer(buf[:n], func(string) []string { return []string{"10.0.0.1"} }); msg != nil {
				p.WriteTo(msg, from)
			}
		}
	}()
	return s
}

// file writes the configuration of the client, with more lines for the interface.
func (s *server) file(t *testing.T, more string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "vpn7.conf")
	text := fmt.Sprintf("[Interface]\nPrivateKey = %s\nAddress = 10.0.0.2/24, fd00::2/64\nDNS = 10.0.0.1\n%s\n"+
		"[Peer]\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = %s\n",
		s.client.Reveal(), more, s.key.Public(), s.psk.Reveal(), s.endpoint)
	testenv.Check(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}

// wgrun returns the program, which is killed with its command at the end of the test.
func wgrun(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testenv.Program(testenv.Context(t), t, "wgrun", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

// keyText is a key in base64 or in hexadecimal.
var keyText = regexp.MustCompile(`[A-Za-z0-9+/]{43}=|(?i)[0-9a-f]{64}`)

// run runs wgrun to its end. It shows no key in any way.
func (s *server) run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	cmd := wgrun(t, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	all := out.String() + errs.String()
	for _, k := range []wireguard.Key{s.key, s.psk, s.client} {
		if strings.Contains(all, k.Reveal()[:20]) || keyText.MatchString(all) {
			t.Errorf("wgrun %q shows a key", args)
		}
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func TestRun(t *testing.T) {
	testenv.Long(t)
	s := newServer(t)
	curl, ip := testenv.Need(t, "curl", "curl"), testenv.Need(t, "ip", "iproute2")
	good, bad := s.file(t, ""), s.file(t, "PostUp = iptables "+s.client.Reveal())
	other := *s
	other.endpoint = "nobody.invalid:1"
	strangers := other.file(t, "")
	hidden := "a text of 44 characters (not shown: it may be a key)"
	readable := s.file(t, "")
	testenv.Check(t, os.Chmod(readable, 0o644))
	for _, tt := range []struct {
		name           string
		args           []string
		status         int
		stdout, stderr string // parts; empty: nothing at all
	}{
		{"address", []string{good, "--", curl, "-s", "http://10.0.0.1/"}, 0, "hello 10.0.0.2\n", ""},
		{"IPv6", []string{good, "--", curl, "-s", "http://[fd00::1]/"}, 0, "hello fd00::2\n", ""},
		{"name", []string{good, "--", curl, "-s", "-4", "http://www.lab.example/"}, 0, "hello 10.0.0.2\n", ""},
		{"interface", []string{good, "--", ip, "-br", "-4", "addr", "show", "vpn7"}, 0, "10.0.0.2/24", ""},
		{"log", []string{"-v", good, "--", "true"}, 0, "", "Interface state was Down, requested Up, now Up"},
		{"status", []string{good, "--", "sh", "-c", "exit 7"}, 7, "", ""},
		{"signal", []string{good, "--", "sh", "-c", "kill -TERM $$"}, 128 + 15, "", ""},
		{"no command", []string{good, "--", "no-such-program"}, program.StatusNotFound, "", "wgrun: no-such-program: command not found\n"},
		{"no program", []string{good, "--", "/etc/passwd"}, program.StatusNoExec, "", "wgrun: /etc/passwd: permission denied\n"},
		{"no file", []string{good + "x"}, program.StatusFailed, "", "no such file or directory\n"},
		{"bad file", []string{"-v", bad}, program.StatusFailed, "", `: line 5: "PostUp": wg-quick runs this as root on the host`},
		{"key for an address", []string{"-v", s.file(t, "Address = "+s.client.Reveal())}, program.StatusFailed, "", hidden},
		{"key for a name server", []string{"-v", s.file(t, "DNS = "+s.client.Reveal())}, program.StatusFailed, "", hidden},
		{"key for a line", []string{"-v", s.file(t, s.client.Reveal())}, program.StatusFailed, "", "(not shown: it may be a key)"},
		{"name that nobody has", []string{"-v", strangers, "--", "true"}, program.StatusFailed, "", "the Endpoint: lookup nobody.invalid"},
		{"large file", []string{"/dev/zero"}, program.StatusFailed, "", "it has more than 1048576 bytes\n"},
		{"file for all", []string{readable, "--", "true"}, 0, "", "all users can open the file"},
		{"busy port", []string{"-p", s.endpoint[len("127.0.0.1:"):] + ":80/udp", good}, program.StatusFailed, "", "address already in use\n"},
		{"usage", []string{}, program.StatusUsage, "", "wgrun: the file is missing\n"},
		{"help", []string{"-h"}, 0, "usage: wgrun", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if !slices.Contains(tt.args, curl) { // two that use one key would be a peer that moves
				t.Parallel()
			}
			status, stdout, stderr := s.run(t, tt.args...)
			if status != tt.status {
				t.Errorf("status %d, want %d", status, tt.status)
			}
			for _, part := range []struct{ what, got, want string }{{"output", stdout, tt.stdout}, {"errors", stderr, tt.stderr}} {
				if part.want == "" && part.got != "" || !strings.Contains(part.got, part.want) {
					t.Errorf("%s: got %q, want %q", part.what, part.got, part.want)
				}
			}
		})
	}
}

// TestNested runs a tunnel through a tunnel, and wgrun and vdens in one another: each command has
// its own names.
func TestNested(t *testing.T) {
	testenv.Long(t)
	outer := newServer(t)
	inner := newServerOn(t, outer.Stack())
	again := []string{"env", testenv.ProgramVariable + "=wgrun", testenv.Must(os.Executable())(t)}
	vdens := testenv.Build(t, "../..", "vdens")
	curl := testenv.Need(t, "curl", "curl")
	for _, tt := range []struct {
		name   string
		args   []string
		stdout string
	}{
		{"wgrun in wgrun", slices.Concat([]string{outer.file(t, ""), "--"}, again, []string{inner.file(t, ""), "--", curl, "-s", "-4", "http://www.lab.example/"}), "hello 10.0.0.2\n"},
		{"vdens between them", slices.Concat([]string{outer.file(t, ""), "--", vdens, "-dns", "10.0.0.3", "--", "sh", "-c", `cat /etc/resolv.conf; "$@"`, "sh"}, again,
			[]string{outer.file(t, ""), "--", "cat", "/etc/resolv.conf"}), "nameserver 10.0.0.3\nsearch .\nnameserver 10.0.0.1\nsearch .\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if status, stdout, stderr := inner.run(t, tt.args...); status != 0 || stdout != tt.stdout || stderr != "" {
				t.Errorf("status %d, %q and %q, want %q", status, stdout, stderr, tt.stdout)
			}
		})
	}
}

// TestInterruptRead ends the program while it waits for a configuration that nobody writes.
func TestInterruptRead(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "wg0.conf")
	testenv.Check(t, syscall.Mkfifo(name, 0o600))
	cmd := wgrun(t, name)
	testenv.Check(t, cmd.Start())
	f := testenv.Must(os.OpenFile(name, os.O_WRONLY, 0))(t) // when wgrun has opened it too
	defer f.Close()
	testenv.Check(t, cmd.Process.Signal(syscall.SIGTERM))
	cmd.Wait()
	if ws := cmd.ProcessState.Sys().(syscall.WaitStatus); ws.Signal() != syscall.SIGTERM {
		t.Errorf("SIGTERM has not ended wgrun: %v", cmd.ProcessState)
	}
}

// TestPorts reaches the web server through ports of the host.
func TestPorts(t *testing.T) {
	testenv.Long(t)
	t.Parallel()
	s := newServer(t)
	cmd := wgrun(t, "-p", "0:10.0.0.1:80", "-socks5", "0", s.file(t, ""), "--", "cat")
	var out testenv.Buffer
	cmd.Stderr = &out
	stdin := testenv.Must(cmd.StdinPipe())(t)
	testenv.Check(t, cmd.Start())
	free := regexp.MustCompile(`listen=(127\.0\.0\.1:\d+)`)
	testenv.Eventually(t, "wgrun logs two ports", func() bool { return len(free.FindAllString(out.String(), -1)) == 2 }, out.String)
	addrs := free.FindAllStringSubmatch(out.String(), -1)

	get := func(what, url string, dial func(ctx context.Context, network, address string) (net.Conn, error)) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		resp, err := client.Get(url)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); string(body) != "hello 10.0.0.2\n" {
			t.Errorf("%s: got %q, %v", what, body, err)
		}
	}
	get("port", "http://"+addrs[0][1]+"/", (&net.Dialer{}).DialContext)
	socks := testenv.Must(proxy.SOCKS5("tcp", addrs[1][1], nil, nil))(t).(proxy.ContextDialer)
	get("proxy", "http://10.0.0.1/", socks.DialContext)
	get("name by the proxy", "http://www.lab.example/", socks.DialContext)
	// What is on the host is not behind the tunnel.
	ln := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer ln.Close()
	if c, err := socks.DialContext(t.Context(), "tcp", ln.Addr().String()); err == nil {
		t.Error("the proxy has reached the host")
		c.Close()
	} else if !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("the host by the proxy: %v", err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, out.String())
	}
	if c, err := net.DialTimeout("tcp", addrs[1][1], time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the proxy after the end: %v, %v", c, err)
	}
}
