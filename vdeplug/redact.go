package vdeplug

import (
	"slices"
	"strconv"
	"strings"

	"github.com/vdestack/vdestack/internal/argv"
)

// Redact returns a locator without what may be secret, for whatever others read: logs,
// metrics, captures, texts of errors. "…" stands for what is left out:
//
//   - the arguments of cmd:// and "=", so that "cmd://ssh host vde_plug" is "cmd://ssh …";
//   - the value of an option that is [OptionUsage.Secret], and all options behind it; of a
//     scheme that is not registered, the value of any option.
//
// Inner networks are shown so too. Other locators are returned as they are.
func Redact(vnl string) string {
	if command, ok := strings.CutPrefix(vnl, "="); ok {
		return "=" + program(command)
	}
	scheme, body, ok := strings.Cut(vnl, "://")
	if scheme == "cmd" {
		return "cmd://" + program(body)
	}
	s := lookupScheme(scheme)
	options := s.Usage.Options
	if ok && s.Name == "" && validScheme(scheme) {
		options = []OptionUsage{{Secret: true}} // all may be
	}
	text, ends := unquoted(vnl)
	end := len(vnl)
	for _, o := range options {
		for _, name := range slices.Concat([]string{o.Name}, o.Aliases) {
			if i := strings.Index(text, name+"="); i >= 0 && o.Secret {
				end = min(end, ends[i+len(name)])
			}
		}
	}
	if end < len(vnl) {
		vnl = vnl[:end] + "…"
	}
	// A brace that is quoted does no harm: what is behind it comes back as it is, too.
	outer, inner, ok := strings.Cut(vnl, "{")
	if !ok {
		return vnl
	}
	inner, closed := strings.CutSuffix(inner, "}")
	vnl = outer + "{" + Redact(inner)
	if closed {
		vnl += "}"
	}
	return vnl
}

// unquoted returns the text that a locator has without quoting, which may also hide a "=", and where
// each byte of it ends in the locator. No option has a quote or a backslash in its name, so it does
// not matter what those mean that are quoted themselves.
func unquoted(vnl string) (text string, ends []int) {
	var b []byte
	for i := 0; i < len(vnl); {
		c := vnl[i]
		i++
		switch {
		case c == '\'' || c == '"':
			continue
		case c == '\\' && i < len(vnl):
			c = vnl[i]
			i++
		case c == '%' && i+2 <= len(vnl):
			if code, err := strconv.ParseUint(vnl[i:i+2], 16, 8); err == nil {
				c = byte(code)
				i += 2
			}
		}
		b, ends = append(b, c), append(ends, i)
	}
	return string(b), ends
}

// program returns a command with "…" for its arguments, if it has any.
func program(command string) string {
	commands, err := argv.Split(command, nil)
	switch {
	case err != nil:
		return "…"
	case len(commands) == 0, len(commands) == 1 && len(commands[0]) == 1:
		return command
	}
	return commands[0][0] + " …"
}
