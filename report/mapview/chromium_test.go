package mapview_test

import (
	"bytes"
	"context"
	"flag"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/check"
	"github.com/qcheck/qcheck/check/filemap"
	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/report/mapview"
)

var picture = flag.Bool("picture", false, "look at the page with a real, headless Chromium (make picture-test)")

// script stands in for somebody who uses the page, and leaves behind what was seen.
const script = `<script>
const seen = [], key = k => document.body.dispatchEvent(new KeyboardEvent("keydown", { key: k, bubbles: true }));
const note = id => seen.push(document.getElementById(id).textContent);
const canvas = document.getElementById("file"), width = () => canvas.getBoundingClientRect().width, before = width();
key("Home"); note("where"); key("ArrowRight"); note("where"); key("End"); note("where");
key("n"); note("where"); key("n"); note("where");
const r = canvas.getBoundingClientRect();
canvas.dispatchEvent(new MouseEvent("mousemove", { clientX: r.left + 3, clientY: r.top + 3, bubbles: true })); note("tip");
canvas.dispatchEvent(new MouseEvent("mouseleave")); seen.push(document.getElementById("tip").hidden);
key("+"); key("+"); seen.push(canvas.getBoundingClientRect().height > r.height); key("-"); key("-"); key("-");
document.querySelector("#findings a").click(); note("where");
const row = document.querySelectorAll(".row canvas")[2], b = row.getBoundingClientRect();
row.dispatchEvent(new MouseEvent("mousemove", { clientX: b.left + 2, clientY: b.top + 2, bubbles: true })); note("tip");
row.dispatchEvent(new MouseEvent("click", { clientX: b.left + b.width - 2, clientY: b.top + 2, bubbles: true })); note("guest-where");
const ink = c => new Set(c.getContext("2d").getImageData(0, 0, c.width, c.height).data).size > 8;
seen.push([...document.querySelectorAll("canvas")].every(ink));
const out = document.createElement("pre"); out.id = "seen"; out.textContent = JSON.stringify(seen); document.body.append(out);
</script></body>`

// TestChromium opens the page of a broken image in a real browser: nothing is complained of, the
// pointer and the keyboard do what they should, and it is drawn, in light and dark and on paper.
func TestChromium(t *testing.T) {
	if !*picture {
		t.Skip("with -picture only (make picture-test): a browser is a large thing to install")
	}
	browser, err := exec.LookPath("chromium")
	require.NoError(t, err, "install the package chromium")
	dir := t.TempDir()
	c := corpus.Samples()[2]
	built, err := c.Build()
	require.NoError(t, err)
	img, err := built.Open()
	require.NoError(t, err)
	res, ev, err := check.Inspect(context.Background(), img, check.Options{})
	require.NoError(t, err)
	m, err := filemap.Make(context.Background(), img, res, ev, filemap.Options{})
	require.NoError(t, err)
	var page bytes.Buffer
	require.NoError(t, mapview.HTML(&page, "wrong-refcounts.qcow2", m))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return "file://" + path
	}
	plain := write("page.html", page.String())
	used := write("used.html", strings.Replace(page.String(), "</body>", script, 1))

	run := func(url string, args ...string) (stdout string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, browser, append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900",
			"--enable-logging=stderr", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=2000"}, append(args, url)...)...)
		var out, log bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &log
		require.NoError(t, cmd.Run(), log.String())
		assert.NotContains(t, log.String(), "CONSOLE", "the browser complains")
		return out.String()
	}
	dom := run(used, "--dump-dom")
	seen := regexp.MustCompile(`<pre id="seen">(.*?)</pre>`).FindStringSubmatch(dom)
	require.NotNil(t, seen, "the page did not run to its end")
	assert.Equal(t, `["cluster 0 at 0x0; header",`+
		`"cluster 1 at 0x10000; refcounts",`+
		`"cluster 114 at 0x720000; snapshots",`+
		`"cluster 88 at 0x580000; data; REF005: cluster 88 at 0x580000: refcount 0, but 1 reference",`+
		`"cluster 104 at 0x680000; leaked; REF006: clusters 104 to 108 at 0x680000: refcount 1, but no references each",`+
		`"cluster 0 at 0x0\nheader",true,true,`+
		`"cluster 88 at 0x580000; data; REF005: cluster 88 at 0x580000: refcount 0, but 1 reference",`+
		`"guest 0x20000, 64 KiB\n100% dirty","guest 0x3fe0000 to 0x3ff0000",true]`, seen[1])
	assert.Contains(t, dom, `data-ready="115"`)

	shades := make(map[string]uint32)
	for name, args := range map[string][]string{"light": nil, "dark": {"--blink-settings=preferredColorScheme=0"}} {
		shot := filepath.Join(dir, name+".png")
		run(plain, append(args, "--screenshot="+shot)...)
		f, err := os.Open(shot)
		require.NoError(t, err)
		picture, err := png.Decode(f)
		require.NoError(t, err)
		f.Close()
		colors := make(map[uint32]int)
		b := picture.Bounds()
		for y := b.Min.Y; y < b.Max.Y; y += 2 {
			for x := b.Min.X; x < b.Max.X; x += 2 {
				r, g, bl, _ := picture.At(x, y).RGBA()
				colors[r>>8<<16|g>>8<<8|bl>>8]++
			}
		}
		assert.Greater(t, colors[0x3b82f6], 2000, "%s: data is drawn", name)
		assert.Greater(t, colors[0xf59e0b], 100, "%s: leaks are drawn", name)
		r, _, _, _ := picture.At(b.Max.X-2, b.Max.Y-2).RGBA()
		shades[name] = r >> 8
	}
	assert.Greater(t, shades["light"], uint32(0xe0))
	assert.Less(t, shades["dark"], uint32(0x40))

	pdf := filepath.Join(dir, "page.pdf")
	run(plain, "--print-to-pdf="+pdf)
	printed, err := os.ReadFile(pdf)
	require.NoError(t, err)
	assert.True(t, bytes.HasPrefix(printed, []byte("%PDF-")))
	assert.Greater(t, len(printed), 10_000)
}
