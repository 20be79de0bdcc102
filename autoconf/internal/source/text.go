package source

import (
	"net/url"
	"strings"
)

// IsName reports whether a name can be used in DNS: letters, digits, hyphens and, which some
// names have, underscores. It has no trailing dot.
func IsName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if len(label) == 0 || len(label) > 63 {
			return false
		}
	}
	return !strings.ContainsFunc(name, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' || r == '.')
	})
}

// ParsePortal returns the URI of a captive portal, empty if there is none. Somebody opens it in
// a browser, so it is one of the web, and no file of the machine.
func ParsePortal(s string) string {
	s = strings.TrimRight(s, "\x00")
	u, err := url.Parse(s)
	if err != nil || s != printable(s) || strings.Contains(s, " ") || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return ""
	}
	return s
}

// Text returns what somebody on the network has written, fit to be shown.
func Text(s string) string {
	const shown = 100
	s = printable(s)
	return s[:min(len(s), shown)]
}

// printable returns the printable ASCII characters of s.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
}
