package bench

// A ledger knows what became of each message of a run, by number: five octets a
// message. Not for concurrent use.
type ledger struct {
	users int
	fates []fate
	user  []uint32
	count int64 // acknowledged
}

func newLedger(users int) *ledger { return &ledger{users: users} }

// mark enters what the sender of a message was told.
func (l *ledger) mark(op *operation) {
	if grow := int(op.n) + 1 - len(l.fates); grow > 0 {
		l.fates = append(l.fates, make([]fate, grow)...)
		l.user = append(l.user, make([]uint32, grow)...)
	}
	l.fates[op.n], l.user[op.n] = op.fate, uint32(op.user)
	if op.fate == fateAcknowledged {
		l.count++
	}
}

// recipients returns the users who were sent anything.
func (l *ledger) recipients() []int {
	sent := make([]bool, l.users)
	for n, f := range l.fates {
		if f != fateNone {
			sent[l.user[n]] = true
		}
	}
	var list []int
	for i, ok := range sent {
		if ok {
			list = append(list, i)
		}
	}
	return list
}

// A tally counts the messages of a run as they are found.
type tally struct {
	found   []uint8 // by number, up to 255
	foreign int64   // in another user's mailbox, or never sent
}

func (t *tally) add(l *ledger, n int64, user int) {
	if n >= int64(len(l.fates)) || l.user[n] != uint32(user) {
		t.foreign++
		return
	}
	if len(t.found) < len(l.fates) {
		t.found = append(t.found, make([]uint8, len(l.fates)-len(t.found))...)
	}
	t.found[n] = min(t.found[n], 254) + 1
}

// compare lays what was found beside what was sent.
func (l *ledger) compare(t *tally) *Verified {
	v := &Verified{Acknowledged: l.count, Misplaced: t.foreign}
	for n, f := range l.fates {
		var times uint8
		if n < len(t.found) {
			times = t.found[n]
		}
		if times > 0 {
			v.Found++
		}
		switch {
		case times > 1:
			v.Doubled++
		case times == 0 && f == fateAcknowledged:
			v.Lost++
		case times == 1 && f == fateUnknown:
			v.Unconfirmed++
		case times == 1 && f == fateRefused:
			v.Refused++
		}
	}
	return v
}
