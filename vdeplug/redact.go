package vdeplug

import (
	"slices"
	"strings"

	"github.com/vdestack/vdestack/internal/argv"
)

// Redact returns a locator without what may be secret, for whatever others read: logs,
// metrics, captures, texts of errors. "…" stands for what is left out:
//
//   - the arguments of cmd:// and "=", so that "cmd://ssh host vde_plug" is "cmd://ssh …";
//   - the value of an option that is [OptionUsage.Secret], and all options behind it.
//
// Inner networks are shown so too. Other locators are returned as they are.
func Redact(vnl string) string {
	if command, ok := strings.CutPrefix(vnl, "="); ok {
		return "=" + program(command)
	}
	scheme, body, _ := strings.Cut(vnl, "://")
	if scheme == "cmd" {
		return "cmd://" + program(body)
	}
	for _, o := range lookupScheme(scheme).Usage.Options {
		for _, name := range slices.Concat([]string{o.Name}, o.Aliases) {
			if before, _, ok := strings.Cut(vnl, name+"="); ok && o.Secret {
				vnl = before + name + "=…"
			}
		}
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
