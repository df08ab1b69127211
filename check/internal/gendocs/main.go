// Command gendocs writes docs/findings.md from the catalogue of findings. It is
// run by `go generate`; its argument is the file to write.
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/qcheck/qcheck/check/problem"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs FILE")
		os.Exit(1)
	}
	if err := os.WriteFile(os.Args[1], findings(problem.Catalog()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

const intro = `<!-- Made by "go generate" from the catalogue in package check. Do not edit. -->
# Findings

Everything that qcheck can report, by code. Codes are stable: none is ever renumbered or used again.
"qcheck explain CODE" shows the same text. "Specification" is QEMU's docs/interop/qcow2, with the function of
QEMU's that the check follows where there is one.

| severity | meaning |
|---|---|
| corruption | data is wrong, unreadable or unsafe to write, or QEMU refuses to open the image because of it |
| leak | space is lost, nothing else |
| warning | the specification is violated or content is stale, but no guest data is at risk today |
| note | legitimate, worth knowing |
| error | not a fault of the image: something kept qcheck from looking |

A finding may be milder than its code's severity where the image explains what is odd.

| repair | meaning |
|---|---|
| safe | ` + "`qcheck -r`" + ` does it; no guest data and no trustworthy bitmap is lost |
| policy | ` + "`qcheck -r`" + ` does what ` + "`--bitmap-policy`" + ` says of a bitmap that cannot be trusted |
| lossy | guest data may be lost, so it must be asked for: ` + "`--allow-data-loss`" + ` |
| reattach | a lost table can be hung back where the evidence allows it; it must be asked for: ` + "`--reattach`" + ` |
| none | nothing can be done about it |

` + "`qcheck -n -r`" + ` shows what a repair would do to an image, and what it would leave.
`

var groups = map[string]string{
	"FIL": "File", "HDR": "Header", "EXT": "Header extensions", "MAP": "Guest mapping", "CMP": "Compressed clusters", "REF": "Refcounts",
	"SNP": "Snapshots", "BMP": "Bitmaps: extension", "BMD": "Bitmaps: directory", "BMT": "Bitmaps: table",
	"BMX": "Bitmaps: data", "CRY": "Encryption", "DAT": "External data file", "CHN": "Backing chain",
	"OPN": "Opening", "IOE": "Errors of reading", "LIM": "Limits",
}

// findings gives the page: an overview, then a section for each code.
func findings(rules []problem.Rule) []byte {
	var b bytes.Buffer
	b.WriteString(intro)
	b.WriteString("\n| code | severity | repair | finding |\n|---|---|---|---|\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "| [%s](#%s) | %v | %v | %s |\n", r.Code, strings.ToLower(string(r.Code)), r.Severity, r.Repair, r.Title)
	}
	last := ""
	for _, r := range rules {
		if group := string(r.Code[:3]); group != last {
			last = group
			fmt.Fprintf(&b, "\n## %s\n", groups[group])
		}
		fmt.Fprintf(&b, "\n### %s\n\n**%s**\n\n", r.Code, r.Title)
		fmt.Fprintf(&b, "%v · structure `%s` · repair: %v · specification: %s\n\n", r.Severity, r.Structure, r.Repair, r.Spec)
		fmt.Fprintf(&b, "%s\n\nWhat to do: %s\n", r.Why, r.Do)
	}
	return b.Bytes()
}
