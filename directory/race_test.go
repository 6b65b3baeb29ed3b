//go:build race

package directory_test

// importLines is how many accounts TestImportManyHashed imports: fewer under the
// race detector, which SQLite's transpiled code slows down thirtyfold.
const importLines = 5_000
