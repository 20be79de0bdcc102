package recipes

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/internal/testenv"
)

// openPostgres opens a database in the network of the stack, such as
// postgres://user:password@db.example/orders. Names are the stack's too.
func openPostgres(st *vdestack.Stack, url string) (*sql.DB, error) {
	conf, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	conf.DialFunc = st.DialContext
	conf.LookupFunc = st.LookupHost
	return stdlib.OpenDB(*conf), nil
}

func TestPostgres(t *testing.T) {
	server, client := lab(t)
	ln, served := testenv.Listen(t, server, "tcp", ":5432"), make(chan error, 1)
	go func() { served <- postgres(ln) }()
	db := testenv.Must(openPostgres(client, "postgres://user@server.lab.example/orders?sslmode=disable"))(t)
	testenv.Check(t, db.PingContext(testenv.Context(t)))
	testenv.Check(t, db.Close())
	testenv.Check(t, <-served)
}

// postgres lets one client in, and says that all its statements are empty.
func postgres(ln net.Listener) error {
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	b := pgproto3.NewBackend(c, c)
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return err
	}
	b.Send(&pgproto3.AuthenticationOk{})
	for {
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if err := b.Flush(); err != nil {
			return err
		}
		switch m, err := b.Receive(); m.(type) {
		case *pgproto3.Query:
			b.Send(&pgproto3.EmptyQueryResponse{})
		case *pgproto3.Terminate:
			return nil
		default:
			return fmt.Errorf("%T: %w", m, errors.Join(err, errors.ErrUnsupported))
		}
	}
}

// openMySQL opens a database of MySQL or MariaDB in the network of the stack.
func openMySQL(st *vdestack.Stack, addr, user, password, name string) (*sql.DB, error) {
	conf := mysql.NewConfig()
	conf.Net, conf.Addr = "tcp", addr
	conf.User, conf.Passwd, conf.DBName = user, password, name
	conf.DialFunc = st.DialContext
	connector, err := mysql.NewConnector(conf)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// TestMySQL has a server that refuses its client.
func TestMySQL(t *testing.T) {
	server, client := lab(t)
	ln := testenv.Listen(t, server, "tcp", ":3306")
	go func() {
		if c, err := ln.Accept(); err == nil {
			defer c.Close()
			// Length and number of a packet, "error", and what it is.
			c.Write([]byte("\x07\x00\x00\x00\xff\x10\x04full"))
		}
	}()
	db := testenv.Must(openMySQL(client, "server.lab.example:3306", "user", "password", "orders"))(t)
	defer db.Close()
	var refused *mysql.MySQLError
	if err := db.PingContext(testenv.Context(t)); !errors.As(err, &refused) || refused.Number != 1040 {
		t.Errorf("got %v, want error 1040", err)
	}
}
