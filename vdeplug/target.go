package vdeplug

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A ParsedLocator is the body of a locator taken apart: where the network is, the
// options, and the locator of an inner network. [Locator.Bracketed] and
// [Locator.Slashed] make it.
type ParsedLocator struct {
	Addr     string   // path or address, decoded
	Options  []Option // options in the order written
	Inner    string   // locator between the braces, as written
	HasInner bool     // there are braces

	scheme string
}

// An Option is one of a locator, decoded: a name, or a name and a value.
type Option struct {
	Name, Value string
	HasValue    bool // "name=", even if the value is empty
}

// String returns the option as name or name=value, decoded.
func (p Option) String() string {
	if p.HasValue {
		return p.Name + "=" + p.Value
	}
	return p.Name
}

// Bracketed reads the body as path[opt/opt=value]{inner}, the form of vde,
// switch, hub, multi, bonding and agno. Path and options may be quoted ('…' or
// "…"), and outside quotes a backslash protects the next byte and %XY is the
// byte with that hexadecimal code. An option is decoded before it is split at
// its first "=". Errors quote the text and say at which byte of the locator.
func (l Locator) Bracketed() (ParsedLocator, error) {
	t, outer, err := l.target()
	if err != nil {
		return ParsedLocator{}, err
	}
	first := indexPlain(outer, '[')
	if first < 0 {
		t.Addr, err = l.decode(outer, 0)
		return t, err
	}
	last := lastIndexPlain(outer, ']')
	if last < first {
		return ParsedLocator{}, l.errorAt(first, `no "]" after this "["`)
	}
	if last+1 < len(outer) {
		return ParsedLocator{}, l.errorAt(last+1, `text after "]"`)
	}
	if t.Addr, err = l.decode(outer[:first], 0); err != nil {
		return ParsedLocator{}, err
	}
	if err := l.params(&t, outer[:last], first+1); err != nil {
		return ParsedLocator{}, err
	}
	return t, nil
}

// Slashed reads the body as addr/opt/opt=value{inner}, the form of vxvde,
// vxlan, vlan and slirp. Quoting is that of [Locator.Bracketed]; a "/" in the
// address or a value must be quoted.
func (l Locator) Slashed() (ParsedLocator, error) {
	t, outer, err := l.target()
	if err != nil {
		return ParsedLocator{}, err
	}
	addr := beforePlain(outer, '/')
	if t.Addr, err = l.decode(addr, 0); err != nil {
		return ParsedLocator{}, err
	}
	if err := l.params(&t, outer, len(addr)+1); err != nil {
		return ParsedLocator{}, err
	}
	return t, nil
}

// Apply passes every option to the function of its name. The function gets
// the value, and whether there was one ("name=value" or "name"). The name ""
// stands for a word without a value that is no other option, as the port in
// "vde://sw[3]"; the word is its value. Names are exact. An option that is not
// allowed, given twice or refused by its function is an error that quotes it
// and, if it is unknown, lists the allowed ones; so are inner networks unless
// the plug reads Inner before and clears HasInner.
func (t ParsedLocator) Apply(allowed map[string]func(value string, has bool) error) error {
	if t.HasInner {
		return fmt.Errorf("%s: {%s}: it has no inner network (write a brace of a path as \\{)", t.scheme, t.Inner)
	}
	seen := make(map[string]string)
	for _, p := range t.Options {
		name, value := p.Name, p.Value
		set := allowed[name]
		if set == nil && !p.HasValue {
			name, value = "", p.Name
			set = allowed[""]
		}
		if set == nil || p.Name == "" {
			return fmt.Errorf("%s option %q: unknown (%s)", t.scheme, p, allowedNames(allowed))
		}
		if other, ok := seen[name]; ok {
			return fmt.Errorf("%s option %q: already set by %q", t.scheme, p, other)
		}
		seen[name] = p.String()
		if err := set(value, p.HasValue); err != nil {
			return fmt.Errorf("%s option %q: %w", t.scheme, p, err)
		}
	}
	return nil
}

func allowedNames(allowed map[string]func(string, bool) error) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(allowed)), func(s string) bool { return s == "" })
	if len(names) == 0 {
		return "it has no options"
	}
	return "have " + strings.Join(names, ", ")
}

