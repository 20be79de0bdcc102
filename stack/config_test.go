package stack

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/vdestack/vdestack/internal/testenv"
)

// TestStatsJSON has every field, and errors as text.
func TestStatsJSON(t *testing.T) {
	b := testenv.Must(json.Marshal(Stats{Interfaces: []InterfaceStats{{Name: "vde0", TxBytes: 7, CaptureErr: errors.New("disk full")}}}))(t)
	var got struct{ Interfaces []map[string]any }
	testenv.Check(t, json.Unmarshal(b, &got))
	f := got.Interfaces[0]
	if f["Name"] != "vde0" || f["TxBytes"] != 7.0 || f["Err"] != nil || f["CaptureErr"] != "disk full" {
		t.Errorf("got %s", b)
	}
	for field := range reflect.TypeFor[InterfaceStats]().Fields() {
		if _, ok := f[field.Name]; !ok {
			t.Errorf("%s is not in %s", field.Name, b)
		}
	}
}
