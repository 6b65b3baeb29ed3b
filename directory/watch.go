package directory

// An Event says what of a cluster has changed, as a set.
type Event uint8

const (
	NodesChanged    Event = 1 << iota // Nodes, Node, Pin
	MapChanged                        // ShardMap, Voters
	SettingsChanged                   // Settings, Level

	everything = NodesChanged | MapChanged | SettingsChanged
)

// Watch has f called after commands that changed something of what an Event names
// were applied here, and after the whole directory was replaced; it tells no more
// than what to look at again. f is called by the goroutine that applies commands,
// before whoever proposed them has the result, and must not wait for anything; it
// may read the directory. It cannot be taken back. Of accounts only quotas are
// watched (WatchQuotas), aliases and domains are not.
func (s *Service) Watch(f func(Event)) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.watchers = append(s.state.watchers, f)
}

// WatchQuotas has f called with each account whose quota a command changed here,
// as Watch does; not for new accounts, nor after the whole directory was replaced.
func (s *Service) WatchQuotas(f func(Account)) {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	s.state.quotaWatchers = append(s.state.quotaWatchers, f)
}

// tell calls the watchers with what has changed since they were told last. mu is
// not held.
func (s *State) tell() {
	s.mu.Lock()
	changed, watchers := s.changed, s.watchers
	requoted, quotaWatchers := s.requoted, s.quotaWatchers
	s.changed, s.requoted = 0, nil
	s.mu.Unlock()
	for _, a := range requoted {
		for _, f := range quotaWatchers {
			f(a)
		}
	}
	if changed == 0 {
		return
	}
	for _, f := range watchers {
		f(changed)
	}
}
