package testenv

import (
	"os"
	"regexp"
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
		t.Fatalf("%s says\n%s\nwant\n%s\n(go test -run %s -update)", file, got, want, t.Name())
	}
	text = append(text[:m[2]:m[2]], append([]byte(want), text[m[3]:]...)...)
	Check(t, os.WriteFile(file, text, 0o644))
}
