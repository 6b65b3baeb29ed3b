package directory

// addresses are what look-ups read of the directory's addresses: all of them, as
// long as they fit, so that neither one that is there nor one that is not is asked
// of the database. Beyond, those that were asked for lately, in two books as in
// package recent. Not safe for concurrent use.
type addresses struct {
	limit int   // octets
	whole bool  // an address that is not in young does not exist
	young *book // what is here speaks, and not what old has
	old   *book // if whole, empty
}

func newAddresses(limit int) *addresses {
	return &addresses{limit: limit, whole: true, young: newBook(), old: newBook()}
}

// get returns what there is under an address, and false if that is not known.
func (a *addresses) get(domain int64, local string) (entry, bool) {
	e, ok := a.young.get(domain, local)
	if ok || a.whole {
		return e, true
	}
	if e, ok = a.old.get(domain, local); ok {
		a.put(domain, local, e)
	}
	return e, ok
}

// put says what there is under an address.
func (a *addresses) put(domain int64, local string, e entry) {
	if a.whole && e.kind == nothing {
		a.young.drop(domain, local)
		return
	}
	a.young.set(domain, local, e)
	switch {
	case a.whole && a.young.bytes > a.limit:
		a.forgetAll()
	case !a.whole && a.young.bytes > a.limit/2:
		a.young, a.old = newBook(), a.young
	}
}

// forgetAll leaves every address to be asked for: there are too many.
func (a *addresses) forgetAll() { a.whole, a.young, a.old = false, newBook(), newBook() }
