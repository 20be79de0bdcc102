// Package argv splits command lines into commands and arguments, in the notation that VDE
// programs use for "cmd://command" networks. It is not a shell's.
package argv

import (
	"fmt"
	"strings"
)

// Split returns the commands of a line, and the arguments of each.
//
//   - Blanks, tabs and newlines separate arguments, an unquoted ";" commands. Empty
//     commands are skipped.
//   - '…' and "…" quote, also a part of an argument. Inside "…" a backslash protects
//     the next byte from ending the quote; both stay.
//   - Outside quotes a backslash protects the next byte.
//   - An argument that begins with an unquoted "$" is a variable: its name is the rest
//     up to a separator, and vars returns its value; nil means empty values, as in the
//     C programs. Elsewhere an unquoted "$" is dropped.
//   - All other bytes are ordinary: "|", ">", "&", "#", "*" mean nothing.
//
// A quote that does not end, a backslash at the end and a NUL are errors that quote the
// place, where the C programs guess. C drops the whole line if it begins with ";",
// which is an empty command here.
func Split(line string, vars func(name string) string) ([][]string, error) {
	var (
		commands [][]string
		args     []string
		arg      []byte
	)
	if i := strings.IndexByte(line, 0); i >= 0 {
		return nil, errorAt(line, i, "a command line has no NUL")
	}
	for i := 0; i < len(line); {
		switch c := line[i]; {
		case c == ';':
			if args != nil {
				commands = append(commands, args)
				args = nil
			}
			i++
			continue
		case isBlank(c):
			i++
			continue
		case c == '$':
			name := i + 1
			for i < len(line) && !isBlank(line[i]) && line[i] != ';' {
				i++
			}
			value := ""
			if vars != nil {
				value = vars(line[name:i])
			}
			args = append(args, value)
			continue
		}
		var err error
		if arg, i, err = argument(arg[:0], line, i); err != nil {
			return nil, err
		}
		args = append(args, string(arg))
	}
	if args != nil {
		commands = append(commands, args)
	}
	return commands, nil
}

// Join returns the line that Split reads as one command with these arguments, which have no
// NUL.
func Join(args []string) string {
	quoted := make([]string, len(args))
	for i, arg := range args {
		quoted[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
	}
	return strings.Join(quoted, " ")
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// argument appends the argument that begins at line[i] to arg, and returns the
// offset of its end.
func argument(arg []byte, line string, i int) ([]byte, int, error) {
	const none = -1
	quote := none // where the open quote begins
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case quote != none && c == line[quote]:
			quote = none
		case quote != none && c == '\\' && line[quote] == '"' && i+1 < len(line):
			i++
			arg = append(arg, c, line[i])
		case quote != none:
			arg = append(arg, c)
		case c == '\'' || c == '"':
			quote = i
		case c == '\\':
			if i+1 == len(line) {
				return nil, 0, errorAt(line, i, "nothing after this backslash")
			}
			i++
			arg = append(arg, line[i])
		case c == '$':
		case isBlank(c) || c == ';':
			return arg, i, nil
		default:
			arg = append(arg, c)
		}
	}
	if quote != none {
		return nil, 0, errorAt(line, quote, "this quote does not end")
	}
	return arg, i, nil
}

func errorAt(line string, i int, what string) error {
	const shown = 24
	piece, more := line[i:], ""
	if len(piece) > shown {
		piece, more = piece[:shown], "…"
	}
	return fmt.Errorf("command line: byte %d, at %q%s: %s", i, piece, more, what)
}
