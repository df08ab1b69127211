/* A small reader of qcow2 with a fault, as an example of a target for libFuzzer. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | p[1] << 16 | p[2] << 8 | p[3]; }
static uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }

static uint8_t first_byte(const uint8_t *file, size_t size)
{
    if (size < 104 || memcmp(file, "QFI\xfb", 4) || be32(file + 4) != 3)
        return 0;
    uint32_t bits = be32(file + 20), entries = be32(file + 36);
    uint64_t l1 = be64(file + 40);
    if (bits < 9 || bits > 21 || entries == 0 || l1 % (1u << bits) || l1 > size || size - l1 < 8)
        return 0;
    uint64_t l2 = be64(file + l1) & 0x00fffffffffffe00ull;
    /* The fault: an entry may lead past the end of the file. */
    uint64_t entry = l2 ? be64(file + l2) : 0;
    return (uint8_t)entry;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    first_byte(data, size);
    return 0;
}
