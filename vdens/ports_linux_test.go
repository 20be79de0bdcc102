package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/program"
	"github.com/vdestack/vdestack/internal/testenv"
)

func init() {
	testenv.Programs["echo"], testenv.Programs["echoed"] = echoMain, echoedMain
}

// echoes answers what it gets at an address, by TCP and UDP.
func echoes(address string) (l net.Listener, u net.PacketConn, err error) {
	if l, err = net.Listen("tcp", address); err != nil {
		return nil, nil, err
	}
	if u, err = net.ListenPacket("udp", address); err != nil {
		return nil, nil, err
	}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
	go echoStreams(l)
	return l, u, nil
}

func echoStreams(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

// echoMain is a program that answers on port 7 until the end of its input.
func echoMain() {
	if _, _, err := echoes(":7"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
}

// echoed says something to an address and returns the answer.
func echoed(network, address string) (string, error) {
	c, err := net.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(testenv.Timeout))
	said := network + " " + address
	if _, err := io.WriteString(c, said); err != nil {
		return "", err
	}
	b := make([]byte, len(said))
	n, err := io.ReadFull(c, b)
	return string(b[:n]), err
}

// echoedMain is a program that prints the answers of addresses.
func echoedMain() {
	for _, a := range os.Args[1:] {
		network, address, _ := strings.Cut(a, ",")
		answer, err := echoed(network, address)
		fmt.Println(answer, err)
	}
}

// as returns the command line of a program of the test.
func as(t *testing.T, program string) []string {
	t.Helper()
	return []string{"env", testenv.ProgramVariable + "=" + program, testenv.Must(os.Executable())(t)}
}

// TestPortsIn reaches a server in the stack.
func TestPortsIn(t *testing.T) {
	path := filepath.Join(testenv.ShortDir(t), "socket")
	cmd := vdens(t, append([]string{
		"-p", "0:7", "-p", "0:7/udp", "-p", "[::1]:0:[::1]:7", "-p", "unix:" + path + ":7", "-p", "0:9", "-p", "0:9/udp", "--",
	}, as(t, "echo")...)...)
	stdin := testenv.Must(cmd.StdinPipe())(t)
	stderr := new(testenv.Buffer)
	cmd.Stderr = stderr
	stdout := startTrap(t, cmd)
	at := func(option string) string {
		wantText(t, stderr, `option="-p 0:9/udp" listen=`)
		m := regexp.MustCompile(`option="-p ` + regexp.QuoteMeta(option) + `" listen=(\S+) server=\S+\n`).FindStringSubmatch(stderr.String())
		if m == nil {
			t.Fatalf("no port for %s in %q", option, stderr.String())
		}
		return m[1]
	}
	for network, address := range map[string]string{"tcp4": at("0:7"), "udp": at("0:7/udp"), "tcp6": at("[::1]:0:[::1]:7"), "unix": path} {
		if got, err := echoed(network, address); err != nil || got != network+" "+address {
			t.Errorf("%s %s: got %q, %v", network, address, got, err)
		}
	}
	// Nobody has port 9.
	if got, err := echoed("tcp", at("0:9")); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("without a server: got %q, %v, want ECONNRESET", got, err)
	}
	ended := at("0:7")
	stdin.Close()
	wantEnd(t, cmd, stdout, 0, "")
	if got, err := echoed("tcp", ended); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("at the end: got %q, %v, want ECONNREFUSED", got, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s at the end: %v", path, err)
	}
}

// TestPortsOut has a shell reach servers of the host.
func TestPortsOut(t *testing.T) {
	l, u, err := echoes("127.0.0.1:0")
	testenv.Check(t, err)
	defer l.Close()
	defer u.Close()
	path := filepath.Join(testenv.ShortDir(t), "socket")
	ul := testenv.Must(net.Listen("unix", path))(t)
	defer ul.Close()
	go echoStreams(ul)
	port := func(a net.Addr) string {
		_, p, _ := net.SplitHostPort(a.String())
		return p
	}
	t.Setenv("SHELL", "/bin/sh")
	status, stdout, stderr := runVdens(t, strings.Join(append(as(t, "echoed"), "tcp,127.0.0.1:7", "udp,127.0.0.1:7", "tcp,[::1]:8"), " "),
		"-P", "7:"+port(l.Addr()), "-P", "7:"+u.LocalAddr().String()+"/udp", "-P", "[::1]:8:unix:"+path)
	if want := "tcp 127.0.0.1:7 <nil>\nudp 127.0.0.1:7 <nil>\ntcp [::1]:8 <nil>\n"; status != 0 || stdout != want || stderr != "" {
		t.Errorf("got status %d, %q and %q, want %q", status, stdout, stderr, want)
	}
}

// TestPortErrors has options that only the stack knows to be wrong.
func TestPortErrors(t *testing.T) {
	taken := testenv.Must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer taken.Close()
	for _, tt := range []struct{ option, text, want string }{
		{"-p", taken.Addr().String() + ":80", "bind: address already in use"},
		{"-P", "80:80/udp -P 80:80/udp", "bind: address already in use"},
		{"-P", "192.0.2.1:80:80", "cannot assign requested address"},
		{"-P", "unix:/x:80", "the stack's side has no unix sockets"},
		{"-p", "unix:/x:80/udp", "a unix socket takes the place of TCP only"},
	} {
		args := append(strings.Fields(tt.option+" "+tt.text), "--", "echo", "never")
		status, stdout, stderr := runVdens(t, "", args...)
		first, _, _ := strings.Cut(tt.text, " ")
		if status != program.StatusFailed || stdout != "" || !strings.HasPrefix(stderr, "vdens: "+tt.option+" "+first+": ") || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: got status %d, %q and %q, want %q", args, status, stdout, stderr, tt.want)
		}
	}
}
