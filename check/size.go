package check

import "fmt"

// ReadableSize writes a number of bytes as people read it: "1 GiB", "2.5 MiB".
func ReadableSize(n uint64) string {
	const units = "KMGTPE"
	u, unit := uint64(1), -1
	for unit+1 < len(units) && n/u >= 1024 {
		u <<= 10
		unit++
	}
	switch {
	case n == 1:
		return "1 byte"
	case unit < 0:
		return fmt.Sprintf("%d bytes", n)
	case n%u == 0:
		return fmt.Sprintf("%d %ciB", n/u, units[unit])
	default:
		return fmt.Sprintf("%.1f %ciB", float64(n)/float64(u), units[unit])
	}
}
