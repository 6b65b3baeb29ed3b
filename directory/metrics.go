package directory

import "github.com/prometheus/client_golang/prometheus"

// Metrics are what a Service counts.
type Metrics struct {
	accounts    prometheus.GaugeFunc
	domains     prometheus.GaugeFunc
	unverified  prometheus.GaugeFunc
	nodes       prometheus.GaugeFunc
	epoch       prometheus.GaugeFunc
	unconfirmed prometheus.Counter
	imported    *prometheus.CounterVec
}

func newMetrics(s *State) *Metrics {
	gauge := func(name, help string, f func(m meta, domains int) int64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(f(s.view()))
		})
	}
	return &Metrics{
		accounts: gauge("covey_directory_accounts", "Accounts in the directory.",
			func(m meta, _ int) int64 { return m.accounts }),
		domains: gauge("covey_directory_domains", "Local domains.",
			func(_ meta, domains int) int64 { return int64(domains) }),
		unverified: gauge("covey_directory_accounts_without_scram", "Accounts with a password and no SCRAM verifier; SCRAM is offered when there are none.",
			func(m meta, _ int) int64 { return m.unverified }),
		nodes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "covey_directory_nodes", Help: "Members of the cluster, alive or not.",
		}, func() float64 { return float64(len(s.viewCluster().members)) }),
		epoch: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "covey_directory_shard_map_epoch", Help: "How often the wanted voters of shards were changed; the same on every node that is up to date.",
		}, func() float64 { return float64(s.viewCluster().epoch) }),
		unconfirmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "covey_directory_unconfirmed_total",
			Help: "Times group 0 could not confirm that this copy of the directory is up to date.",
		}),
		imported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "covey_directory_imported_total",
			Help: "Lines of imported files, by what became of them.",
		}, []string{"outcome"}),
	}
}

// Collectors returns all of them.
func (m *Metrics) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.accounts, m.domains, m.unverified, m.nodes, m.epoch, m.unconfirmed, m.imported}
}
