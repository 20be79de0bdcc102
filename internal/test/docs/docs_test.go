// Package docs checks the documents: what they name exists, the code in them, and in the
// comments of packages, is that of functions, and the README's figures are those of bench.
package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

const root = "../../.."

var update = flag.Bool("update", false, "write the table of speed in the README, and the code in the documents")

// A tree is what the repository has.
type tree struct {
	paths     map[string]bool // from the root; directories too
	documents []string        // all Markdown files
	owners    map[string]bool // names of packages and exported types
	declared  map[string]bool // functions, types, methods, fields, constants and variables
	functions []string
	comments  []excerpt // code in the comments of packages that others import
}

// An excerpt is a block of code outside of functions.
type excerpt struct{ file, text string }

var readTree = sync.OnceValues(func() (*tree, error) {
	tr := &tree{paths: make(map[string]bool), owners: make(map[string]bool), declared: make(map[string]bool)}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return fs.SkipDir
		}
		rel, _ := filepath.Rel(root, name)
		tr.paths[rel] = true
		switch path.Ext(rel) {
		case ".md":
			tr.documents = append(tr.documents, rel)
		case ".go":
			text, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), name, text, parser.SkipObjectResolution|parser.ParseComments)
			if err != nil {
				return err
			}
			ast.Inspect(f, tr.visit)
			tr.readCode(rel, text, f)
		}
		return nil
	})
	return tr, err
})

// readCode collects the functions of a file, and the code in its comments.
func (tr *tree) readCode(file string, text []byte, f *ast.File) {
	for _, d := range f.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok {
			tr.functions = append(tr.functions, string(text[fn.Pos()-f.FileStart:fn.End()-f.FileStart]))
		}
	}
	if strings.HasSuffix(file, "_test.go") || strings.Contains("/"+file, "/internal/") {
		return
	}
	var p comment.Parser
	for _, group := range f.Comments {
		for _, block := range p.Parse(group.Text()).Content {
			if c, ok := block.(*comment.Code); ok && isGo(c.Text) {
				tr.comments = append(tr.comments, excerpt{file, c.Text})
			}
		}
	}
}

func (tr *tree) visit(n ast.Node) bool {
	var names []*ast.Ident
	switch n := n.(type) {
	case *ast.File:
		tr.owners[n.Name.Name] = true
	case *ast.TypeSpec:
		tr.owners[n.Name.Name] = n.Name.IsExported()
		names = []*ast.Ident{n.Name}
	case *ast.FuncDecl:
		names = []*ast.Ident{n.Name}
	case *ast.ValueSpec:
		names = n.Names
	case *ast.Field:
		names = n.Names
	}
	for _, name := range names {
		tr.declared[name.Name] = true
	}
	return true
}

var (
	fenced   = regexp.MustCompile("(?ms)^```.*?^```")
	code     = regexp.MustCompile("`[^`]+`")
	link     = regexp.MustCompile(`\]\(([^):#]+)(?:#[^)]*)?\)`)
	file     = regexp.MustCompile(`^[\w.-]+(?:/[\w.-]+)+/?$|^[\w-]+\.(?:go|md|sh|mod|work|svg)$`)
	member   = regexp.MustCompile(`\b([A-Za-z]\w*)\.([A-Z]\w*)\b`)
	testName = regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)[A-Z]\w*`)
)

// made are paths that users and the programs here make.
var made = map[string]bool{"bench/out": true, "SCHEME.go": true, "autoconf/v0.1.0": true, "metrics/v0.1.0": true, "slirp/v0.1.0": true, "vdens/v0.1.0": true, "wireguard/v0.1.0": true}

// TestNames sees that the files exist that documents link to or name in backquotes, and
// that the tests, and the names of our packages and types, are declared somewhere. The
// changelog also has names that are gone.
func TestNames(t *testing.T) {
	tr := testenv.Must(readTree())(t)
	for _, doc := range tr.documents {
		text, err := os.ReadFile(filepath.Join(root, doc))
		testenv.Check(t, err)
		prose, dir := fenced.ReplaceAllString(string(text), ""), path.Dir(doc)
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if !tr.paths[path.Join(dir, m[1])] {
				t.Errorf("%s links to %s, which does not exist", doc, m[1])
			}
		}
		for _, c := range code.FindAllString(prose, -1) {
			c = strings.Trim(c, "`")
			if file.MatchString(c) && !tr.has(dir, path.Clean(c)) {
				t.Errorf("%s names the file %s, which does not exist", doc, c)
			}
			for _, name := range testName.FindAllString(c, -1) {
				if !tr.declared[name] {
					t.Errorf("%s names the test %s, which does not exist", doc, name)
				}
			}
			for _, m := range member.FindAllStringSubmatch(c, -1) {
				if tr.owners[m[1]] && !tr.declared[m[2]] && doc != "CHANGELOG.md" {
					t.Errorf("%s names %s, which does not exist", doc, m[0])
				}
			}
		}
	}
}

