//go:build !race

package directory_test

// importLines is how many accounts TestImportManyHashed imports.
const importLines = 50_000
