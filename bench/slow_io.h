/*
 * slow_io.h: a disk whose flushes take longer: every flush, and every write that is its own flush,
 * is complete a fixed time after the disk underneath says so. Everything else passes through.
 *
 * Thread: as the io underneath. The wrapper owns it, from _new() on.
 */
#ifndef BENCH_SLOW_IO_H
#define BENCH_SLOW_IO_H

#include <qlog/io.h>

/* 0 or -ENOMEM (then `inner` is still the caller's). */
int slow_io_new(struct qlog_io *inner, uint64_t flush_cost_ns, struct qlog_io **ret_io);

#endif /* BENCH_SLOW_IO_H */
