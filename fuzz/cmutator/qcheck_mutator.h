/* The custom mutators of libqcheckmutator: changes of qcow2 images by their structure.
 *
 * libFuzzer: link the target with the library; nothing is to be called.
 *     clang -g -fsanitize=fuzzer,address reader.c -Wl,--no-as-needed -L. -lqcheckmutator
 * AFL++: AFL_CUSTOM_MUTATOR_LIBRARY=$PWD/libqcheckmutator.so afl-fuzz -i seeds ...
 */
#ifndef QCHECK_MUTATOR_H
#define QCHECK_MUTATOR_H

#include <stddef.h>
#include <stdint.h>

/* Changes the image of size bytes at data in place; it has room for max_size bytes.
 * Gives the new size. What is no qcow2 image becomes one. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

/* AFL++'s interface. */
void *afl_custom_init(void *afl, unsigned int seed);
size_t afl_custom_fuzz(void *data, uint8_t *buf, size_t buf_size, uint8_t **out_buf, uint8_t *add_buf, size_t add_buf_size, size_t max_size);
void afl_custom_deinit(void *data);

#endif
