package metrics_test

import (
	"expvar"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/vdestack/vdestack"
	"github.com/vdestack/vdestack/metrics"
)

func Example() {
	// Counters of all stacks of the process: for Prometheus by module metrics, which has a
	// dashboard for Grafana, and for expvar.
	prometheus.MustRegister(metrics.NewCollector())
	expvar.Publish("vdestack", expvar.Func(vdestack.Vars))

	http.Handle("/metrics", promhttp.Handler())
}
