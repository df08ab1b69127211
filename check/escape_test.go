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

func TestEscape(t *testing.T) {
	for in, want := range map[string]string{
		"backup-7":      "backup-7",
		"Zürich 東京":     "Zürich 東京",
		"a\x1b[31mb":    `a\x1b[31mb`,
		"nul\x00":       `nul\x00`,
		`back\slash`:    `back\\slash`,
		`"quoted"`:      `"quoted"`,
		"\xff\xfe":      `\xff\xfe`,
		"line\nbreak":   `line\nbreak`,
		"\u202egnp.exe": `\u202egnp.exe`,
		"":              "",
	} {
		assert.Equal(t, want, Escape(in))
		assert.Equal(t, want, Escape([]byte(in)))
	}
}
