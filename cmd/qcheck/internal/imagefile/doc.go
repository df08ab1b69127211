// Package imagefile opens the files that make up a disk image – the image, its
// external data file, its backing files – so that they can be checked or
// repaired while other programs may want them too. It knows files, block devices
// and QEMU's image locking, and nothing of what is stored in them.
//
// # Locking
//
// QEMU marks what it does with an image by shared (read) locks on single bytes
// of the file: open file description locks of Linux, see block/file-posix.c.
// They lie far below any size that matters, say nothing about the bytes at those
// offsets, and belong to the open file, not to the process.
//
//	byte 100+i   "I use permission i"
//	byte 200+i   "I do not let others use permission i"
//
//	i = 0   consistent read      reading, and relying on what is read
//	i = 1   write                changing what the guest sees
//	i = 2   write unchanged      rewriting without the guest seeing a change
//	i = 3   resize               changing the file's length
//
// A shared lock never fails against another shared lock, so that everybody can
// say what they do. Whether it fits together is found out by asking: for each
// permission i that we use, is 200+i locked by another? For each i that we do not
// share, is 100+i? First set all, then test all, both on the same descriptor: of
// two programs that start at once, at least one sees the other.
//
//	                    sets                          tests
//	check               100, 201, 203                 200, 101, 103
//	check, ForceShare   100                           200; 101 and 103 for Live
//	repair              100, 101, 103, 200–203        200, 201, 203, 100–103
//
// So a check goes along with any reader and keeps writers out; with ForceShare it
// goes along with writers too, and keeps nobody out; a repair is alone with the
// image, and even readers that force their way in are refused. An external data
// file is locked like the image: QEMU claims it for writing only while the image
// is in use, so the image's own lock is the one to go by. A backing file is locked
// as a reader locks, and never opened for writing.
//
// What locks cannot tell: they are local to the host and to the path's inode (a
// device node in another container, or a cluster's other node, is not seen);
// programs that do not know QEMU's protocol, and QEMU with locking=off or on the
// receiving side of a migration, hold none. Where the file system or the kernel
// has no such locks, opening works all the same and [File.LockState] says that
// nothing protects the image.
//
// # Files
//
// Regular files and block devices are opened, anything else is refused before it
// is touched: opening a pipe may wait for ever, opening some character devices
// does things. A file opened for a check is opened read-only, and its access time
// is left alone where the system lets us ask for that.
package imagefile
