/*
 * usage.h: what a stretch of time cost: of this process, and of the whole machine, whose kernel
 * threads do part of the work.
 */
#ifndef BENCH_USAGE_H
#define BENCH_USAGE_H

#include <stdint.h>

struct usage {
    uint64_t wall_ns;
    uint64_t process_ns; /* CPU */
    uint64_t system_ns;  /* CPU of everything, in ticks of 10 ms; 0 where /proc/stat is missing */
};

struct usage usage_now(void);
struct usage usage_since(const struct usage *start);
void usage_add(struct usage *sum, const struct usage *usage);

#endif /* BENCH_USAGE_H */
