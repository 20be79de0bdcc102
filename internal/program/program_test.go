package program

import (
	"errors"
	"strings"
	"testing"
)

// TestReportPrintable has an error with what would change a terminal.
func TestReportPrintable(t *testing.T) {
	var b strings.Builder
	status := Report(&b, "x", errors.New("a \x1b[31m\"\\é\n\tb\r\x9b0m\u009b \u202e\ufffd\xff"))
	if want := "x: a \\x1b[31m\"\\é\n\tb\\r\\x9b0m\\u009b \\u202e\ufffd\\xff\n"; b.String() != want || status != StatusFailed {
		t.Errorf("got %q and %d, want %q", b.String(), status, want)
	}
}
