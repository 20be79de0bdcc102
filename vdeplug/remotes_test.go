package vdeplug

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vdestack/vdestack/internal/plugtest"
	"github.com/vdestack/vdestack/internal/testenv"
)

func TestParseRemotes(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []string
		err  string
	}{
		{in: ""},
		{in: "\n# nobody yet\n  \n"},
		{in: "10.0.0.2\n10.0.0.3:5000", want: []string{"10.0.0.2:0", "10.0.0.3:5000"}},
		{in: "fd00::2 # the second\r\n[fd00::3]:4789\r\n\tfe80::1%eth0\n", want: []string{"[fd00::2]:0", "[fd00::3]:4789", "[fe80::1%eth0]:0"}},
		{in: "10.0.0.2\n\nhost2\n", err: `line 3: "host2" is not ADDRESS or ADDRESS:PORT`},
		{in: "10.0.0.2:0", err: `line 1: "10.0.0.2:0" is not`},
		{in: "10.0.0.2:65536", err: `line 1:`},
		{in: "10.0.0.2 10.0.0.3", err: `line 1:`},
		{in: "[fd00::2]", err: `line 1:`},
		{in: strings.Repeat("x", 1000), err: `line 1: "` + strings.Repeat("x", 60) + `" is not`},
	} {
		got, err := parseRemotes(tt.in)
		if tt.err != "" {
			plugtest.WantError(t, err, tt.err)
			continue
		}
		var want []netip.AddrPort
		for _, s := range tt.want {
			want = append(want, netip.MustParseAddrPort(s))
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: got %v, %v, want %v", tt.in, got, err, want)
		}
	}
}

// remotesOptions returns the options of a locator with a source.
func remotesOptions(t *testing.T, options string) *vxlanOptions {
	t.Helper()
	return testenv.Must(parseVXLAN(t.Context(), testenv.Must(Parse("vxlan:///remotes=file:x/"+options))(t)))(t)
}

// TestCheckRemotes checks first sets, which decide about the family, and others.
func TestCheckRemotes(t *testing.T) {
	var many []string
	for i := range maxRemotes + 1 {
		many = append(many, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 1).String())
	}
	for _, tt := range []struct {
		name, options string
		first, then   []string
		want          []string // of then
		err           string   // of any
	}{
		{name: "order, ports and duplicates", options: "port=5000", first: []string{"10.0.0.2:0"},
			then: []string{"10.0.0.9:1", "10.0.0.3:0", "10.0.0.2:5000", "[::ffff:10.0.0.2]:0"}, want: []string{"10.0.0.2:5000", "10.0.0.3:5000", "10.0.0.9:1"}},
		{name: "the first is IPv6", options: "vni=1", first: []string{"[fd00::2]:0"}, then: []string{"[fd00::3]:0"}, want: []string{"[fd00::3]:4789"}},
		{name: "the first is empty", options: "vni=1", then: []string{"10.0.0.2:0"}, want: []string{"10.0.0.2:4789"}},
		{name: "empty, and of no other family", options: "vni=1", then: []string{"[fd00::2]:0"}, err: "fd00::2 is not of the family of the others, IPv4"},
		{name: "empty, v6", options: "v6", then: []string{"[fd00::2]:0"}, want: []string{"[fd00::2]:4789"}},
		{name: "empty, bind", options: "bind=fd00::1", then: []string{"[fd00::2]:0"}, want: []string{"[fd00::2]:4789"}},
		{name: "bind and v6", options: "bind=10.0.0.1/v6", first: []string{"[fd00::2]:0"}, err: "are of different families"},
		{name: "mixed", options: "vni=1", first: []string{"10.0.0.2:0", "[fd00::2]:0"}, err: "is not of the family of the others"},
		{name: "later another", options: "vni=1", first: []string{"10.0.0.2:0"}, then: []string{"[fd00::2]:0"}, err: "is not of the family of the others"},
		{name: "multicast", options: "vni=1", first: []string{"239.0.0.1:0"}, err: "is no address of a host"},
		{name: "unspecified, with a zone", options: "if=lo", first: []string{"[::%lo]:0"}, err: "is no address of a host"},
		{name: "no address", options: "vni=1", first: []string{""}, err: "a host has no address"},
		{name: "link-local", options: "if=lo", first: []string{"[fe80::1]:0"}, then: []string{"[fe80::2%lo]:0"}, want: []string{"[fe80::2]:4789"}},
		{name: "link-local without interface", options: "vni=1", first: []string{"[fe80::1%lo]:0"}, err: "say which with if=NAME"},
		{name: "another interface", options: "if=lo", first: []string{"[fe80::1%eth0]:0"}, err: "is on another interface than if=NAME says"},
		{name: "many", options: "vni=1", first: many[1:], then: many, err: "more than 1024 remotes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			hosts := func(list []string) (a []netip.AddrPort) {
				for _, s := range list {
					var ap netip.AddrPort
					if s != "" {
						ap = netip.MustParseAddrPort(s)
					}
					a = append(a, ap)
				}
				return a
			}
			o := remotesOptions(t, tt.options)
			err := o.begin(hosts(tt.first))
			var got []netip.AddrPort
			if err == nil {
				got, err = o.checkRemotes(hosts(tt.then))
			}
			switch {
			case tt.err != "":
				plugtest.WantError(t, err, tt.err)
			case err != nil || !slices.Equal(got, hosts(tt.want)):
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

// FuzzRemotes checks that accepted files are sets of hosts of one family, and are read
// alike when they are written in another way.
func FuzzRemotes(f *testing.F) {
	for _, text := range []string{"", "10.0.0.1\n10.0.0.2:5 # x\n", "[fd00::1]:9\r\nfd00::2", "fe80::1%lo", "::ffff:1.2.3.4\n1.2.3.4", "0.0.0.0", "::0%lo", "#"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hosts, err := parseRemotes(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") || len(hosts) > 0 {
				t.Errorf("%q: %v, %v", text, hosts, err)
			}
			return
		}
		o := remotesOptions(t, "if=lo")
		if o.begin(hosts) != nil {
			return
		}
		if len(o.Remotes) > maxRemotes || len(o.Remotes) > len(hosts) || (len(o.Remotes) == 0) != (len(hosts) == 0) {
			t.Errorf("%q: %d of %d hosts", text, len(o.Remotes), len(hosts))
		}
		var again strings.Builder
		for i, r := range o.Remotes {
			a := r.Addr()
			if !a.IsValid() || a.Zone() != "" || a.IsMulticast() || a.IsUnspecified() || a.Is4In6() || r.Port() == 0 || a.Is4() != o.Listen.Addr().Is4() {
				t.Errorf("%q: host %v", text, r)
			}
			if i > 0 && o.Remotes[i-1].Compare(r) >= 0 {
				t.Errorf("%q: %v after %v", text, r, o.Remotes[i-1])
			}
			fmt.Fprintf(&again, "  %s # %d\n\n", r, i)
		}
		hosts, err = parseRemotes(again.String())
		if err != nil || !slices.Equal(hosts, o.Remotes) {
			t.Errorf("%q: %v, %v, want %v", again.String(), hosts, err, o.Remotes)
		}
	})
}

