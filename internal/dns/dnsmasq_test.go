//go:build linux

package dns

import (
	"context"
	"encoding/hex"
	"errors"
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

	"github.com/vdestack/vdestack/internal/dns/dnstest"
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
	args = append(args, moreRecords...)
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

// moreRecords are for comparison with package net. Those with a number are of types, or have
// contents, that dnsmasq has no words for.
var moreRecords = []string{
	"--cname=longalias.example,alias.example",
	"--cname=dangling.example,none.example",
	"--mx-host=more.example,both.example,10", "--mx-host=more.example,v4.example,5",
	"--txt-record=example,one,two",
	"--txt-record=example,three",
	"--srv-host=_more._tcp.example,v4.example,8080,1,5", "--srv-host=_more._tcp.example,both.example,80,2,5",
	"--srv-host=_none._tcp.example",
	"--ptr-record=9.3.2.10.in-addr.arpa,nine.example",
	"--dns-rr=example,2,026e73076578616d706c6500", // NS ns.example.
	"--dns-rr=null.example,15,000000",             // MX 0 .
	"--dns-rr=badmx.example,15,000a0362c32100",    // not a name
	"--dns-rr=badmx.example,15,000a02612d00",      // MX 10 a-.
	"--dns-rr=badmx.example,15,00140161076578616d706c6500",
	"--dns-rr=badsrv.example,33,00010002005002612d00",
	"--dns-rr=badsrv.example,33,0001000200500161076578616d706c6500",
	"--dns-rr=badns.example,2,02612d00",
	"--dns-rr=bytes.example,16,04ff00c33a",
}

// calls are compared with package net. Their names are absolute, so that the search list of
// the machine plays no part.
var calls = []string{
	"txt example.", "txt both.example.", "txt EXAMPLE.", "txt bytes.example.", "txt none.example.", "txt v4.example.",
	"txt elsewhere.test.", "txt alias.example.", "txt a..b", "txt ", "txt x y.",
	"mx example.", "mx more.example.", "mx null.example.", "mx badmx.example.", "mx none.example.", "mx elsewhere.test.",
	"ns example.", "ns badns.example.", "ns both.example.", "ns none.example.",
	"srv http tcp example.", "srv more tcp example.", "srv _http._tcp.example.", "srv none tcp example.", "srv x tcp example.", "srv badsrv.example.",
	"srv http tcp elsewhere.test.",
	"cname both.example.", "cname alias.example.", "cname dangling.example.", "cname v4.example.",
	"cname example.", "cname none.example.", "cname 10.1.2.3", "cname ", "cname elsewhere.test.",
	"addr 10.1.2.3", "addr fd00::3", "addr 10.2.3.9", "addr ::ffff:10.1.2.3", "addr 10.1.2.99", "addr none.example.",
	"addr fe80::1%x", "addr ", "addr 10.1.2",
	"host both.example.", "host alias.example.", "host longalias.example.", "host v4.example.", "host none.example.", "host dangling.example.",
	"host example.", "host 10.1.2.3", "host fe80::1%x", "host ::ffff:10.1.2.3", "host ", "host elsewhere.test.",
	"ip both.example.", "ip4 both.example.", "ip6 both.example.", "ip6 v4.example.", "ip none.example.", "ip 10.1.2.3", "ip6 fd00::3", "ip ",
	"ipaddr both.example.", "ipaddr fe80::1%x", "ipaddr none.example.",
}

// comparePackageNet makes all calls with the client, with its resolver and with a resolver
// of package net that is pointed at the same server.
func comparePackageNet(t *testing.T, c *Client, addr netip.AddrPort) {
	plain := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, addr.String())
	}}
	for _, line := range calls {
		want, wantErr := dnstest.Call(t.Context(), plain, line)
		got, err := dnstest.Call(t.Context(), c, line)
		gotNet, netErr := dnstest.Call(t.Context(), resolverOf(c), line)
		if got != want || dnstest.Essence(err) != dnstest.Essence(wantErr) {
			t.Errorf("%s: got %q, %s; package net %q, %s", line, got, dnstest.Essence(err), want, dnstest.Essence(wantErr))
		}
		if gotNet != want || dnstest.Essence(netErr) != dnstest.Essence(wantErr) {
			t.Errorf("%s: its resolver got %q, %s; package net %q, %s", line, gotNet, dnstest.Essence(netErr), want, dnstest.Essence(wantErr))
		}
		e, ok := errors.AsType[*net.DNSError](err)
		if w, _ := errors.AsType[*net.DNSError](wantErr); ok && (e.IsTemporary != w.IsTemporary || (e.Server == "") != (w.Server == "")) {
			t.Errorf("%s: error %#v, of package net %#v", line, e, w)
		}
	}
}

// checkAliases has an alias of an alias. Package net returns the first one's name if it gets
// that first.
func checkAliases(t *testing.T, c *Client) {
	for _, l := range []dnstest.Lookuper{c, resolverOf(c)} {
		if got, err := dnstest.Call(t.Context(), l, "cname longalias.example."); err != nil || got != "both.example." {
			t.Errorf("alias of an alias: %q, %v", got, err)
		}
	}
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
	t.Run("package net", func(t *testing.T) { comparePackageNet(t, c, addr) })
	t.Run("aliases", func(t *testing.T) { checkAliases(t, c) })
	t.Run("resolver", func(t *testing.T) {
		r := resolverOf(c)
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
		if err != nil || len(addrs) != maxAddrs {
			t.Errorf("%d addresses, %v, want %d", len(addrs), err, maxAddrs)
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
