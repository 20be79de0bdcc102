package main

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/vdeplug"
)

var update = flag.Bool("update", false, "write the table of networks in the README")

// TestREADME has the table of networks in the README say what the schemes say of
// themselves, slirp:// included.
func TestREADME(t *testing.T) {
	var want strings.Builder
	for _, name := range vdeplug.Schemes() {
		if u, ok := vdeplug.UsageOf(name); ok {
			fmt.Fprintf(&want, "| `%s` | %s |\n", u.Form, u.About)
		} else {
			t.Errorf("the scheme %q has no usage", name)
		}
	}
	const path = "../README.md"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table := regexp.MustCompile(`(?s)\| locator \| network \|\n\|---\|---\|\n((?:\|[^\n]*\n)+)`)
	m := table.FindSubmatchIndex(text)
	if m == nil {
		t.Fatal("the README has no table of networks")
	}
	if got := string(text[m[2]:m[3]]); got == want.String() {
		return
	} else if !*update {
		t.Fatalf("the README lists\n%s\nwant\n%s\n(go test -run %s -update)", got, &want, t.Name())
	}
	text = append(text[:m[2]:m[2]], append([]byte(want.String()), text[m[3]:]...)...)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
