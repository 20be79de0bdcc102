package vdeplug

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

var update = flag.Bool("update", false, "write the list of networks in doc.go")

// TestDocNetworks has the list of networks in the package's documentation say what
// the schemes say of themselves.
func TestDocNetworks(t *testing.T) {
	var want strings.Builder
	first := make(map[string]string) // scheme with the same options
	for _, name := range Schemes() {
		if isTestScheme(name) {
			continue
		}
		u, ok := UsageOf(name)
		if !ok {
			t.Errorf("the scheme %q has no usage", name)
			continue
		}
		options := fmt.Sprint(u.Options)
		switch same := first[options]; {
		case same == "":
			first[options] = name
		case len(u.Options) > 0:
			u.Options = nil
			u.About += "; the options of " + same
		}
		for line := range strings.Lines(u.String()) {
			want.WriteString("//\t" + line)
		}
	}
	testenv.CheckGenerated(t, "doc.go", `(?s)// # Networks\n.*?//\n((?://\t[^\n]*\n)+)`, want.String(), *update)
}
