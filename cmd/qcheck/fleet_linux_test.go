package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/qcheck/qcheck/corpus"
	"github.com/qcheck/qcheck/corpus/qemutest"
)

var (
	fleetImages = flag.Int("fleet.images", 120, "how many images workers check that are killed")
	manyImages  = flag.Int("fleet.many", 600, "how many images one process checks")
	withSlurm   = flag.Bool("fleet.slurm", false, "run the Slurm script with the slurm-wlm of this machine, as root")
)

// The part of a list that an image is in never changes, and parts are about equal.
func TestShards(t *testing.T) {
	t.Parallel()
	var sizes [7]int
	for i := range 7000 {
		name := fmt.Sprintf("/vm/disk-%d.qcow2", i)
		in := 0
		for k := range uint32(7) {
			if (shard{k, 7}).has(name) {
				in++
				sizes[k]++
			}
		}
		require.Equal(t, 1, in, name)
	}
	for k, n := range sizes {
		assert.InDelta(t, 1000, n, 120, "part %d", k)
	}
	assert.True(t, shard{}.has("x"))
	// These must be the same for ever: results of different versions are put together.
	assert.True(t, shard{3, 4}.has("/vm/a.qcow2"))
	assert.True(t, shard{3, 4}.has("/vm/b.qcow2"))
}

// The manifest of the Job is one that the API takes, field for field, and its worker is the
// one that is tested.
func TestKubernetesManifest(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/fleet/job.yaml")
	require.NoError(t, err)
	parts := bytes.Split(text, []byte("\n---\n"))
	require.Len(t, parts, 2)
	var config corev1.ConfigMap
	require.NoError(t, yaml.UnmarshalStrict(append(parts[0], '\n'), &config))
	worker, err := os.ReadFile("../../docs/fleet/worker.sh")
	require.NoError(t, err)
	assert.Equal(t, string(worker), config.Data["worker.sh"])

	var job batchv1.Job
	require.NoError(t, yaml.UnmarshalStrict(parts[1], &job))
	assert.Equal(t, batchv1.IndexedCompletion, *job.Spec.CompletionMode)
	assert.Equal(t, corev1.RestartPolicyNever, job.Spec.Template.Spec.RestartPolicy, "backoffLimitPerIndex asks for it")
	require.NotNil(t, job.Spec.BackoffLimitPerIndex)
	c := job.Spec.Template.Spec.Containers[0]
	assert.Equal(t, []string{"/bin/sh", "/worker/worker.sh", "/list/images.txt", "$(JOB_COMPLETION_INDEX)", fmt.Sprint(*job.Spec.Completions), "/results"}, c.Command)
	volumes := make(map[string]bool)
	for _, v := range job.Spec.Template.Spec.Volumes {
		volumes[v.Name] = true
	}
	for _, m := range c.VolumeMounts {
		assert.True(t, volumes[m.Name], m.Name)
	}
	var wrong batchv1.Job
	assert.Error(t, yaml.UnmarshalStrict(bytes.Replace(parts[1], []byte("completions:"), []byte("completion:"), 1), &wrong), "it is strict")
}

// fleet makes images of the corpus, as many as are asked for, and a list of them.
func fleet(t *testing.T, n int) (list string, images []string) {
	t.Helper()
	dir := t.TempDir()
	var data [][]byte
	for _, c := range corpus.Cases() {
		if c.Huge || c.Long || c.QEMUSlow || len(c.Unreadable) > 0 || c.Spec.Backing != nil || c.Spec.DataFile != nil || c.Spec.ClusterBits == 21 ||
			strings.HasPrefix(c.Name, "hostile/") || strings.HasPrefix(c.Name, "untrusted/") {
			continue
		}
		img, err := c.Build()
		require.NoError(t, err)
		if img.Size() > 2<<20 {
			continue
		}
		b := make([]byte, img.Size())
		_, err = img.ReadAt(b, 0)
		require.NoError(t, err)
		if data = append(data, b); len(data) == 60 {
			break
		}
	}
	var names strings.Builder
	for i := range n {
		path := filepath.Join(dir, fmt.Sprintf("%03d", i/1000), fmt.Sprintf("disk-%d.qcow2", i))
		if i < len(data) || i%1000 == 0 {
			require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		}
		if i < len(data) {
			require.NoError(t, os.WriteFile(path, data[i], 0o666))
		} else { // hard links: what counts is how many there are
			require.NoError(t, os.Link(images[i%len(data)], path))
		}
		images = append(images, path)
		names.WriteString(path + "\n")
	}
	list = filepath.Join(dir, "list")
	require.NoError(t, os.WriteFile(list, []byte(names.String()), 0o666))
	return list, images
}

