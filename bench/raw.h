/*
 * raw.h: the ceiling of a log: a loop that fills frames by copies and writes them, and does nothing
 * else. Direct writes through a ring of its own to a file of pre-written blocks, flushed as the log
 * does it: each write by itself (RWF_DSYNC) up to 128 KiB, one flush per group above.
 */
#ifndef BENCH_RAW_H
#define BENCH_RAW_H

#include <stdbool.h>

#include <qbase/hist.h>

#include "usage.h"

enum {
    RAW_DEPTH = 4,       /* writes under way; the log's default */
    RAW_FRAMES_MAX = 32, /* under way, and written and waiting for a flush */
    RAW_DSYNC_BYTES_MAX = 128 * 1024,
};

struct raw_options {
    const char *path; /* made and removed */
    uint32_t frame_bytes;
    uint32_t message_bytes; /* of one copy */
    bool flushed;
    uint64_t flush_cost_ns; /* added to what the disk takes for a flush */
};

/* Sums over the calls that were given it. */
struct raw_result {
    uint64_t bytes;
    struct usage usage;
    struct q_hist latency; /* fill to acknowledged, per frame */
};

struct raw;

/* Make and write the file. 0 or -errno. `options` is kept. */
int raw_new(const struct raw_options *options, struct raw **ret_raw);
/* Write for that long, and until everything is acknowledged. 0 or -errno. */
int raw_run(struct raw *raw, uint64_t run_ns, struct raw_result *result);
void raw_free(struct raw *raw);

#endif /* BENCH_RAW_H */
