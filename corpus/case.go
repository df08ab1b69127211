package corpus

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/qcheck/qcheck/check/problem"
)

// Case is a named image: how it is made, what is done to it, and what a check
// must find.
type Case struct {
	// Name is "section/what it is", lower case.
	Name string
	// Story says in a sentence how such an image comes about, or why it is here.
	Story  string
	Spec   Spec
	Damage []Damage
	// Want are the findings that a check must give; each finding must be
	// wanted. A sound image has none.
	Want []Want
	// Any tells that there may be findings besides those wanted: what follows
	// from such an image is not worth telling one by one.
	Any bool
	// Missing names files that the image needs and that are not there.
	Missing []string
	// Unreadable are places where reading the image fails.
	Unreadable []Place
	// BitmapData tells that the fault is found only where all data of the bitmaps
	// is read.
	BitmapData bool
	// Data tells that the fault is found only where the guest's data is looked at.
	Data bool
	// MemoryLimit bounds the check's reference counts, in bytes. The default is
	// no limit.
	MemoryLimit int64
	// DataDamaged tells that nothing but the guest's data is damaged, which is compressed:
	// only reading it shows that.
	DataDamaged bool
	// QEMU is what QEMU does with the image, as far as it is known.
	QEMU QEMU
	// QEMUSlow tells that QEMU takes minutes to check the image, or more.
	QEMUSlow bool
	// Huge images are larger than file systems allow; they exist in memory only.
	Huge bool
	// Long images are files of many GiB of which nearly all is a hole.
	Long bool

	anySize bool // see [Case.inAllSizes]
}

// Want is a finding that a check must give.
type Want struct {
	Code problem.Code
	// At are bytes that the finding's extent must cover. The default is
	// anywhere.
	At Place
	// Count is the finding's count. The default is any.
	Count uint64
	// Severity is the finding's severity. The default is the catalogue's.
	Severity problem.Severity
	// Bitmap and Snapshot are the owner that the finding must name. The default
	// is any.
	Bitmap, Snapshot string
}

// Filename is the name of the file that the case's image is written to.
func (c *Case) Filename() string {
	b := []byte(c.Name + ".qcow2")
	for i := range b {
		if b[i] == '/' {
			b[i] = '_' // no name has one
		}
	}
	return string(b)
}

// Healthy tells that nothing is wrong with the image: nothing but notes is to be found,
// and bitmaps that were in use when a hypervisor was killed.
func (c *Case) Healthy() bool {
	return !c.DataDamaged && !slices.ContainsFunc(c.Want, func(w Want) bool { return w.ExpectedSeverity() != problem.Note && w.Code != problem.BitmapInUse })
}

// NotQcow2 tells that the file is to be taken for no qcow2 image at all.
func (c *Case) NotQcow2() bool {
	return slices.ContainsFunc(c.Want, func(w Want) bool { return w.Code == problem.NotQcow2 })
}

// ExpectedSeverity is the severity that the finding must have.
func (w Want) ExpectedSeverity() problem.Severity {
	if w.Severity != 0 {
		return w.Severity
	}
	r, _ := problem.Lookup(w.Code)
	return r.Severity
}

// Build makes the image and damages it.
func (c *Case) Build() (*Image, error) { return c.build(func(int, uint64, uint64) {}) }

// build makes the image and damages it, and tells where each damage was done.
func (c *Case) build(damaged func(i int, offset, length uint64)) (*Image, error) {
	img, err := Build(c.Spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Name, err)
	}
	for i, d := range c.Damage {
		x, err := d.Apply(img)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", c.Name, d, err)
		}
		damaged(i, uint64(x.Offset), x.Length)
	}
	for _, name := range c.Missing {
		if img.Siblings[name] == nil {
			return nil, fmt.Errorf("%s: there is no file %q that could be missing", c.Name, name)
		}
		delete(img.Siblings, name)
	}
	return img, nil
}

// sections make the cases, each those of its file.
var sections = []func() []Case{healthyCases, matrixCases, headerCases, extensionCases, mappingCases, overlapCases,
	refcountCases, snapshotCases, bitmapExtensionCases, bitmapDirectoryCases, bitmapDataCases, lostBitmapCases, fileCases,
	hostileCases, readerCases, combinedCases, togetherCases, fuzzedCases, incidentCases, dataCases, untrustedCases, lostCases}

// allCases are the cases, sorted by name.
var allCases = sync.OnceValue(func() []Case {
	var all []Case
	for _, s := range sections {
		all = append(all, s()...)
	}
	verdicts := qemuVerdicts()
	for i := range all {
		all[i].QEMU = verdicts[all[i].Name]
	}
	slices.SortFunc(all, func(a, b Case) int { return cmp.Compare(a.Name, b.Name) })
	return all
})

// Cases gives all cases, sorted by name.
func Cases() []Case { return slices.Clone(allCases()) }

// Lookup gives the case of a name.
func Lookup(name string) (Case, bool) {
	i, ok := slices.BinarySearchFunc(allCases(), name, func(c Case, name string) int { return cmp.Compare(c.Name, name) })
	if !ok {
		return Case{}, false
	}
	return allCases()[i], true
}

// clusterBitsOf gives the cluster_bits that a description asks for.
func (s *Spec) clusterBitsOf() uint32 {
	if s.ClusterBits == 0 {
		return 16
	}
	return s.ClusterBits
}
