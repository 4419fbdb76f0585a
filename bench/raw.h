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
    RAW_DEPTH = 4, /* writes under way; the log's default */
};

struct raw_options {
    const char *path; /* made and removed */
    uint32_t frame_bytes;
    uint32_t message_bytes; /* of one copy */
    bool flushed;
    uint64_t flush_cost_ns; /* added to what the disk takes for a flush */
    uint64_t run_ns;
};

struct raw_result {
    uint64_t bytes;
    struct usage usage;
    struct q_hist latency; /* fill to acknowledged, per frame */
};

/* 0 or -errno. */
int raw_run(const struct raw_options *options, struct raw_result *ret_result);

#endif /* BENCH_RAW_H */
