package vdeplug

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A ParsedLocator is the body of a locator taken apart: where the network is, the
// options, and the locator of an inner network. [Locator.ParseBracketed] and
// [Locator.ParseSlashed] make it.
type ParsedLocator struct {
	Addr     string   // path or address, decoded
	Options  []Option // options in the order written
	Inner    string   // locator between the braces, as written
	HasInner bool     // there are braces

	scheme string
}

// An Option of a locator is a name, or a name and a value, decoded.
type Option struct {
	Name, Value string
	HasValue    bool // "name=", even if the value is empty
}

// String returns the option as name or name=value, decoded.
func (o Option) String() string {
	if o.HasValue {
		return o.Name + "=" + o.Value
	}
	return o.Name
}

// ParseBracketed reads the body as path[opt/opt=value]{inner}, the form of vde, switch,
// hub, multi, bonding, ptp, vdesl and agno.
//
//   - Path and options may be quoted, with '…' or "…". Outside quotes a backslash
//     protects the next byte, and %XY is the byte with that hexadecimal code.
//   - An option is decoded before it is split at its first "=".
//   - Errors quote the text, and say at which byte of the locator it is.
func (l Locator) ParseBracketed() (ParsedLocator, error) {
	p, outer, err := l.cutInner()
	if err != nil {
		return ParsedLocator{}, err
	}
	first, last := strings.IndexByte(outer, '['), strings.LastIndexByte(outer, ']')
	switch {
	case first < 0:
		p.Addr, err = l.decode(0, len(outer))
		return p, err
	case last < first:
		return ParsedLocator{}, l.errorAt(first, `no "]" after this "["`)
	case last+1 < len(outer):
		return ParsedLocator{}, l.errorAt(last+1, `text after "]"`)
	}
	if p.Addr, err = l.decode(0, first); err != nil {
		return ParsedLocator{}, err
	}
	err = l.parseOptions(&p, outer[:last], first+1)
	return p, err
}

// ParseSlashed reads the body as addr/opt/opt=value{inner}, the form of vxvde, vxlan,
// vlan, netemu and slirp. Quoting is as with [Locator.ParseBracketed]; a "/" in the
// address or in a value must be quoted.
func (l Locator) ParseSlashed() (ParsedLocator, error) {
	p, outer, err := l.cutInner()
	if err != nil {
		return ParsedLocator{}, err
	}
	addr, _, _ := strings.Cut(outer, "/")
	if p.Addr, err = l.decode(0, len(addr)); err != nil {
		return ParsedLocator{}, err
	}
	err = l.parseOptions(&p, outer, len(addr)+1)
	return p, err
}

// Apply calls, for each option, the function that allowed has under its name. The
// function gets the value, and whether there was one ("name=value" or "name").
// [FlagOption], [TextOption] and [NumberOption] return such functions.
//
//   - The key of an option with several names has them all, separated by commas.
//   - The key "" stands for a word without a value that is no other option, such as the
//     port in "vde://sw[3]"; the word is its value.
//
// An option that is unknown, given twice or rejected by its function is an error that
// quotes it; if it is unknown, the error lists the allowed ones. An inner network is an
// error too, unless the caller has taken Inner and cleared HasInner.
func (p ParsedLocator) Apply(allowed map[string]func(value string, has bool) error) error {
	if p.HasInner {
		return fmt.Errorf("%s: {%s}: it has no inner network (write a brace of a path as \\{)", p.scheme, Redact(p.Inner))
	}
	keys := make(map[string]string)
	for key := range allowed {
		for name := range strings.SplitSeq(key, ",") {
			keys[name] = key
		}
	}
	seen := make(map[string]string)
	for _, o := range p.Options {
		key, value := keys[o.Name], o.Value
		if key == "" && !o.HasValue {
			value = o.Name
		}
		set := allowed[key]
		if set == nil || key == "" && o.HasValue || o.Name == "" {
			return fmt.Errorf("%s option %q: unknown (%s)", p.scheme, o, optionNames(keys))
		}
		if other, ok := seen[key]; ok {
			return fmt.Errorf("%s option %q: already set by %q", p.scheme, o, other)
		}
		seen[key] = o.String()
		if err := set(value, o.HasValue); err != nil {
			return fmt.Errorf("%s option %q: %w", p.scheme, o, err)
		}
	}
	return nil
}

