package recipes

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// dialWebSocket connects to a server in the network of the stack, such as
// ws://10.0.0.1/events.
func dialWebSocket(ctx context.Context, st *vdestack.Stack, url string) (*websocket.Conn, error) {
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: st.HTTPClient()})
	return c, err
}

func TestWebSocket(t *testing.T) {
	server, client := lab(t)
	ctx := testenv.Context(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer c.CloseNow()
		kind, message, err := c.Read(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		c.Write(ctx, kind, message)
		c.Close(websocket.StatusNormalClosure, "")
	})}
	go s.Serve(testenv.Listen(t, server, "tcp", ":80"))
	defer s.Close()

	c := testenv.Must(dialWebSocket(ctx, client, "ws://server.lab.example/"))(t)
	defer c.CloseNow()
	testenv.Check(t, c.Write(ctx, websocket.MessageText, []byte("hello")))
	if _, message, err := c.Read(ctx); string(message) != "hello" {
		t.Errorf("got %q, %v", message, err)
	}
}
