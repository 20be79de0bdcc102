package plugtest

import (
	"encoding/hex"
	"strings"
	"testing"
)

// Captured returns the packets of another implementation by name, from a text with a
// name and hexadecimal digits on each line.
func Captured(t testing.TB, text string) map[string][]byte {
	t.Helper()
	packets := make(map[string][]byte)
	for line := range strings.Lines(text) {
		name, digits, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || name == "#" {
			continue
		}
		var err error
		if packets[name], err = hex.DecodeString(strings.ReplaceAll(digits, " ", "")); err != nil {
			t.Fatal(err)
		}
	}
	return packets
}
