package storagetest

import "testing"

func testRandom(*testing.T, Opener) {}
