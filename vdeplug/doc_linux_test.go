package vdeplug

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the list of networks in doc.go")

// TestDocNetworks has the list of networks in the package's documentation say what
// the schemes say of themselves.
func TestDocNetworks(t *testing.T) {
	var want strings.Builder
	for _, name := range Schemes() {
		if isTestScheme(name) {
			continue
		}
		u, ok := UsageOf(name)
		if !ok {
			t.Errorf("the scheme %q has no usage", name)
			continue
		}
		fmt.Fprintf(&want, "//	%s\n//	    %s\n", u.Form, u.About)
	}
	text, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	list := regexp.MustCompile(`(?s)(// # Networks\n.*?//\n)((?://\t[^\n]*\n)+)`)
	m := list.FindSubmatchIndex(text)
	if m == nil {
		t.Fatal("doc.go has no list of networks")
	}
	if got := string(text[m[4]:m[5]]); got == want.String() {
		return
	} else if !*update {
		t.Fatalf("doc.go lists\n%s\nwant\n%s\n(go test -run %s -update)", got, &want, t.Name())
	}
	text = append(text[:m[4]:m[4]], append([]byte(want.String()), text[m[5]:]...)...)
	if err := os.WriteFile("doc.go", text, 0o644); err != nil {
		t.Fatal(err)
	}
}
