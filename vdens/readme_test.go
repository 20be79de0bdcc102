package main

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
	"github.com/vdestack/vdestack/vdeplug"
)

var update = flag.Bool("update", false, "write the table of networks in the README")

// TestREADME compares the table of networks in the README with the usage of the schemes,
// slirp:// included.
func TestREADME(t *testing.T) {
	var want strings.Builder
	for _, name := range vdeplug.Schemes() {
		if u, ok := vdeplug.UsageOf(name); ok {
			fmt.Fprintf(&want, "| `%s` | %s |\n", u.Form, u.About)
		} else {
			t.Errorf("the scheme %q has no usage", name)
		}
	}
	testenv.CheckGenerated(t, "../README.md", `\| locator \| network \|\n\|---\|---\|\n((?:\|[^\n]*\n)+)`, want.String(), *update)
}
