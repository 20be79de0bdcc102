package metrics

import (
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	grafana "github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/stat"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
	"github.com/vdestack/vdestack/internal/testenv"
)

// TestDashboard checks the dashboard against Grafana's schema, and its queries against what the
// collector has: each metric is shown, and nothing else, with labels that it has.
func TestDashboard(t *testing.T) {
	file, err := os.ReadFile("dashboard.json")
	testenv.Check(t, err)
	kinds := cog.NewRuntime()
	kinds.RegisterPanelcfgVariant(timeseries.VariantConfig())
	kinds.RegisterPanelcfgVariant(stat.VariantConfig())
	kinds.RegisterDataqueryVariant(grafana.VariantConfig())
	// Every Grafana takes this schema, which its makers call classic; the next one is for 12.2 and later.
	//lint:ignore SA1019 see above
	type schema = dashboard.Dashboard
	var d schema
	if err := d.UnmarshalJSONStrict(file); err != nil && err.Error() != "" { // an empty list is not nil
		t.Fatal(err)
	}
	d = schema{} // without the panels, for the same reason
	testenv.Check(t, json.Unmarshal(file, &d))
	testenv.Check(t, d.Validate())

	shown := make(map[string]bool)
	query := func(where, expr string) {
		for _, m := range regexp.MustCompile(`vdestack_(\w+)(?:\{([^}]*)\})?`).FindAllStringSubmatch(expr, -1) {
			labels, ok := described(m[1])
			if !ok {
				t.Errorf("%s: the collector has no %s", where, m[1])
			}
			shown[m[1]] = true
			for _, l := range regexp.MustCompile(`(\w+)=~`).FindAllStringSubmatch(m[2], -1) {
				if l[1] != "job" && l[1] != "instance" && !strings.Contains(labels, l[1]) {
					t.Errorf("%s: %s has no label %s", where, m[1], l[1])
				}
			}
		}
	}
	for _, v := range d.Templating.List {
		if v.Definition != nil {
			query("variable "+v.Name, *v.Definition)
		}
	}
	ids, taken := make(map[uint32]bool), make(map[[2]uint32]string)
	for _, either := range d.Panels {
		if either.Panel == nil {
			continue
		}
		p := either.Panel
		if ids[*p.Id] {
			t.Errorf("panel %s: its id %d is that of another", *p.Title, *p.Id)
		}
		ids[*p.Id] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]uint32{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %s: it is over %q, or beyond 24 columns", *p.Title, other)
				}
				taken[[2]uint32{x, y}] = *p.Title
			}
		}
		if len(p.Targets) == 0 {
			t.Errorf("panel %s has no query", *p.Title)
		}
		refs := make(names)
		for _, target := range p.Targets {
			q := target.(*grafana.Dataquery)
			if !refs.add(*q.RefId) || strings.Count(q.Expr, "(") != strings.Count(q.Expr, ")") {
				t.Errorf("panel %s: query %s %s", *p.Title, *q.RefId, q.Expr)
			}
			query("panel "+*p.Title, q.Expr)
			for _, l := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(*q.LegendFormat, -1) {
				name, _, _ := strings.Cut(q.Expr[strings.Index(q.Expr, "vdestack_")+len("vdestack_"):], "{")
				if labels, _ := described(name); !strings.Contains(labels, l[1]) {
					t.Errorf("panel %s: %s has no label %s", *p.Title, name, l[1])
				}
			}
		}
	}
	for _, m := range all {
		if name := m.name(); !shown[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
}

// name returns the name of a metric without its beginning.
func (m metric) name() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(m.desc.String(), `Desc{fqName: "vdestack_`), `"`)
	return name
}

// described returns the labels of a metric.
func described(name string) (labels string, ok bool) {
	for _, m := range all {
		if m.name() == name {
			_, labels, _ = strings.Cut(m.desc.String(), "variableLabels: ")
			return labels, true
		}
	}
	return "", false
}