// TestFileRemotes changes a file as editors, scripts and Kubernetes do.
func TestFileRemotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, "hosts")
		write := func(name, text string) { writeFile(t, filepath.Join(dir, name), text) }
		write("hosts", "10.0.0.1\n")
		type result struct {
			hosts []netip.AddrPort
			err   error
		}
		results, ended := make(chan result), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(ended)
			for hosts, err := range fileRemotes(ctx, path) {
				results <- result{hosts, err}
			}
		}()
		// want wants a result within a second, of the bubble's time.
		want := func(text string, is error, hosts ...string) {
			t.Helper()
			select {
			case r := <-results:
				var got []string
				for _, h := range r.hosts {
					got = append(got, h.Addr().String())
				}
				if is != nil && !errors.Is(r.err, is) || (r.err == nil) != (text == "") || text != "" && !strings.Contains(r.err.Error(), text) || !reflect.DeepEqual(got, hosts) {
					t.Errorf("got %v, %v, want %v, %q", got, r.err, hosts, text)
				}
			case <-time.After(time.Second):
				t.Errorf("nothing in a second, want %v, %q", hosts, text)
			}
		}
		quiet := func() {
			t.Helper()
			select {
			case r := <-results:
				t.Errorf("got %v, %v, want nothing", r.hosts, r.err)
			case <-time.After(10 * filePoll):
			}
		}
		want("", nil, "10.0.0.1")
		quiet()
		write("hosts", "10.0.0.2\n") // of the same size, and perhaps at the same time
		want("", nil, "10.0.0.2")
		write("hosts~", "10.0.0.3\n10.0.0.4\n")
		testenv.Check(t, os.Rename(path+"~", path))
		want("", nil, "10.0.0.3", "10.0.0.4")
		write("hosts", "10.0.0.5\nnobody\n")
		want(`line 2: "nobody"`, nil)
		quiet()
		write("hosts", "")
		want("", nil)

		// A writer that is slow is waited for.
		time.Sleep(filePoll / 2)
		for i := range 5 {
			write("hosts", strings.Repeat("10.0.0.6\n", i+1))
			time.Sleep(filePoll)
		}
		want("", nil, slices.Repeat([]string{"10.0.0.6"}, 5)...)

		// A directory that is mounted from a ConfigMap: hosts -> ..data/hosts, ..data -> N.
		write("1/hosts", "10.0.0.7")
		write("2/hosts", "10.0.0.8")
		testenv.Check(t, os.Symlink("1", filepath.Join(dir, "..data")))
		testenv.Check(t, os.Symlink("..data/hosts", path+"~"))
		testenv.Check(t, os.Rename(path+"~", path))
		want("", nil, "10.0.0.7")
		testenv.Check(t, os.Symlink("2", filepath.Join(dir, "..data~")))
		testenv.Check(t, os.Rename(filepath.Join(dir, "..data~"), filepath.Join(dir, "..data")))
		testenv.Check(t, os.RemoveAll(filepath.Join(dir, "1")))
		want("", nil, "10.0.0.8")

		testenv.Check(t, os.Remove(path))
		want(path, fs.ErrNotExist)
		quiet()
		testenv.Check(t, os.Mkdir(path, 0o700))
		want("open "+path+": not a regular file", nil)
		testenv.Check(t, os.Remove(path))
		want(path, fs.ErrNotExist)
		write("hosts", strings.Repeat("#", maxRemotesFile+1))
		want("larger than 256 KiB", nil)
		write("hosts", strings.Repeat("#", maxRemotesFile-9)+"\n10.0.0.9")
		want("", nil, "10.0.0.9")
		cancel()
		<-ended
	})
}

func TestRegisterRemotesPanics(t *testing.T) {
	for _, tt := range []struct {
		name  string
		hosts RemotesFunc
		want  string
	}{
		{"file", fileRemotes, `"file" is registered twice`},
		{"a:b", fileRemotes, "needs a valid name"},
		{"none", nil, "needs a valid name and a function"},
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, tt.want) {
					t.Errorf("%q: panic %q, want %q", tt.name, got, tt.want)
				}
			}()
			RegisterRemotes(tt.name, tt.hosts)
		}()
	}
}
