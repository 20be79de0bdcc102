package metrics_test

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/vdestack/vdestack/metrics"
)

func Example() {
	prometheus.MustRegister(metrics.NewCollector())
	http.Handle("/metrics", promhttp.Handler())
}