// target checks the quoting of the body and cuts the inner locator off it.
func (l Locator) target() (t ParsedLocator, outer string, err error) {
	t.scheme = l.Scheme()
	if i := unbalanced(l.body); i >= 0 {
		if l.body[i] == '\\' {
			return t, "", l.errorAt(i, "nothing after this backslash")
		}
		return t, "", l.errorAt(i, "this quote does not end")
	}
	first := indexPlain(l.body, '{')
	if first < 0 {
		return t, l.body, nil
	}
	last := lastIndexPlain(l.body, '}')
	if last < first {
		return t, "", l.errorAt(first, `no "}" after this "{"`)
	}
	if last+1 < len(l.body) {
		return t, "", l.errorAt(last+1, `text after "}"`)
	}
	t.HasInner, t.Inner = true, l.body[first+1:last]
	return t, l.body[:first], nil
}

// hasInner reports whether a locator has braces.
func (l Locator) hasInner() bool {
	t, _, err := l.target()
	return err == nil && t.HasInner
}

// params reads the options, separated by "/", that s has from offset off on.
// Empty ones are skipped.
func (l Locator) params(t *ParsedLocator, s string, off int) error {
	for off < len(s) {
		word := beforePlain(s[off:], '/')
		text, err := l.decode(word, off)
		if err != nil {
			return err
		}
		if text != "" {
			var p Option
			p.Name, p.Value, p.HasValue = strings.Cut(text, "=")
			if p.Name == "" {
				return l.errorAt(off, `no name before "="`)
			}
			t.Options = append(t.Options, p)
		}
		off += len(word) + 1
	}
	return nil
}

// decode takes the quoting off a piece of the body that begins at offset off.
func (l Locator) decode(s string, off int) (string, error) {
	if !strings.ContainsAny(s, `'"\%`) {
		return s, nil
	}
	b := make([]byte, 0, len(s))
	var quote byte
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			b = append(b, c)
		case c == '\'' || c == '"':
			quote = c
		case c == '\\':
			i++
			b = append(b, s[i])
		case c == '%' && i+2 < len(s) && unhex(s[i+1]) >= 0 && unhex(s[i+2]) >= 0:
			code := unhex(s[i+1])<<4 | unhex(s[i+2])
			if code == 0 {
				return "", l.errorAt(off+i, "NUL has no place in a locator")
			}
			b = append(b, byte(code))
			i += 2
		default:
			b = append(b, c)
		}
	}
	return string(b), nil
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// errorAt returns an error about the byte of the body at offset off. The
// offset it tells is that in the whole locator.
func (l Locator) errorAt(off int, what string) error {
	const shown = 24
	piece, more := l.body[off:], ""
	if len(piece) > shown {
		piece, more = piece[:shown], "…"
	}
	return fmt.Errorf("byte %d, at %q%s: %s", len(l.String())-len(l.body)+off, piece, more, what)
}

// plain calls f with the offset of each byte of s that is neither quoted nor
// escaped, and is no quote or backslash itself, until f returns false. It
// returns the offset of a quote that does not end or of a backslash that is
// the last byte, and -1 where there is none.
func plain(s string, f func(i int) bool) int {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\'', '"':
			n := strings.IndexByte(s[i+1:], c)
			if n < 0 {
				return i
			}
			i += n + 1
		case '\\':
			if i+1 == len(s) {
				return i
			}
			i++
		default:
			if !f(i) {
				return -1
			}
		}
	}
	return -1
}

func unbalanced(s string) int {
	return plain(s, func(int) bool { return true })
}

func indexPlain(s string, c byte) int {
	found := -1
	plain(s, func(i int) bool {
		if s[i] == c {
			found = i
		}
		return found < 0
	})
	return found
}

func lastIndexPlain(s string, c byte) int {
	found := -1
	plain(s, func(i int) bool {
		if s[i] == c {
			found = i
		}
		return true
	})
	return found
}

// beforePlain returns the part of s before the first unquoted c, all of s if
// there is none.
func beforePlain(s string, c byte) string {
	if i := indexPlain(s, c); i >= 0 {
		return s[:i]
	}
	return s
}

// quote writes a path so that decode gives it back, and no byte of it is part
// of the grammar.
func quote(path string) string {
	var b strings.Builder
	for _, c := range []byte(path) {
		if strings.IndexByte("'\"\\%[]{}", c) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(c)
	}
	return b.String()
}
