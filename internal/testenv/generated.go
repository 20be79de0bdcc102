package testenv

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// CheckGenerated compares a part of a file, the first group of the pattern, with want.
// If update is true, it writes want to the file instead.
func CheckGenerated(t testing.TB, file, pattern, want string, update bool) {
	t.Helper()
	text, err := os.ReadFile(file)
	Check(t, err)
	m := regexp.MustCompile(pattern).FindSubmatchIndex(text)
	if m == nil {
		t.Fatalf("%s has nothing like %s", file, pattern)
	}
	if got := string(text[m[2]:m[3]]); got == want {
		return
	} else if !update {
		g, w := slices.Collect(strings.Lines(got)), slices.Collect(strings.Lines(want))
		for len(g) > 0 && len(w) > 0 && g[0] == w[0] {
			g, w = g[1:], w[1:]
		}
		for len(g) > 0 && len(w) > 0 && g[len(g)-1] == w[len(w)-1] {
			g, w = g[:len(g)-1], w[:len(w)-1]
		}
		t.Fatalf("%s says\n%s\nwant\n%s\n(go test -run %s -update)", file, strings.Join(g, ""), strings.Join(w, ""), t.Name())
	}
	text = append(text[:m[2]:m[2]], append([]byte(want), text[m[3]:]...)...)
	Check(t, os.WriteFile(file, text, 0o644))
}
