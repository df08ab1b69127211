package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slurmConfig is a cluster of one node, this machine.
const slurmConfig = `ClusterName=test
SlurmctldHost=%[1]s(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
AuthType=auth/munge
AuthInfo=socket=%[2]s/munge.socket
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation=%[2]s/state
SlurmdSpoolDir=%[2]s/spool
SlurmctldPidFile=%[2]s/ctld.pid
SlurmdPidFile=%[2]s/d.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobRequeue=1
MaxArraySize=1001
SchedulerParameters=sched_interval=2
ReturnToService=2
NodeName=%[1]s NodeAddr=127.0.0.1 CPUs=%[3]d State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
`

// The array script for Slurm on a cluster of this machine alone, started for the test: each
// image is checked once, also when workers are killed meanwhile. Takes slurmd, slurmctld,
// slurm-client and munge, and root.
func TestSlurmArray(t *testing.T) {
	if !*withSlurm {
		t.Skip("make fleet-slurm runs it")
	}
	require.Equal(t, 0, os.Getuid(), "slurmd takes root")
	for _, p := range []string{"slurmctld", "slurmd", "sbatch", "munged"} {
		_, err := exec.LookPath(p)
		require.NoError(t, err, "apt-get install slurmd slurmctld slurm-client munge")
	}
	list, images := fleet(t, *fleetImages)
	program := built(t)
	dir, err := os.MkdirTemp("", "slurm")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	out := filepath.Join(dir, "out")
	for _, d := range []string{"state", "spool", "out"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	host, err := os.Hostname()
	require.NoError(t, err)
	host, _, _ = strings.Cut(host, ".")
	const cpus = 2
	config := filepath.Join(dir, "slurm.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, slurmConfig, host, dir, cpus), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "munge.key"), []byte(strings.Repeat("0123456789abcdef", 64)), 0o600))
	t.Setenv("SLURM_CONF", config)

	daemon := func(name string, args ...string) {
		log, err := os.Create(filepath.Join(dir, name+".log"))
		require.NoError(t, err)
		cmd := exec.Command(name, args...)
		cmd.Stdout, cmd.Stderr = log, log
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			log.Close()
			if t.Failed() {
				text, _ := os.ReadFile(log.Name())
				t.Logf("%s:\n%s", name, text[max(0, len(text)-3000):])
			}
		})
	}
	require.NoError(t, os.Chmod(dir, 0o755))
	daemon("munged", "--foreground", "--force", "--socket="+dir+"/munge.socket", "--key-file="+dir+"/munge.key",
		"--pid-file="+dir+"/munged.pid", "--log-file="+dir+"/munged.txt", "--seed-file="+dir+"/munged.seed")
	require.Eventually(t, func() bool { _, err := os.Stat(dir + "/munge.socket"); return err == nil }, 20*time.Second, 100*time.Millisecond)
	daemon("slurmctld", "-D", "-i", "-f", config)
	daemon("slurmd", "-D", "-f", config)
	run := func(name string, args ...string) (string, error) {
		text, err := exec.Command(name, args...).CombinedOutput()
		return strings.TrimSpace(string(text)), err
	}
	require.Eventually(t, func() bool { text, _ := run("sinfo", "-h", "-o", "%T"); return text == "idle" }, 60*time.Second, 500*time.Millisecond)

	script, err := filepath.Abs("../../docs/fleet/slurm.sh")
	require.NoError(t, err)
	worker, err := filepath.Abs("../../docs/fleet/worker.sh")
	require.NoError(t, err)
	began := time.Now()
	text, err := run("sbatch", "--parsable", "--output="+dir+"/job-%a.txt", "--export=ALL,LIST="+list+",OUT="+out+",WORKER="+worker+",QCHECK="+program, script)
	require.NoError(t, err, text)
	// Workers are killed: the check alone, and once a whole job.
	killed, cancelled := 0, false
	for time.Since(began) < 10*time.Minute {
		left, err := run("squeue", "-h", "-j", text, "-o", "%i %T")
		if err != nil || left == "" {
			break
		}
		if killed < 3 {
			if killOne(program) {
				killed++
			}
		} else if !cancelled {
			for line := range strings.Lines(left) {
				if id, state, _ := strings.Cut(strings.TrimSpace(line), " "); state == "RUNNING" {
					_, err := run("scontrol", "requeue", id)
					cancelled = cancelled || err == nil
					break
				}
			}
		}
		time.Sleep(300 * time.Millisecond)
	}
	files, err := filepath.Glob(filepath.Join(out, "*.jsonl"))
	require.NoError(t, err)
	assert.Len(t, files, 16)
	assert.Equal(t, 3, killed)
	onceEach(t, list, out, len(images))
	t.Logf("%d images in 16 parts, %d checks killed, a job requeued: %v, after %v", len(images), killed, cancelled, time.Since(began).Round(time.Second))
}