// has reports whether a path, from the root or from a directory, is there, or is not one
// of the repository, such as net/http.
func (tr *tree) has(dir, name string) bool {
	first, _, longer := strings.Cut(name, "/")
	return made[name] || tr.paths[name] || tr.paths[path.Join(dir, name)] ||
		longer && !tr.paths[first] && !tr.paths[path.Join(dir, first)]
}

// TestSpeed has the README's table of speed say what bench/README.md says of one stream.
func TestSpeed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "bench/README.md"))
	testenv.Check(t, err)
	_, table, _ := strings.Cut(string(text), "### TCP throughput, one stream, 128 KiB writes, MTU 1500")
	table, _, _ = strings.Cut(table, "\n### ")
	// value returns a cell in column i, or nothing.
	value := func(network, stack string, i int) string {
		_, row, _ := strings.Cut(table, "\n| "+network+" | "+stack+" | ")
		row, _, _ = strings.Cut(row, " |\n")
		if cells := strings.Split(row, " | "); i < len(cells) && cells[i] != "—" {
			first, _, _ := strings.Cut(cells[i], " ")
			return first
		}
		return ""
	}
	short := func(s string) string {
		if v, err := strconv.ParseFloat(s, 64); err == nil && v >= 1 {
			return strconv.FormatFloat(v, 'f', 1, 64)
		}
		return s
	}
	var want strings.Builder
	for _, row := range []struct{ text, network, stack string }{
		{"veth pair of the kernel", "veth", "kernel"},
		{"`mem://`", "mem", "vdestack"},
		{"`lan://`", "lan", "vdestack"},
		{"`ptp://`", "ptp", "vdestack"},
		{"`udp://`", "udp", "vdestack"},
		{"`vxvde://`", "vxvde", "vdestack"},
		{"`switch://`", "switch", "vdestack"},
		{"`vde://`, through vde_switch", "vde", "vdestack"},
		{"`cmd://`, through vde_plug", "cmd", "vdestack"},
	} {
		gbit := value(row.network, row.stack, 0)
		if gbit == "" {
			t.Errorf("bench/README.md has no %s on %s", row.stack, row.network)
		}
		cells := []string{row.text, short(gbit), short(value(row.network, row.stack, 7)), value(row.network, row.stack, 4), value(row.network, "libvdestack", 4)}
		fmt.Fprintln(&want, strings.ReplaceAll("| "+strings.Join(cells, " | ")+" |", "|  |", "| |"))
	}
	testenv.CheckGenerated(t, filepath.Join(root, "README.md"), `\| network \| Gbit/s [^\n]*\n\|[-:|]+\n((?:\|[^\n]*\n)+)`, want.String(), *update)
}

// A document shows functions of the repository: a link that has the name of one, in
// backquotes, and then a block of code.
var snippet = regexp.MustCompile("\\[`(\\w+)`\\]\\(([^):#]+\\.go)\\)[^`]*(?:`[^`\n]+`[^`]*)*?\n```go\n")

// whole are the documents with whole functions.
var whole = []string{"docs/RECIPES.md", "docs/TUTORIAL.md"}

// TestSnippets has the code in these documents be that of functions, which are compiled and
// tested: all of a function or, of an Example, what is in it. It may also be that of a type
// with its methods.
func TestSnippets(t *testing.T) {
	for _, doc := range whole {
		name := filepath.Join(root, doc)
		text := testenv.Must(os.ReadFile(name))(t)
		shown := snippet.FindAllSubmatch(text, -1)
		if n := strings.Count(string(text), "\n```go\n"); n != len(shown) || n == 0 {
			t.Errorf("%s has %d blocks of code, %d of them after a link to a function", doc, n, len(shown))
		}
		for _, m := range shown {
			t.Run(path.Base(doc)+"/"+string(m[1]), func(t *testing.T) {
				want := function(t, filepath.Join(root, path.Dir(doc), string(m[2])), string(m[1]))
				testenv.CheckGenerated(t, name, "(?s)"+regexp.QuoteMeta(string(m[0]))+"(.*?)```", want, *update)
			})
		}
	}
}

var (
	goBlock     = regexp.MustCompile("(?ms)^```go\n(.*?)^```")
	importLine  = regexp.MustCompile(`(?m)^import (?:_ )?"([^"]+)"\n+`)
	errorsCheck = regexp.MustCompile(`if err != nil \{\s*(?:…|return[^\n]*|(?:log|t)\.Fatal[^\n]*)\s*\}`)
)

