package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// How patient HTTP is: an answer must have come in whole by requestTime, and what fails for
// a reason that may pass is tried so often.
const (
	requestTime = 60 * time.Second
	tries       = 3
)

// mostRanges is how many ranges are asked for at once. Servers refuse very many.
const mostRanges = 32

// httpSource reads a file by range requests.
type httpSource struct {
	client *http.Client
	url    string
	size   int64
	// etag and modified tell whether the file is still the same; empty where the server
	// does not say.
	etag, modified string
	single         atomic.Bool // the server gives one range at a time
}

// openHTTP asks for the first bytes: what the server says with them is all there is to know.
// It is no HEAD, which a presigned URL does not allow.
func openHTTP(ctx context.Context, u *url.URL) (source, int64, error) {
	h := &httpSource{client: &http.Client{Timeout: requestTime}, url: u.String()}
	resp, err := h.do(ctx, "bytes=0-0")
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		return nil, 0, ErrNoRanges
	case http.StatusRequestedRangeNotSatisfiable:
		if strings.HasSuffix(resp.Header.Get("Content-Range"), "/0") {
			return h, 0, nil // it is empty
		}
		return nil, 0, ErrNoRanges
	default:
		return nil, 0, fmt.Errorf("the server says %s", printableStatus(resp.StatusCode))
	}
	_, _, h.size, err = contentRange(resp.Header.Get("Content-Range"))
	if err != nil {
		return nil, 0, err
	}
	h.etag, h.modified = resp.Header.Get("ETag"), resp.Header.Get("Last-Modified")
	return h, h.size, nil
}

// printableStatus words a status without the server's own text.
func printableStatus(code int) string { return strconv.Itoa(code) + " " + http.StatusText(code) }

func (h *httpSource) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

// do sends one request, again where it fails for a reason that may pass.
func (h *httpSource) do(ctx context.Context, ranges string) (*http.Response, error) {
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url, nil)
		if err != nil {
			return nil, errors.New("not a URL")
		}
		req.Header.Set("Range", ranges)
		// Offsets are those of the file as it is, not of what a server makes of it.
		req.Header.Set("Accept-Encoding", "identity")
		if h.etag != "" && !strings.HasPrefix(h.etag, "W/") {
			req.Header.Set("If-Match", h.etag)
		}
		resp, err := h.client.Do(req)
		if err == nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests || try == tries || ctx.Err() != nil {
			return resp, withoutURL(err)
		}
		if err == nil {
			resp.Body.Close()
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try*try) * 200 * time.Millisecond):
		}
	}
}

// withoutURL takes the URL out of an error, which may hold a signature.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}

// read reads the parts: all in one request where the server does that.
func (h *httpSource) read(ctx context.Context, parts []part) error {
	for len(parts) > 0 {
		n := min(len(parts), mostRanges)
		if h.single.Load() {
			n = 1
		}
		done, err := h.readSome(ctx, parts[:n])
		if err != nil {
			return err
		}
		parts = parts[done:]
	}
	return nil
}

// readSome reads parts in one request, and gives how many it has read: fewer where the
// server does not give several ranges at once.
func (h *httpSource) readSome(ctx context.Context, parts []part) (int, error) {
	var ranges []string
	for _, p := range parts {
		ranges = append(ranges, fmt.Sprintf("%d-%d", p.off, p.end()-1))
	}
	resp, err := h.do(ctx, "bytes="+strings.Join(ranges, ","))
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch code := resp.StatusCode; {
	case code == http.StatusPreconditionFailed:
		return 0, ErrChanged
	case code == http.StatusOK && len(parts) > 1, code == http.StatusRequestedRangeNotSatisfiable && len(parts) > 1:
		h.single.Store(true) // some give the whole file instead
		return 0, nil
	case code == http.StatusOK:
		return 0, ErrNoRanges
	case code == http.StatusRequestedRangeNotSatisfiable:
		return 0, ErrChanged // it has become shorter
	case code != http.StatusPartialContent:
		return 0, fmt.Errorf("the server says %s", printableStatus(code))
	}
	if resp.Header.Get("ETag") != h.etag || resp.Header.Get("Last-Modified") != h.modified {
		return 0, ErrChanged
	}
	kind, params, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err == nil && kind == "multipart/byteranges" {
		return h.multipart(multipart.NewReader(resp.Body, params["boundary"]), parts)
	}
	if len(parts) > 1 { // only the first range, or all in one
		h.single.Store(true)
	}
	return 1, h.one(resp.Header.Get("Content-Range"), resp.Body, &parts[0])
}

// multipart reads the parts of an answer, which need not come in order.
func (h *httpSource) multipart(r *multipart.Reader, parts []part) (int, error) {
	done := make(map[int]bool)
	for {
		body, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		head := body.Header.Get("Content-Range")
		start, _, _, err := contentRange(head)
		if err != nil {
			return 0, err
		}
		for i := range parts {
			if parts[i].off == start && !done[i] {
				if err := h.one(head, body, &parts[i]); err != nil {
					return 0, err
				}
				done[i] = true
			}
		}
	}
	if len(done) < len(parts) {
		h.single.Store(true) // it may have joined some, or left some out
		return 0, nil
	}
	return len(parts), nil
}

// one reads one range.
func (h *httpSource) one(head string, body io.Reader, p *part) error {
	start, end, size, err := contentRange(head)
	switch {
	case err != nil:
		return err
	case size != h.size:
		return ErrChanged
	case start != p.off || end < p.end():
		return fmt.Errorf("asked for bytes %d to %d, the server gives %d to %d", p.off, p.end(), start, end)
	}
	_, err = io.ReadFull(body, p.data)
	return err
}

// contentRange reads "bytes START-LAST/SIZE"; end is behind the last byte.
func contentRange(text string) (start, end, size int64, err error) {
	var last int64
	if n, serr := fmt.Sscanf(text, "bytes %d-%d/%d", &start, &last, &size); n != 3 || serr != nil || start < 0 || last < start || size <= last {
		return 0, 0, 0, errors.New("the server does not say which bytes it gives, and of how many")
	}
	return start, last + 1, size, nil
}
