package recipes

import (
	"testing"

	"github.com/alicebob/miniredis/v2/server"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// openRedis returns a client of Redis in the network of the stack. It does without notices of
// maintenance: to say which it wants the library asks the host for the server's name.
func openRedis(st *vdestack.Stack, addr string) *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:                     addr,
		Dialer:                   st.DialContext,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
}

func TestRedis(t *testing.T) {
	st, client := lab(t)
	s := server.NewServerConn()
	defer s.Close()
	s.Register("GET", func(c *server.Peer, _ string, args []string) { c.WriteBulk("value of " + args[0]) })
	ln := testenv.Listen(t, st, "tcp", ":6379")
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s.ServeConn(c)
		}
	}()
	db := openRedis(client, "server.lab.example:6379")
	defer db.Close()
	if got, err := db.Get(testenv.Context(t), "key").Result(); got != "value of key" {
		t.Errorf("got %q, %v", got, err)
	}
}
