package corpus

import (
	"github.com/qcheck/qcheck/check/problem"
	"github.com/qcheck/qcheck/qcow2"
)

// dataCases are faults of what the tables lead to, which a check finds only where it is
// asked to look at the data as well.
func dataCases() []Case { return inSizes(dataCasesIn, 16, 9, 21) }

func dataCasesIn(bits uint32) []Case {
	c := uint64(1) << bits
	packed := func(n uint64, method qcow2.CompressionType) Spec {
		return Spec{ClusterBits: bits, Size: 64 * c, Compression: method,
			Ops: append(touches(bits), Write{Offset: 40 * c, Length: n * c, Pattern: 1, Compressed: true})}
	}
	// No block of a deflate stream, and no frame of zstd, begins with it.
	ruin := func(i uint64) Damage { return Put(Data((40+i)*c).At(0, 1), []byte{0xff}) }
	bad := func(name, story string, spec Spec, damage ...Damage) Case {
		return one("data/"+name, story, spec, problem.CompressedUnreadable, L2Descriptor(40*c), damage...)
	}
	stored := Spec{ClusterBits: bits, Size: 64 * c, Ops: []Op{Write{Length: 40 * c, Pattern: 1, Stamp: true}}}
	luks := stored
	luks.Crypt = qcow2.CryptLUKS
	ahead := Spec{ClusterBits: bits, Size: 64 * c, Ops: []Op{Write{Length: 8 * c, Pattern: 1, Stamp: true}, Map{Offset: 8 * c, Length: 32 * c}}}
	cases := []Case{
		bad("compressed-damaged", "a compressed cluster that was overwritten", packed(1, 0), ruin(0)).inAllSizes(),
		bad("compressed-damaged-and-padding", "the same, and padding of the header that is not zero", packed(1, 0), ruin(0),
			Set(Bytes(106, 1), 1)).and(problem.HeaderPaddingSet, Place{}).inAllSizes(),
		bad("compressed-damaged-zstd", "two of four clusters that zstd compressed are overwritten", packed(4, qcow2.CompressionZstd), ruin(0), ruin(2)),
		one("data/hole-punched", "a hole was punched into a cluster that the guest had written since: nothing else tells of it (cloud-hypervisor 8624)",
			stored, problem.ClusterNotStored, L2Descriptor(5*c), Wipe(Data(5*c))),
		one("data/hole-punched-and-padding", "the same, and padding of the header that is not zero", stored, problem.ClusterNotStored, L2Descriptor(5*c), Wipe(Data(5*c)),
			Set(Bytes(106, 1), 1)).and(problem.HeaderPaddingSet, Place{}),
		one("data/allocated-ahead", "clusters that were allocated in advance and never written", ahead, problem.ClusterNotStored, L2Descriptor(8*c)).mild(problem.Note),
		one("data/key-material-wiped", "a sector of the key material was overwritten with zeros: nobody can open the disk any more", luks, problem.LUKSHeaderDamaged,
			Place{}, Wipe(CryptoHeader().At(luksHeadSectors*qcow2.SectorSize+1024, 512))),
	}
	for i := range cases {
		cases[i].Data = true
	}
	return cases
}
