package wireguard

import (
	"fmt"
	"sync"
	"testing"

	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
	"golang.zx2c4.com/wireguard/conn"
)

// TestBindSource has the device forget the source of an endpoint while packets are sent to it, as
// when a peer does not answer and when addresses of the encrypted socket's network change.
func TestBindSource(t *testing.T) {
	b := newBind(&stackBind{st: testenv.Opened(vdestack.Open(""))(t)})
	receive, port, err := b.Open(0)
	testenv.Check(t, err)
	defer b.Close()
	to := testenv.Must(b.ParseEndpoint(fmt.Sprint("127.0.0.1:", port)))(t)
	for range 100 {
		testenv.Check(t, b.Send([][]byte{[]byte("a")}, to))
		sizes, eps := make([]int, 1), make([]conn.Endpoint, 1)
		testenv.Must(receive[0]([][]byte{make([]byte, 1)}, sizes, eps))(t)
		e := eps[0]
		if e.SrcToString() != "127.0.0.1" {
			t.Fatalf("it came by way of %s", e.SrcToString())
		}
		var all sync.WaitGroup
		all.Go(e.ClearSrc)
		err := b.Send([][]byte{[]byte("b")}, e)
		all.Wait()
		if err != nil || e.SrcIP().IsValid() {
			t.Fatalf("%v, still from %v", err, e.SrcIP())
		}
		testenv.Must(receive[0]([][]byte{make([]byte, 1)}, sizes, eps))(t)
	}
}