// optionNames lists the options of a scheme, for an error.
func optionNames(keys map[string]string) string {
	names := slices.DeleteFunc(slices.Sorted(maps.Keys(keys)), func(s string) bool { return s == "" })
	if len(names) == 0 {
		return "it has no options"
	}
	return "have " + strings.Join(names, ", ")
}

// cutInner checks the quoting of the body and cuts the inner locator off it. outer is the
// part before, masked.
func (l Locator) cutInner() (p ParsedLocator, outer string, err error) {
	p.scheme = l.Scheme()
	masked, bad := mask(l.body)
	if bad >= 0 {
		if l.body[bad] == '\\' {
			return p, "", l.errorAt(bad, "nothing after this backslash")
		}
		return p, "", l.errorAt(bad, "this quote does not end")
	}
	first, last := strings.IndexByte(masked, '{'), strings.LastIndexByte(masked, '}')
	switch {
	case first < 0:
		return p, masked, nil
	case last < first:
		return p, "", l.errorAt(first, `no "}" after this "{"`)
	case last+1 < len(masked):
		return p, "", l.errorAt(last+1, `text after "}"`)
	}
	p.HasInner, p.Inner = true, l.body[first+1:last]
	return p, masked[:first], nil
}

// parseOptions reads the options of the masked body from offset off on. They are separated
// by "/", and empty ones are skipped.
func (l Locator) parseOptions(p *ParsedLocator, masked string, off int) error {
	for off < len(masked) {
		word, _, _ := strings.Cut(masked[off:], "/")
		text, err := l.decode(off, off+len(word))
		if err != nil {
			return err
		}
		if text != "" {
			var o Option
			o.Name, o.Value, o.HasValue = strings.Cut(text, "=")
			if o.Name == "" {
				return l.errorAt(off, `no name before "="`)
			}
			p.Options = append(p.Options, o)
		}
		off += len(word) + 1
	}
	return nil
}

// decode removes the quoting from a piece of the body.
func (l Locator) decode(off, end int) (string, error) {
	s := l.body[off:end]
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
		case c == '%' && i+2 < len(s):
			code, err := strconv.ParseUint(s[i+1:i+3], 16, 8)
			if err != nil {
				b = append(b, c)
				continue
			}
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

// errorAt returns an error about the byte of the body at offset off. Its text has the
// offset in the whole locator.
func (l Locator) errorAt(off int, what string) error {
	const shown = 24
	piece, more := l.body[off:], ""
	if len(piece) > shown {
		piece, more = piece[:shown], "…"
	}
	return fmt.Errorf("byte %d, at %q%s: %s", len(l.String())-len(l.body)+off, piece, more, what)
}

// mask returns s with a NUL for each byte that is quoted or escaped, or a quote or a
// backslash: what is left is grammar. bad is the offset of a quote that does not end, or of
// a backslash at the end; -1 if there is neither.
func mask(s string) (masked string, bad int) {
	if !strings.ContainsAny(s, `'"\`) {
		return s, -1
	}
	b := []byte(s)
	for i := 0; i < len(s); i++ {
		n := 1 // bytes after this one
		switch c := s[i]; c {
		case '\'', '"':
			n = 1 + strings.IndexByte(s[i+1:], c)
		case '\\':
		default:
			continue
		}
		if n == 0 || i+n == len(s) {
			return "", i
		}
		clear(b[i : i+n+1])
		i += n
	}
	return string(b), -1
}

// quote writes a path so that decode returns it, and no byte of it is part of the
// grammar.
func quote(path string) string { return quoter.Replace(path) }

var quoter = strings.NewReplacer(`'`, `\'`, `"`, `\"`, `\`, `\\`, `%`, `\%`, `[`, `\[`, `]`, `\]`, `{`, `\{`, `}`, `\}`)
