// Used by xen-orchestra.sh, which says what it is for.
import { createWriteStream } from 'node:fs'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { RandomAccessDisk } from '@xen-orchestra/disk-transform'
import { toQcow2Stream } from '@xen-orchestra/qcow2'

const KiB = 1024, MiB = 1024 * KiB, GiB = 1024 * MiB

// A disk of a size in bytes, of which some blocks of a size are written.
class Disk extends RandomAccessDisk {
  constructor(size, blockSize, blocks) {
    super()
    Object.assign(this, { size, blockSize, blocks })
  }
  async init() {}
  async close() {}
  isDifferencing() { return false }
  getVirtualSize() { return this.size }
  getBlockSize() { return this.blockSize }
  getBlockIndexes() { return this.blocks }
  hasBlock(index) { return this.blocks.includes(index) }
  async readBlock(index) { return { index, data: Buffer.alloc(this.blockSize, 1 + (index % 255)) } }
}

const images = {
  empty: new Disk(MiB, 64 * KiB, []),
  scattered: new Disk(MiB, 64 * KiB, [0, 5, 15]),
  'odd-size': new Disk(1000003, 64 * KiB, [1, 15]),
  'small-blocks': new Disk(MiB, 4 * KiB, [0, 1, 100, 255]),
  // Those of a VHD. The last one reaches behind the end of the disk.
  'large-blocks': new Disk(2 * MiB + 100 * KiB, 2 * MiB, [1]),
  'two-tables': new Disk(GiB + 64 * KiB, 64 * KiB, [3, 16384]),
  'hole-between-tables': new Disk(2 * GiB, 64 * KiB, [0, 32767]),
  'zero-size': new Disk(0, 64 * KiB, []),
}
for (const [name, disk] of Object.entries(images)) {
  await pipeline(toQcow2Stream(disk), createWriteStream(join(process.argv[2], name + '.qcow2')))
}
