package process

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"
)

// Tail keeps the start and the end of what is written to it.
type Tail struct{ head, rest bytes.Buffer }

const tailBytes = 8 << 10

func (t *Tail) Write(p []byte) (int, error) {
	n := len(p)
	if room := tailBytes - t.head.Len(); room > 0 {
		k := min(room, len(p))
		t.head.Write(p[:k])
		p = p[k:]
	}
	t.rest.Write(p)
	if over := t.rest.Len() - tailBytes; over > 0 {
		t.rest.Next(over)
	}
	return n, nil
}

func (t *Tail) String() string { return t.head.String() + t.rest.String() }

// LastLine is the last line that is not blank, at most 200 bytes of it.
func (t *Tail) LastLine() string {
	lines := strings.Split(strings.TrimSpace(t.String()), "\n")
	last := strings.TrimSpace(lines[len(lines)-1])
	return last[:min(len(last), 200)]
}

// Lines that sanitizers and runtimes write when a program goes wrong in a way that no
// input should be able to bring about.
var (
	complaints = regexp.MustCompile(`(?m)^.*(ERROR: \w*Sanitizer|WARNING: \w*Sanitizer|runtime error:|^panic: |^fatal error: |' panicked at |Assertion .* failed|terminate called after).*$`)
	outOf      = regexp.MustCompile(`out of memory|out-of-memory|cannot allocate memory|allocation-size-too-big|std::bad_alloc|memory allocation of \d+ bytes failed|MemoryError|makeslice: len out of range|requested allocation size`)
	numbers    = regexp.MustCompile(`0x[0-9a-fA-F]+|[0-9]+`)
)

// Complaint gives such a line, without the numbers, which differ from run to run.
func (t *Tail) Complaint() string {
	line := strings.TrimSpace(complaints.FindString(t.String()))
	line = numbers.ReplaceAllString(line, "N")
	return line[:min(len(line), 160)]
}

// Frames of the stacks that Go, sanitizers and Rust write: the function, without addresses.
var (
	goFrame        = regexp.MustCompile(`(?m)^([\w./\-]+\.[\w.()*\[\]\-]+)\(.*\)\n\t(\S+:\d+)`)
	sanitizerFrame = regexp.MustCompile(`(?m)^\s*#\d+ 0x[0-9a-f]+ in (\S+)`)
	rustFrame      = regexp.MustCompile(`(?m)^\s+\d+: (?:0x[0-9a-f]+ - )?([\w<>:{}$]+)$`)
	rustPanic      = regexp.MustCompile(`panicked at (?:.*, )?(\S+:\d+):\d+`)
)

// Frames that say nothing of the program's own code.
var foreignFrame = regexp.MustCompile(`^(runtime[./]|panic$|testing\.|main\.main$|__|_start|libc_start|std::|core::|rust_|memcpy|memmove|memset|malloc|calloc|free|abort|raise|os/|internal/|reflect\.|asan_|__asan|__interceptor)`)

// framesTold is how many frames of the program tell crashes apart.
const framesTold = 3

// Stack names the top frames of the program's own code, where the program wrote a stack:
// crashes with the same ones are one fault, however they come about. It is empty where
// there is no stack that is known.
func (t *Tail) Stack() string {
	text := t.String()
	if m := rustPanic.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	if _, behind, ok := strings.Cut(text, "[running]:\n"); ok {
		text, _, _ = strings.Cut(behind, "\n\n") // of the goroutine that failed
		return top(goFrame.FindAllStringSubmatch(text, -1))
	}
	if frames := sanitizerFrame.FindAllStringSubmatch(text, -1); frames != nil {
		return top(frames)
	}
	return top(rustFrame.FindAllStringSubmatch(text, -1))
}

// top joins the first few frames of the program's own.
func top(frames [][]string) string {
	var own []string
	for _, f := range frames {
		if !foreignFrame.MatchString(f[1]) && len(own) < framesTold {
			if len(f) > 2 {
				own = append(own, f[1]+" "+path.Base(f[2]))
				continue
			}
			own = append(own, f[1])
		}
	}
	return strings.Join(own, " < ")
}

// OutOfMemory tells whether the program says that it asked for more memory than there
// is: however it says so, and wherever it did, that is one kind of fault.
func (t *Tail) OutOfMemory() bool { return outOf.MatchString(t.String()) }

// Fault tells how a run failed: "crash", "hang" or "memory", and more about it. It is
// empty where the program ended as programs end, whatever its exit code.
func (e *End) Fault(said *Tail, timeout time.Duration, memory int64) (kind, detail string) {
	signal := e.Signal
	if signal == 0 && e.RC > 128 && e.RC < 160 {
		signal = e.RC - 128 // as a shell tells it
	}
	complaint := said.Complaint()
	switch {
	case e.Overtime:
		return "hang", fmt.Sprintf("longer than %v", timeout)
	case e.Memory > 0:
		return "memory", fmt.Sprintf("more than %d MiB", memory>>20)
	case (signal != 0 || complaint != "") && said.OutOfMemory():
		return "memory", "asks for more than there is"
	case signal == 0 && complaint == "":
		return "", ""
	case said.Stack() != "":
		return "crash", strings.TrimSpace(complaint + " in " + said.Stack())
	case signal != 0:
		return "crash", strings.TrimSpace(fmt.Sprintf("signal %d %s", signal, complaint))
	case complaint != "":
		return "crash", complaint
	}
	return "", ""
}