// onceEach asserts that each image of a list was checked exactly once.
func onceEach(t *testing.T, list string, out string, n int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(out, "*.jsonl"))
	require.NoError(t, err)
	_, text, errs := runIn(append([]string{"summary", "--expect", list, "-o", "json"}, files...)...)
	var sum struct {
		Images  int `json:"images"`
		Missing int `json:"not-checked-count"`
		Twice   int `json:"checked-twice-count"`
		Cut     int `json:"lines-cut"`
		Foreign int `json:"lines-not-understood"`
	}
	require.NoError(t, json.Unmarshal([]byte(text), &sum), "%s%s", text, errs)
	assert.Equal(t, n, sum.Images)
	assert.Zero(t, sum.Missing+sum.Twice+sum.Cut+sum.Foreign, "%+v", sum)
}

// built builds the command once.
func built(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "qcheck")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	require.NoError(t, err, "%s", out)
	return path
}

// killOne kills a process that runs a program, told by its path, and tells whether there was
// one.
func killOne(program string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range all {
		if to, err := os.Readlink(exe); err == nil && to == program {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(exe)))
			return syscall.Kill(pid, syscall.SIGKILL) == nil
		}
	}
	return false
}

// Workers that are killed again and again, and started again, leave each image checked once.
func TestWorkersThatAreKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts many processes")
	}
	const parts = 4
	list, images := fleet(t, *fleetImages)
	out, program := t.TempDir(), built(t)
	random := rand.New(rand.NewPCG(3, 4))
	killed := 0
	for i := range parts {
		for try := 0; ; try++ {
			require.Less(t, try, 20)
			cmd := exec.Command("sh", "../../docs/fleet/worker.sh", list, fmt.Sprint(i), fmt.Sprint(parts), out)
			cmd.Env = append(os.Environ(), "QCHECK="+program)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			require.NoError(t, cmd.Start())
			if try < 3 {
				time.Sleep(time.Duration(5+random.IntN(60)) * time.Millisecond)
				// The whole group, or the check alone: then the script lives on.
				if try%2 == 0 {
					_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
				} else {
					killOne(program)
				}
			}
			if cmd.Wait() == nil {
				break
			}
			killed++
		}
	}
	assert.Positive(t, killed)
	onceEach(t, list, out, len(images))
	_, err := os.Stat(filepath.Join(out, "0.jsonl"))
	assert.NoError(t, err)
}

// highWater is the most memory that a process has had, in KiB; 0 where it has ended. What
// the system tells of ended ones includes what their parent had when it started them.
func highWater(pid int) (kib int64) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	_, _ = fmt.Sscan(rest, &kib)
	return kib
}

// One process checks very many images in constant memory, and faster than qemu-img is
// started for each.
func TestManyImagesInOneProcess(t *testing.T) {
	qemutest.Require(t)
	_, images := fleet(t, *manyImages)
	program := built(t)
	peak := func(n int) (time.Duration, int64) {
		cmd := exec.Command(program, "-o", "jsonl", "--files-from", "-")
		cmd.Stdin = strings.NewReader(strings.Join(images[:n], "\n"))
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, cmd.Start())
		lines, most := 0, int64(0)
		in := bufio.NewReader(out)
		for {
			_, more, err := in.ReadLine()
			if err != nil {
				break
			}
			if !more {
				lines++
			}
			if high := highWater(cmd.Process.Pid); high > 0 && lines%20 == 0 {
				most = high
			}
		}
		_ = cmd.Wait()
		assert.Equal(t, n, lines)
		return time.Since(began), most
	}
	_, small := peak(len(images) / 10)
	took, large := peak(len(images))
	program, _ = qemutest.Find(qemutest.QemuImg)
	began, m := time.Now(), min(len(images)/20, 500)
	for _, path := range images[:m] {
		_ = exec.Command(program, "check", "--output=json", path).Run()
	}
	qemu := float64(m) / time.Since(began).Seconds()
	ours := float64(len(images)) / took.Seconds()
	t.Logf("%d images: %.0f images/s, peak %d KiB (%d KiB with a tenth of them); qemu-img check, a process each: %.0f images/s", len(images), ours, large, small, qemu)
	assert.Greater(t, ours, 2*qemu)
	// What is remembered of each name is some tens of bytes.
	assert.Positive(t, small)
	assert.Less(t, large, small+16<<10+int64(len(images))/10)
}
