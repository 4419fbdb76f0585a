/*
 * readers_raw.h: how fast the disk gives files from their beginning to their end: direct reads of
 * 1 MiB, four under way, into the same memory again and again; and files that are in no cache.
 */
#ifndef BENCH_READERS_RAW_H
#define BENCH_READERS_RAW_H

#include <stdbool.h>
#include <stdint.h>

/* Bytes per second of the newest segments of the message log, at least `bytes` if there are so many;
 * 0: it can't be told. `hashed`: each MiB is hashed where it lies. */
double readers_raw(const char *directory, uint64_t bytes, bool hashed);
/* Drop what the kernel has of a store's files. */
void readers_forget(const char *directory);

#endif /* BENCH_READERS_RAW_H */
