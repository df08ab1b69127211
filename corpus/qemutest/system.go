package qemutest

import (
	"time"
)

// SaveVM takes an internal snapshot of node Disk with the state of the machine, as `savevm` does; the daemon
// must be one from StartSystem. With an empty machine the state is about 19 KiB, stored past the end of the
// virtual disk.
func (d *Daemon) SaveVM(tag string) {
	d.t.Helper()
	d.runJob("snapshot-save", map[string]any{"tag": tag, "vmstate": Disk, "devices": []string{Disk}})
}

// runJob executes a command that starts a job, and waits for the job's success.
func (d *Daemon) runJob(command string, arguments map[string]any) {
	d.t.Helper()
	const id = "job"
	arguments["job-id"] = id
	d.Do(command, arguments)
	for deadline := time.Now().Add(qmpTimeout); ; time.Sleep(5 * time.Millisecond) {
		var jobs []struct {
			ID     string `json:"id"`
			Status string `json:"status"`
			Error  string `json:"error"`
		}
		decode(d.t, string(d.Do("query-jobs", nil)), &jobs)
		if len(jobs) != 1 || jobs[0].ID != id || time.Now().After(deadline) {
			d.t.Fatalf("%s: the job does not end: %+v", command, jobs)
		}
		if jobs[0].Status != "concluded" {
			continue
		}
		if jobs[0].Error != "" {
			d.t.Fatalf("%s: %s", command, jobs[0].Error)
		}
		d.Do("job-dismiss", map[string]any{"id": id})
		return
	}
}
