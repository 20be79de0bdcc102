// Package logs checks the attributes of what all modules log against docs/ARCHITECTURE.md.
package logs

import (
	"go/ast"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

const root = "../../.."

// keys reads the table of attributes.
func keys(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs/ARCHITECTURE.md"))
	testenv.Check(t, err)
	_, table, _ := strings.Cut(string(text), "\n## Attributes of logs\n")
	table, _, _ = strings.Cut(table, "\n## ")
	all := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `(\\w+)` \\|").FindAllStringSubmatch(table, -1) {
		if all[row[1]] {
			t.Errorf("the table has %s twice", row[1])
		}
		all[row[1]] = true
	}
	if len(all) < 10 {
		t.Fatalf("the table has %d attributes", len(all))
	}
	return all
}

// An attribute is a key and the text of its value.
type attribute struct {
	key, value string
	pos        token.Position
}

// before is how many arguments each method of a logger has before the attributes.
var before = map[string]int{
	"With": 0, "Debug": 1, "Info": 1, "Warn": 1, "Error": 1, "Log": 3,
	"DebugContext": 2, "InfoContext": 2, "WarnContext": 2, "ErrorContext": 2,
}

// makers are the functions of slog that make an attribute.
var makers = []string{"Any", "Bool", "Duration", "Float64", "Group", "Int", "Int64", "String", "Time", "Uint64"}

var (
	// logger tells a logger by its name: log, logger, or ending so.
	logger = regexp.MustCompile(`(?i)log(ger)?(\(.*\)|\.With\(.*\))?$`)
	// failure tells an error by its name.
	failure = regexp.MustCompile(`(?i)(err|error)(\(\))?$|^(why|conflict|no[A-Z]\w*)$`)
)

// attributes returns those of a file.
func attributes(name string, src any) (all []attribute, err error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	text := func(e ast.Expr) string {
		var b strings.Builder
		printer.Fprint(&b, fset, e)
		return b.String()
	}
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		method, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		args := call.Args
		skip, logs := before[method.Sel.Name]
		if !logs && !slices.Contains(makers, method.Sel.Name) {
			return true
		}
		on := text(method.X)
		switch {
		case !logs && on == "slog" && len(args) >= 1:
			args = args[:min(len(args), 2)]
		case logs && logger.MatchString(on) && on != "syslog" && len(args) >= skip:
			args = args[skip:]
			if call.Ellipsis.IsValid() {
				args = args[:len(args)-1]
			}
		default:
			return true
		}
		for i := 0; i < len(args); i += 2 {
			a := attribute{pos: fset.Position(args[i].Pos()), key: text(args[i])}
			if c, ok := args[i].(*ast.CallExpr); ok && strings.HasPrefix(text(c.Fun), "slog.") {
				i-- // an attribute in one, which is looked at for itself
				continue
			}
			if key, err := strconv.Unquote(a.key); err == nil {
				a.key = key
			}
			if i+1 < len(args) {
				a.value = text(args[i+1])
			}
			all = append(all, a)
		}
		return true
	})
	return all, nil
}

// isError reports whether the value is an error.
func (a attribute) isError() bool {
	return failure.MatchString(a.value)
}

// TestAttributes sees that all logs have the same attributes for the same things: those of
// the table, and that an error is under its own.
func TestAttributes(t *testing.T) {
	allowed, used := keys(t), make(map[string]bool)
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "test") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		all, err := attributes(name, nil)
		for _, a := range all {
			used[a.key] = true
			if !allowed[a.key] {
				t.Errorf("%v: docs/ARCHITECTURE.md has no attribute %s", a.pos, a.key)
			}
			if a.isError() && a.key != "error" {
				t.Errorf("%v: %s is an error, and its attribute is %s instead of error", a.pos, a.value, a.key)
			}
		}
		return err
	})
	testenv.Check(t, err)
	for key := range allowed {
		if !used[key] {
			t.Errorf("nobody logs the attribute %s of the table in docs/ARCHITECTURE.md", key)
		}
	}
}

// TestFinds has the test find what it is to find.
func TestFinds(t *testing.T) {
	const file = `package p
func f() {
	log.Info("x", "a", 1, "b", err)
	c.cfg.log.With("c", x).Warn("x", "d", s.Err())
	r.c.log.Log(ctx, level, "x", "e", noTAP)
	logger.Debug("x", slog.Int("f", 1), "g", 2, key, 3)
	slog.Error("x", "h", 1)
	args.Info("x", "none", 1)
	t.Log("none", 1)
	syslog.Info("none")
}`
	all, err := attributes("p.go", strings.NewReplacer("slog.Error", "theLog.Error").Replace(file))
	testenv.Check(t, err)
	var got []string
	for _, a := range all {
		if a.isError() {
			a.key += "!"
		}
		got = append(got, a.key)
	}
	slices.Sort(got)
	if got, want := strings.Join(got, " "), "a b! c d! e! f g h key"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
