package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

// server serves an image by HTTP and counts the requests.
type server struct {
	image    io.ReaderAt
	size     int64
	requests atomic.Int64
	bytes    atomic.Int64
	// change: the image is another one after so many requests.
	change int64
	// single: several ranges at once are answered with the whole file, as some stores do.
	single, whole bool
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.requests.Add(1)
	if r.Method != http.MethodGet {
		http.Error(w, "only GET is signed", http.StatusForbidden)
		return
	}
	etag := `"one"`
	if s.change > 0 && n > s.change {
		etag = `"two"`
	}
	w.Header().Set("ETag", etag)
	if s.whole || s.single && strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range")
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(make([]byte, 100))
		return
	}
	http.ServeContent(counting{w, &s.bytes}, r, "", time.Time{}, io.NewSectionReader(s.image, 0, s.size))
}

type counting struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

func serve(t *testing.T, s *server) string {
	t.Helper()
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	return ts.URL + "/disk.qcow2?X-Signature=secret"
}

// sameJSON compares what is said of an image by two names.
func sameJSON(t *testing.T, local, remote string, why string) {
	t.Helper()
	var got [2]map[string]any
	var codes [2]int
	for i, name := range []string{local, remote} {
		code, out, errs := runIn("--no-backing", "-o", "json", name)
		codes[i] = code
		require.NoError(t, json.Unmarshal([]byte(out), &got[i]), "%s: %s%s", why, out, errs)
		delete(got[i], "filename")
		delete(got[i], "error")
		delete(got[i], "looks-like")
		delete(got[i], "seconds")
	}
	assert.Equal(t, codes[0], codes[1], why)
	assert.Equal(t, got[0], got[1], why)
}

// An image is the same image by HTTP, with a server that gives several ranges at once and
// with one that does not; and by NBD.
func TestRemoteImagesAreTheSame(t *testing.T) {
	t.Parallel()
	_, hasNBD := qemutest.Find(qemutest.QemuNBD)
	n := 0
	for i, c := range corpus.Cases() {
		if i%40 != 0 || c.Huge || c.Long || len(c.Unreadable) > 0 || strings.HasPrefix(c.Name, "hostile/") || c.Spec.DataFile != nil || c.NotQcow2() {
			continue
		}
		n++
		dir := t.TempDir()
		require.NoError(t, c.WriteFiles(dir))
		path := filepath.Join(dir, c.Filename())
		f, err := os.Open(path)
		require.NoError(t, err)
		defer f.Close()
		info, err := f.Stat()
		require.NoError(t, err)
		sameJSON(t, path, serve(t, &server{image: f, size: info.Size(), single: n%2 == 0}), c.Name)
		// An export is as long as whole sectors of its file.
		if hasNBD && n%4 == 0 && info.Size()%512 == 0 && info.Size() > 0 {
			sameJSON(t, path, serveNBD(t, path), c.Name)
		}
	}
	assert.Greater(t, n, 20)
}

// serveNBD exports a file as it is, and gives the export's URL.
func serveNBD(t *testing.T, path string) string {
	t.Helper()
	program, ok := qemutest.Find(qemutest.QemuNBD)
	require.True(t, ok)
	socket := socketPath(t)
	cmd := exec.Command(program, "-r", "-f", "raw", "-k", socket, "-x", "disk", "-t", "-e", "4", path)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 100 {
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return "nbd+unix:///disk?socket=" + socket
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen")
	return ""
}

// The metadata of a whole TiB is read in some hundred requests, and nothing else.
func TestRemoteTebibyte(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("a large image")
	}
	img, err := corpus.Build(corpus.Spec{Size: 1 << 40, Ops: []corpus.Op{corpus.Map{Length: 1 << 40}}})
	require.NoError(t, err)
	s := &server{image: img, size: img.Size()}
	code, out, errs := runIn("-o", "json", serve(t, s))
	assert.Equal(t, 0, code, "%s%s", out, errs)
	assert.NotContains(t, out+errs, "secret")
	t.Logf("%d requests, %d MiB", s.requests.Load(), s.bytes.Load()>>20)
	assert.Less(t, s.requests.Load(), int64(500))
	assert.Less(t, s.bytes.Load(), int64(250<<20))
}

// What a server does not do, or does meanwhile, is told plainly, and without what is secret.
func TestRemoteServersThatWillNotDo(t *testing.T) {
	t.Parallel()
	img, err := corpus.Build(corpus.Spec{Size: 4 << 30, Ops: []corpus.Op{corpus.Map{Length: 4 << 30}}})
	require.NoError(t, err)
	for want, s := range map[string]*server{
		"does not answer range requests":        {whole: true},
		"was changed while it was read":         {change: 2},
		"not a qcow2 image":                     {image: strings.NewReader(strings.Repeat("x", 4096)), size: 4096},
		"the server says 403 Forbidden":         nil,
		"connection refused":                    nil,
		"not an NBD server":                     nil,
		"has no export \"none\" for us":         nil,
		"a path is missing: nbd+unix:///EXPORT": nil,
	} {
		var url string
		switch {
		case s != nil:
			if s.image == nil {
				s.image, s.size = img, img.Size()
			}
			url = serve(t, s)
		case strings.Contains(want, "403"):
			ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "\x1b[2J", http.StatusForbidden) }))
			defer ts.Close()
			url = ts.URL + "/x?secret=secret"
		case strings.Contains(want, "refused"):
			url = "http://127.0.0.1:1/x?secret"
		case strings.Contains(want, "not an NBD"):
			l, err := net.Listen("tcp", "127.0.0.1:0")
			require.NoError(t, err)
			defer l.Close()
			go func() {
				if conn, err := l.Accept(); err == nil {
					fmt.Fprint(conn, strings.Repeat("SSH-2.0-", 4))
					conn.Close()
				}
			}()
			url = "nbd://" + l.Addr().String() + "/x"
		case strings.Contains(want, "no export"):
			if _, ok := qemutest.Find(qemutest.QemuNBD); !ok {
				continue
			}
			path := filepath.Join(t.TempDir(), "f")
			require.NoError(t, os.WriteFile(path, make([]byte, 1024), 0o666))
			url = strings.Replace(serveNBD(t, path), "/disk", "/none", 1)
		default:
			url = "nbd+unix:///x"
		}
		code, out, errs := runIn(url)
		wantCode := 1
		if want == "not a qcow2 image" {
			wantCode = 63
		}
		assert.Equal(t, wantCode, code, want)
		assert.Contains(t, out+errs, want)
		assert.NotContains(t, out+errs, "secret")
		assert.NotContains(t, out+errs, "\x1b")
	}
	for _, flag := range []string{"-n", "-r"} {
		code, _, errs := runIn(flag, "https://example.invalid/x?secret")
		assert.Equal(t, 1, code)
		assert.Contains(t, errs, "never repaired")
		assert.NotContains(t, errs, "secret")
	}
}
