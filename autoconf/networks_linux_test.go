package autoconf

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// A network is a row of the table of networks.
type network struct {
	name     string
	packages []string // of Debian, of the server
	// open makes the network, and returns its locator.
	open func(t *testing.T) string
	// within says that it is in a stack, with the server in its kernel.
	within bool
	// built says that a program of ours has to be built, which is the server.
	built bool
}

var networks = []network{
	{name: "mem", packages: []string{"dnsmasq-base"}, open: func(t *testing.T) string { return "mem://autoconf-networks" }},
	{name: "vde", packages: []string{"dnsmasq-base", "vde2"}, open: vdeSwitch},
	{name: "vxvde", packages: []string{"dnsmasq-base"}, open: func(t *testing.T) string { return "vxvde://239.0.0.1/port=14874" }},
	{name: "tap", packages: []string{"dnsmasq-base"}, within: true, open: func(t *testing.T) string { return "tap://vde0" }},
	{name: "slirp", built: true, open: func(t *testing.T) string {
		return "cmd://" + testenv.Build(t, "../slirp", "slirp_plug") + " slirp://"
	}},
}

// vdeSwitch starts Debian's switch.
func vdeSwitch(t *testing.T) string {
	dir := filepath.Join(testenv.ShortDir(t), "switch")
	cmd := exec.CommandContext(t.Context(), testenv.Need(t, "vde_switch", "vde2"), "-s", dir)
	stdin := testenv.Must(cmd.StdinPipe())(t)
	testenv.Check(t, cmd.Start())
	t.Cleanup(func() {
		stdin.Close() // it ends
		cmd.Wait()
	})
	testenv.Eventually(t, "the switch", func() bool {
		_, err := os.Stat(filepath.Join(dir, "ctl"))
		return err == nil
	})
	return "vde://" + dir
}

// use gets, renews and gives back what a server has for all sources on a network.
func use(t *testing.T, n network) map[string]string {
	vnl := n.open(t)
	var log *testenv.Buffer
	serve := func(h host) {
		log, _ = startDnsmasq(t, h, t.TempDir(), "--port=0", "--enable-ra", "--dhcp-range=10.0.0.50,10.0.0.59,255.255.255.0,1h", "--dhcp-range=fd00::50,fd00::59,slaac,64,1h")
	}
	if !n.within && !n.built {
		serve(newHost(t, vdestack.Interface{VNL: vnl, Addrs: testenv.Prefixes("10.0.0.1/24", "fd00::1/64")}))
	}
	var cells map[string]string
	if n.within {
		cells = useWithin(t, vnl, serve)
	} else {
		items := "auto"
		if n.built {
			items = "eth,dhcp,rd" // it has no DHCPv6
		}
		var err error
		cells, err = useAll(testenv.Context(t), newHost(t, vdestack.Interface{VNL: vnl}).st, items)
		testenv.Check(t, err)
	}
	if log == nil {
		return cells
	}
	for by, client := range map[Source]string{DHCP4: "10.0.0.", DHCP6: "00:03:"} { // by its DUID
		testenv.Eventually(t, string(by)+" to be given back", func() bool { return strings.Contains(log.String(), "DHCPRELEASE(vde0) "+client) }, log.String)
		cells[string(by)] += ", given back"
	}
	return cells
}

// useAll uses sources in a stack.
func useAll(ctx context.Context, st *vdestack.Stack, items string) (map[string]string, error) {
	cfg, err := Parse(items + ",slaac,release,fqdn=host.lab.example")
	if err != nil {
		return nil, err
	}
	c, err := Start(ctx, st, cfg)
	if err != nil {
		return nil, err
	}
	cells := make(map[string]string)
	for _, l := range c.Leases() {
		if len(l.Addrs) > 0 {
			cells[string(l.Source)] = "got"
		}
	}
	if err := c.Renew(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for by := range cells {
		cells[by] += ", renewed"
	}
	return cells, c.Close()
}

func init() { testenv.Programs["useAll"] = useAllProgram }

// useWithin has a program of this name use a network that can only be opened within a stack,
// where the server is.
func useWithin(t *testing.T, vnl string, serve func(host)) map[string]string {
	st := testenv.Must(vdestack.New(t.Context(), vdestack.Config{}))(t)
	t.Cleanup(func() { testenv.Check(t, st.Close()) })
	cmd := st.Command(testenv.Context(t), testenv.Must(os.Executable())(t), vnl)
	cmd.Env = append(os.Environ(), testenv.ProgramVariable+"=useAll")
	cmd.Stderr = os.Stderr
	in := testenv.Must(cmd.StdinPipe())(t)
	out := bufio.NewReader(testenv.Must(cmd.StdoutPipe())(t))
	testenv.Check(t, cmd.Start())
	defer cmd.Wait()
	testenv.Must(out.ReadString('\n'))(t) // the network is open
	nl := testenv.Must(st.RTNL())(t)
	h := host{t, st, nl, testenv.Must(nl.IfNameToIndex("vde0"))(t)}
	testenv.Check(t, st.Sysctl("net/ipv6/conf/vde0/dad_transmits", "0"))
	testenv.Check(t, h.LinkSetUp(h.index))
	for _, p := range testenv.Prefixes("10.0.0.1/24", "fd00::1/64") {
		testenv.Check(t, h.AddrAdd(h.index, p))
	}
	serve(h)
	fmt.Fprintln(in)
	var cells map[string]string
	testenv.Check(t, json.NewDecoder(out).Decode(&cells))
	return cells
}

// useAllProgram opens a network, and uses it when it is told to.
func useAllProgram() {
	cells, err := func() (map[string]string, error) {
		ctx := context.Background()
		st, err := vdestack.New(ctx, vdestack.Config{Interfaces: []vdestack.Interface{{VNL: os.Args[1]}}})
		if err != nil {
			return nil, err
		}
		defer st.Close()
		fmt.Println()
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			return nil, err
		}
		return useAll(ctx, st, "auto")
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(cells)
}
