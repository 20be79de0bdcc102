//go:build linux

package dns

import (
	"encoding/hex"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vdestack/vdestack/internal/testenv"
	"golang.org/x/net/dns/dnsmessage"
)

var capture = flag.Bool("capture", false, "write messages of dnsmasq to testdata/dnsmasq")

// startDnsmasq starts a server with the zone example, on loopback.
func startDnsmasq(t *testing.T) netip.AddrPort {
	t.Helper()
	program := testenv.Need(t, "dnsmasq", "dnsmasq-base")
	free := newFake(t, silent)
	free.stop()
	addr := free.addr
	args := []string{
		"--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=", "--user=", "--group=",
		"--no-resolv", "--no-hosts", "--listen-address=127.0.0.1", "--bind-interfaces", fmt.Sprintf("--port=%d", addr.Port()),
		"--local=/example/",
		"--host-record=both.example,10.1.2.3,fd00::3",
		"--host-record=v4.example,10.1.2.4",
		"--cname=alias.example,both.example",
		"--txt-record=both.example,hello",
		"--mx-host=example,both.example,10",
		"--srv-host=_http._tcp.example,both.example,80",
	}
	for i := range 200 {
		args = append(args, fmt.Sprintf("--host-record=many.example,10.2.0.%d", i))
	}
	cmd := exec.CommandContext(t.Context(), program, args...)
	// It answers over TCP from other processes; all of them get the signal.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var log testenv.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.WaitDelay = testenv.Timeout
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Wait()
		if t.Failed() {
			t.Logf("dnsmasq: %s", log.String())
		}
	})
	testenv.Eventually(t, "dnsmasq to listen", func() bool {
		conn, err := net.Dial("tcp", addr.String())
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return addr
}

func TestDnsmasq(t *testing.T) {
	addr := startDnsmasq(t)
	f := &fake{addr: addr}
	c := newClient(t, Config{Timeout: testenv.Timeout, Search: []string{"example"}}, f)
	tests := []struct{ network, host, want, err string }{
		{"ip", "both.example", "10.1.2.3 fd00::3", ""},
		{"ip", "both", "10.1.2.3 fd00::3", ""},
		{"ip6", "BOTH.example.", "fd00::3", ""},
		{"ip", "alias.example", "10.1.2.3 fd00::3", ""},
		{"ip", "v4.example", "10.1.2.4", ""},
		{"ip6", "v4.example", "", "no such host"},
		{"ip", "none.example.", "", "no such host"},
		{"ip", "elsewhere.test.", "", "server misbehaving"},
	}
	for _, tt := range tests {
		t.Run(tt.network+" "+tt.host, func(t *testing.T) {
			wantAddrs(t, c, tt.network, tt.host, tt.want, tt.err)
		})
	}
	t.Run("many addresses", func(t *testing.T) {
		got, err := c.LookupNetIP(t.Context(), "ip", "many.example")
		if err != nil || len(got) != maxAddrs {
			t.Errorf("got %d addresses, %v, want %d", len(got), err, maxAddrs)
		}
	})
	t.Run("resolver", func(t *testing.T) {
		r := c.Resolver()
		is := func(want any) func(got any, err error) {
			return func(got any, err error) {
				t.Helper()
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Errorf("got %v, %v, want %v", got, err, want)
				}
			}
		}
		is([]string{"hello"})(r.LookupTXT(t.Context(), "both.example."))
		is([]*net.MX{{Host: "both.example.", Pref: 10}})(r.LookupMX(t.Context(), "example."))
		_, srv, err := r.LookupSRV(t.Context(), "http", "tcp", "example.")
		is([]*net.SRV{{Target: "both.example.", Port: 80}})(srv, err)
		is([]string{"both.example."})(r.LookupAddr(t.Context(), "10.1.2.3"))
		addrs, err := r.LookupNetIP(t.Context(), "ip4", "many.example.")
		if err != nil || len(addrs) != 200 {
			t.Errorf("%d addresses, %v, want all 200", len(addrs), err)
		}
	})
	if *capture {
		captureFrom(t, addr)
	}
}

// captureFrom writes the replies that TestCaptured reads.
func captureFrom(t *testing.T, addr netip.AddrPort) {
	for file, question := range map[string]string{
		"a": "A both.example.", "aaaa": "AAAA both.example.", "cname": "A alias.example.", "nodata": "AAAA v4.example.",
		"nxdomain": "A none.example.", "refused": "A elsewhere.test.", "truncated": "A many.example.",
	} {
		typ, name, _ := strings.Cut(question, " ")
		q := dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}
		if typ == "AAAA" {
			q.Type = dnsmessage.TypeAAAA
		}
		query := testenv.Must(pack(0x1234, q, true))(t)
		conn, err := net.Dial("udp", addr.String())
		testenv.Check(t, err)
		conn.SetDeadline(time.Now().Add(testenv.Timeout))
		buf := make([]byte, 1<<16)
		if _, err := conn.Write(query); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		conn.Close()
		testenv.Check(t, err)
		testenv.Check(t, os.WriteFile(filepath.Join("testdata/dnsmasq", file+".hex"), []byte(lines(buf[:n])), 0o666))
	}
}

// lines returns bytes in hexadecimal digits, 32 a line.
func lines(b []byte) string {
	var s strings.Builder
	for chunk := range slices.Chunk(b, 32) {
		s.WriteString(hex.EncodeToString(chunk) + "\n")
	}
	return s.String()
}