// TestExcerpts has the code in other documents, and in the comments of packages, be lines of
// functions: each paragraph is in one, where "…" stands for anything, and what is done about
// an error may be left out.
func TestExcerpts(t *testing.T) {
	tr := testenv.Must(readTree())(t)
	all := tr.comments
	for _, doc := range tr.documents {
		if slices.Contains(whole, doc) {
			continue
		}
		text := testenv.Must(os.ReadFile(filepath.Join(root, doc)))(t)
		for _, m := range goBlock.FindAllSubmatch(text, -1) {
			all = append(all, excerpt{doc, string(m[1])})
		}
	}
	if len(all) < 20 {
		t.Errorf("there are %d blocks of code", len(all))
	}
	for _, e := range all {
		for _, m := range importLine.FindAllStringSubmatch(e.text, -1) {
			if dir, ours := strings.CutPrefix(m[1]+"/", "github.com/vdestack/vdestack/"); ours && !tr.paths[path.Clean(dir)] {
				t.Errorf("%s imports %s, which does not exist", e.file, m[1])
			}
		}
		for paragraph := range strings.SplitSeq(importLine.ReplaceAllString(e.text, ""), "\n\n") {
			if !tr.compiles(paragraph) {
				t.Errorf("%s has code that no function has:\n%s", e.file, paragraph)
			}
		}
	}
}

// compiles reports whether a function has a paragraph.
func (tr *tree) compiles(paragraph string) bool {
	pieces, word := strings.Split(squeeze(paragraph), "…"), ""
	for _, w := range strings.Fields(pieces[0]) {
		if len(w) > len(word) {
			word = w
		}
	}
	return slices.ContainsFunc(tr.functions, func(f string) bool {
		return strings.Contains(f, word) && inOrder(squeeze(f), pieces) // the first saves most of the time
	})
}

// squeeze takes what is done about errors out of code, and all space that says nothing.
func squeeze(code string) string {
	return strings.Join(strings.Fields(errorsCheck.ReplaceAllString(code, "")), " ")
}

// inOrder reports whether a text has all pieces, one after the other.
func inOrder(text string, pieces []string) bool {
	for _, p := range pieces {
		_, after, ok := strings.Cut(text, strings.TrimSpace(p))
		if !ok {
			return false
		}
		text = after
	}
	return true
}

// isGo reports whether a text is meant as statements of Go, with "…" in places, that do
// something.
func isGo(text string) (does bool) {
	if strings.Contains(text, ":=") {
		return true
	}
	body := "package p\nfunc _() {\n" + strings.ReplaceAll(importLine.ReplaceAllString(text, ""), "…", "_") + "\n}"
	f, err := parser.ParseFile(token.NewFileSet(), "", body, parser.SkipObjectResolution)
	if err != nil {
		return false
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n.(type) {
		case *ast.CallExpr, *ast.AssignStmt:
			does = true
		}
		return true
	})
	return does
}

// function returns the source of a function, or of a type and its methods.
func function(t *testing.T, file, name string) string {
	t.Helper()
	text := testenv.Must(os.ReadFile(file))(t)
	fset := token.NewFileSet()
	f := testenv.Must(parser.ParseFile(fset, file, text, parser.ParseComments))(t)
	at := func(p token.Pos) int { return fset.Position(p).Offset }
	source := func(doc *ast.CommentGroup, n ast.Node) string {
		begin := at(n.Pos())
		if doc != nil {
			begin = at(doc.Pos())
		}
		return string(text[begin:at(n.End())]) + "\n"
	}
	var found []string
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.GenDecl:
			if s, ok := d.Specs[0].(*ast.TypeSpec); ok && s.Name.Name == name {
				found = append(found, source(d.Doc, d))
			}
		case *ast.FuncDecl:
			switch {
			case d.Recv != nil:
				if r, ok := d.Recv.List[0].Type.(*ast.Ident); ok && r.Name == name {
					found = append(found, source(d.Doc, d))
				}
			case d.Name.Name != name:
			case strings.HasPrefix(name, "Example"):
				body := strings.TrimLeft(string(text[at(d.Body.Lbrace)+1:at(d.Body.Rbrace)]), "\n")
				body, _, _ = strings.Cut(body, "\t// Output:")
				body, _, _ = strings.Cut(body, "\t// Prints ")
				return strings.TrimPrefix(strings.ReplaceAll("\n"+body, "\n\t", "\n"), "\n")
			default:
				return source(d.Doc, d)
			}
		}
	}
	if found == nil {
		t.Fatalf("%s has no function and no type %s", file, name)
	}
	return strings.Join(found, "\n")
}
