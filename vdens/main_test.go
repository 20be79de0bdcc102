package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// asVdens makes the test binary run as the program itself.
const asVdens = testenv.ProgramVariable + "=vdens"

func TestMain(m *testing.M) {
	testenv.Programs["vdens"] = main
	testenv.Main(m)
}

func TestParse(t *testing.T) {
	t.Setenv("SHELL", "/bin/myshell")
	// The result is written as "command | interface network addresses gateways | … |
	// name servers".
	tests := []struct{ name, args, want, err string }{
		{name: "nothing", want: "[/bin/myshell]"},
		{name: "empty command", args: "--", want: "[/bin/myshell]"},
		{name: "command", args: "-- ls -l -- x", want: "[ls -l -- x]"},
		{name: "no network", args: "no -- ls", want: "[ls]"},
		{name: "dash", args: "- -- ls", want: "[ls]"},
		{name: "network", args: "vxvde://", want: "[/bin/myshell] | vde0 vxvde:// [] []"},
		{name: "networks", args: "-i eth mem://a mem://b -- ls", want: "[ls] | eth0 mem://a [] [] | eth1 mem://b [] []"},
		{
			name: "addresses",
			args: "-addr 10.0.0.1/24 -addr vde1=10.1.0.1/24 -addr=fc00::1/64 mem://a mem://b -- ls",
			want: "[ls] | vde0 mem://a [10.0.0.1/24 fc00::1/64] [] | vde1 mem://b [10.1.0.1/24] []",
		},
		{
			name: "options after networks",
			args: "mem://a -gw vde1=fc00::1 mem://b -gw 10.0.0.1 -dns 9.9.9.9 -dns fe80::1%vde0",
			want: "[/bin/myshell] | vde0 mem://a [] [10.0.0.1] | vde1 mem://b [] [fc00::1] | [9.9.9.9 fe80::1%vde0]",
		},
		{name: "help", args: "mem://a -h", err: showError{}.Error()},
		{name: "command as in C", args: "mem://a ls -l -- -x", want: "[ls -l -- -x] | vde0 mem://a [] []"},
		{name: "command without network as in C", args: "no ls mem://a", want: "[ls mem://a]"},
		{name: "network after the end of options", args: "-s -- mem://a ls -l", want: "[ls -l] | vde0 mem://a [] []"},
		{name: "no network after the end of options", args: "-- - ls", want: "[ls]"},
		{name: "locators before a command", args: "mem://a -gw 10.0.0.1 =cat ls mem://b", want: "[ls mem://b] | vde0 mem://a [] [10.0.0.1] | vde1 =cat [] []"},
		{name: "paths of switches", args: "-m /x /y -- ls", want: "[ls] | vde0 /x [] [] | vde1 /y [] []"},
		{name: "directory as command", args: "/x / -- ls", err: "/ is a directory, no command (-m "},
		{name: "letters with one dash", args: "-smucieth mem://a mem://b -- ls", want: "[ls] | eth0 mem://a [] [] | eth1 mem://b [] []"},
		{name: "letters, then a value", args: "-si eth mem://a ls", want: "[ls] | eth0 mem://a [] []"},
		{name: "words in C's way", args: "--sysadm --clone --unshare --multi --iface=eth mem://a", want: "[/bin/myshell] | eth0 mem://a [] []"},
		{name: "value after =", args: "-i=eth -names=true mem://a", want: "[/bin/myshell] | eth0 mem://a [] []"},
		{name: "unknown option", args: "-x mem://a", err: "-x: unknown option"},
		{name: "unknown letter", args: "-sx mem://a", err: "-sx: unknown option"},
		{name: "unknown word", args: "--si eth mem://a", err: "--si: unknown option"},
		{name: "dashes only", args: "--- mem://a", err: "---: unknown option"},
		{name: "flag with a value", args: "-s=maybe mem://a", err: "-s=maybe: it takes no value"},
		{name: "no value", args: "mem://a -sH", err: "-H needs a value: name"},
		{name: "no host name", args: "-H= mem://a", err: "-H : a name has 1 to 64 bytes"},
		{name: "option without value", args: "mem://a -addr -- ls", err: "-addr"},
		{name: "address without length", args: "-addr 10.0.0.1 mem://a", err: `"10.0.0.1" is not ADDRESS/LENGTH`},
		{name: "no gateway", args: "-gw vde0= mem://a", err: `-gw vde0=: "" is not an address`},
		{name: "no name server", args: "-dns example.org", err: `"example.org"`},
		{name: "unknown interface", args: "-addr vde1=10.0.0.1/8 mem://a", err: `no interface "vde1", the last is vde0`},
		{name: "address without interface", args: "-addr 10.0.0.1/8", err: "no interface without a network"},
		{name: "gateway without interface", args: "-gw 10.0.0.1 no", err: "no interface without a network"},
		{name: "capture without interface", args: "-w file", err: "-w file: there is no interface without a network"},
		{name: "several as in C", args: "-m --iface eth mem://a mem://b -- ls", want: "[ls] | eth0 mem://a [] [] | eth1 mem://b [] []"},
		{name: "name servers as in C", args: "-R 9.9.9.9,fc00::1 --resolvaddr 1.1.1.1 no", want: "[/bin/myshell] | [9.9.9.9 fc00::1 1.1.1.1]"},
		{name: "resolv.conf", args: "-r /x no", want: "[/bin/myshell] | /x"},
		{name: "resolv.conf, long", args: "--resolvconf=/x no", want: "[/bin/myshell] | /x"},
		{name: "resolv.conf and name servers", args: "-r /x -R 9.9.9.9 no", want: "[/bin/myshell] | [9.9.9.9]"},
		{name: "names of the machine and name servers", args: "-names=false -dns 9.9.9.9 no", err: "-dns would be lost"},
		{name: "no name servers", args: "-R 9.9.9.9, no", err: "-R"},
		{name: "configuration", args: "-i eth -conf iface=eth1;dhcp -conf auto4 mem://a mem://b -- ls", want: "[ls] | eth0 mem://a [] [] | eth1 mem://b [] [] | iface=eth1,dhcp | iface=eth0,eth,dhcp"},
		{name: "wrong configuration", args: "-conf dhpc mem://a", err: `-conf dhpc: autoconf: item "dhpc"`},
		{name: "configuration without interface", args: "-conf auto no", err: "-conf auto: there is no interface without a network"},
		{name: "configuration of another interface", args: "-conf auto,iface=vde1 mem://a", err: `-conf auto,iface=vde1: there is no interface "vde1", the last is vde0`},
		{name: "two configurations", args: "-conf auto -conf dhcp,iface=vde0 mem://a", err: "-conf dhcp,iface=vde0: vde0 has a -conf already"},
		{name: "configuration by number", args: "-conf auto,ifindex=2 mem://a", err: "iface=vde0 is a name"},
		{name: "configuration with a network", args: "-conf auto,vnl=mem://b mem://a", err: "vnl=mem://b: networks are given as arguments"},
		{name: "configuration taken back", args: "-conf -dhcp mem://a", err: "-conf -dhcp: items with a minus"},
		{name: "static items taken back", args: "-conf -ip=10.0.0.1 mem://a", err: "items with a minus"},
		{name: "list", args: "--list", err: showError{}.Error()},
		{name: "none of several", args: "-m mem://a no", err: `"no" is no network`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := parse(strings.Fields(tt.args))
			if err != nil || tt.err != "" {
				if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("%q: got error %v, want %q", tt.args, err, tt.err)
				}
				return
			}
			got := fmt.Sprint(o.command)
			for _, i := range o.interfaces {
				got += fmt.Sprint(" | ", i.Name, " ", i.VNL, " ", i.Addrs, " ", i.Gateways)
			}
			if o.dns != nil {
				got += fmt.Sprint(" | ", o.dns)
			}
			for _, c := range o.confs {
				got += " | " + c.String()
			}
			if o.resolvConf != "" {
				got += " | " + o.resolvConf
			}
			if got != tt.want {
				t.Errorf("%q: got %s, want %s", tt.args, got, tt.want)
			}
		})
	}

	if o, err := parse([]string{""}); err != nil || o.interfaces != nil {
		t.Errorf(`an empty network: got %+v, %v, want none`, o, err)
	}
	t.Setenv("VDE_RESOLVCONF", "/env")
	for args, want := range map[string]string{"no": "/env []", "-r /x no": "/x []", "-dns 9.9.9.9 no": " [9.9.9.9]"} {
		o, err := parse(strings.Fields(args))
		if err != nil || fmt.Sprint(o.resolvConf, " ", o.dns) != want {
			t.Errorf("VDE_RESOLVCONF and %q: got %+v, %v, want %s", args, o, err, want)
		}
	}
	t.Setenv("VDE_RESOLVADDR", "1.1.1.1,2.2.2.2")
	if o, err := parse(nil); err != nil || fmt.Sprint(o.resolvConf, o.dns) != "[1.1.1.1 2.2.2.2]" {
		t.Errorf("VDE_RESOLVADDR: got %+v, %v", o, err)
	}
	t.Setenv("VDE_RESOLVADDR", "x")
	if _, err := parse(nil); err == nil || !strings.Contains(err.Error(), "VDE_RESOLVADDR") {
		t.Errorf("a wrong VDE_RESOLVADDR: %v", err)
	}
	t.Setenv("VDE_RESOLVADDR", "")
	t.Setenv("SHELL", "")
	if o, err := parse(nil); err != nil || !reflect.DeepEqual(o.command, []string{"/bin/sh"}) {
		t.Errorf("without SHELL: got %q, %v, want /bin/sh", o.command, err)
	}
}

