package check

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// A long name from an image takes a line of a message, never a screen, and no escape is
// cut in two.
func TestExcerpt(t *testing.T) {
	t.Parallel()
	x := strings.Repeat("x", 63)
	for _, tt := range []struct{ name, want string }{
		{"backup-7", "backup-7"},
		{x + "y", x + "y"},
		{x + "yz", x + "y… (65 characters)"},
		{x + "\x1b", x + "… (64 characters)"},
		{x[:60] + "\x1b", x[:60] + `\x1b`},
		{strings.Repeat("\x00", 65535), strings.Repeat(`\x00`, 16) + "… (65535 characters)"},
		{strings.Repeat("ä", 64), strings.Repeat("ä", 64)},
		{strings.Repeat("ä", 300), strings.Repeat("ä", 64) + "… (300 characters)"},
		{strings.Repeat("\xff", 40), strings.Repeat(`\xff`, 16) + "… (40 characters)"},
	} {
		assert.Equal(t, tt.want, Excerpt(tt.name))
		assert.Equal(t, tt.want, Shorten(Escape(tt.name)))
	}
	assert.Equal(t, x+"x… (over 1023 characters)", Shorten(ownerName(strings.Repeat("x", 5000))))
}
