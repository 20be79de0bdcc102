package autoconf

import (
	"fmt"
	"strings"
)

// An item is a part of a configuration: a tag, with or without an argument.
type item struct {
	text   string // as it was written
	tag    string
	arg    string
	hasArg bool
}

const (
	separators = ",; \t\n"
	// special are the characters that mean something in an argument.
	special = separators + `'"\#`
)

// split returns the items of a text, as libstropt reads it:
//
//   - Commas, semicolons, blanks, tabs and line ends separate items, any number of them.
//   - The first = separates the argument from the tag.
//   - '…' and "…" quote, \ protects the next character outside quotes.
//   - # begins a comment, which ends with the line.
//
// A quote that does not end, a backslash at the end and a NUL are errors.
func split(s string) ([]item, error) {
	var items []item
	for i := 0; ; {
		for i < len(s) && strings.IndexByte(separators, s[i]) >= 0 {
			i++
		}
		switch {
		case i == len(s):
			return items, nil
		case s[i] == '#':
			i = lineEnd(s, i)
			continue
		}
		it, next, err := splitItem(s, i)
		if err != nil {
			return nil, err
		}
		items = append(items, it)
		i = next
	}
}

// splitItem reads the item that begins at s[i], and returns the offset of what follows.
func splitItem(s string, i int) (item, int, error) {
	const none = -1
	var (
		it    item
		part  []byte
		start = i
		quote = none // where the open quote begins
	)
	for ; i < len(s); i++ {
		switch c := s[i]; {
		case c == 0:
			return item{}, 0, fmt.Errorf("item %s: there is a NUL after it", quoted(s[start:i]))
		case quote != none && c == s[quote]:
			quote = none
		case quote != none:
			part = append(part, c)
		case c == '\'' || c == '"':
			quote = i
		case c == '\\':
			if i++; i == len(s) || s[i] == 0 {
				return item{}, 0, fmt.Errorf("item %s: there is nothing after the backslash", quoted(s[start:i]))
			}
			part = append(part, s[i])
		case c == '=' && !it.hasArg:
			it.hasArg, it.tag, part = true, string(part), nil
		case strings.IndexByte(separators, c) >= 0 || c == '#':
			return it.end(s[start:i], part), i, nil
		default:
			part = append(part, c)
		}
	}
	if quote != none {
		return item{}, 0, fmt.Errorf("item %s: the quote %s does not end", quoted(s[start:]), quoted(s[quote:]))
	}
	return it.end(s[start:], part), i, nil
}

// end completes an item with its last part.
func (it item) end(text string, last []byte) item {
	it.text = text
	if it.hasArg {
		it.arg = string(last)
	} else {
		it.tag = string(last)
	}
	return it
}

func lineEnd(s string, i int) int {
	if n := strings.IndexByte(s[i:], '\n'); n >= 0 {
		return i + n
	}
	return len(s)
}

// quote returns an argument as split reads it back.
func quote(arg string) string {
	switch {
	case !strings.ContainsAny(arg, special):
		return arg
	case !strings.Contains(arg, "'"):
		return "'" + arg + "'"
	case !strings.Contains(arg, `"`):
		return `"` + arg + `"`
	}
	var b strings.Builder
	for i := range len(arg) {
		if strings.IndexByte(special, arg[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(arg[i])
	}
	return b.String()
}