// TestManual wants -h and --man to say the same, and neither to spoil a line.
func TestManual(t *testing.T) {
	var usage, man strings.Builder
	testenv.Check(t, showUsage(&usage))
	testenv.Check(t, showMan(&man))
	headings := make(map[string]bool)
	for _, s := range sections() {
		headings[s.title+":"] = true
		if heading := ".SH " + strings.ToUpper(s.title) + "\n"; !strings.Contains(man.String(), heading) {
			t.Errorf("--man does not have %q", heading)
		}
	}
	var words, manWords []string
	for line := range strings.Lines(usage.String()) {
		if len(line) > 90 || strings.Contains(line, "\t") || strings.HasSuffix(line, " \n") {
			t.Errorf("-h has a line of %d bytes, with a tab or with a blank at the end: %q", len(line), line)
		}
		if !headings[strings.TrimSuffix(line, "\n")] {
			words = append(words, strings.Fields(strings.TrimPrefix(line, "usage:"))...)
		}
	}
	_, text, _ := strings.Cut(man.String(), ".SH SYNOPSIS\n")
	for line := range strings.Lines(text) {
		text, option := strings.CutPrefix(line, ".B ")
		if option || !strings.HasPrefix(line, ".") {
			text = strings.NewReplacer(`\&`, "", `\-`, "-", `\(ha`, "^", `\e`, `\`).Replace(text)
			manWords = append(manWords, strings.Fields(text)...)
		}
	}
	if !slices.Equal(words, manWords) {
		t.Errorf("-h says %q, --man %q", words, manWords)
	}
	if got, want := roff(".a\n'b\nc-\\^"), `\&.a`+"\n"+`\&'b`+"\n"+`c\-\e\(ha`; got != want {
		t.Errorf("roff: got %q, want %q", got, want)
	}
}

// TestOptions wants each name once, and something about each option.
func TestOptions(t *testing.T) {
	for name, table := range map[string][]option{"vdens": new(options).table(), "vdens plug": new(plugCommand).table()} {
		seen := make(map[string]bool)
		for _, o := range table {
			for n := range strings.FieldsSeq(o.names) {
				n, _, _ = strings.Cut(strings.TrimLeft(n, "-"), "=")
				if seen[n] || findOption(table, n) == nil {
					t.Errorf("%s: %s is there twice, or is not found", name, n)
				}
				seen[n] = true
			}
			if o.about == "" || o.set == nil || o.file && o.value == "" {
				t.Errorf("%s: %s is not complete", name, o.names)
			}
		}
	}
}

func TestParseCapture(t *testing.T) {
	for _, tt := range []struct{ text, want, err string }{
		{text: "x", want: "x {0 0 0s} false"},
		{text: "x,append,count=7,size=3k,time=1m", want: "x {7 3072 1m0s} true"},
		{text: "a,count,b,size=1G", want: "a,count,b {0 1073741824 0s} false"},
		{text: "a,count=1,b", want: "a,count=1,b {0 0 0s} false"},
		{text: "-,size=9M", want: "- {0 9437184 0s} false"},
		{text: "-,append", err: "append is for files"},
		{text: ",count=1", err: "there is no name of a file"},
		{text: "x,count=0", err: `count "0": must be a number from 1`},
		{text: "x,count=-1", err: "must be a number"},
		{text: "x,size=9223372036854775807k", err: "is too large"},
		{text: "x,count=9223372036854775808", err: "is too large"},
		{text: "x,count=-9223372036854775809", err: "must be a number"},
		{text: "x,size=1T", err: "size"},
		{text: "x,size=1kk", err: "with k, M or G"},
		{text: "x,time=0s", err: "must be a duration"},
		{text: "x,time=9", err: "must be a duration"},
	} {
		o := &options{}
		err := o.setCapture(tt.text)
		if tt.err != "" || err != nil {
			if err == nil || tt.err == "" || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %s", tt.text, err, tt.err)
			}
		} else if got := fmt.Sprint(o.capture, " ", o.limits, " ", o.appendCapture); got != tt.want {
			t.Errorf("%s: got %s, want %s", tt.text, got, tt.want)
		}
	}
}
