/*
 * qbase/hist.h: log-linear histogram of durations with fixed memory.
 *
 * Values up to 2^40 ns (18 minutes) with a relative error below 1 %, larger ones counted in the
 * last bucket. After HdrHistogram's layout: 128 linear buckets for each power of two.
 *
 * Thread:   one writer.
 * Memory:   embedded; about 36 KiB.
 */
#ifndef QBASE_HIST_H
#define QBASE_HIST_H

#include <stdint.h>

enum {
    Q_HIST_LINEAR_BITS = 7,
    Q_HIST_VALUE_BITS = 40,
    Q_HIST_BUCKETS = (Q_HIST_VALUE_BITS - Q_HIST_LINEAR_BITS + 1) << Q_HIST_LINEAR_BITS,
};

struct q_hist {
    uint64_t count;
    uint64_t min;
    uint64_t max;
    uint64_t sum;
    uint64_t buckets[Q_HIST_BUCKETS];
};

void q_hist_init(struct q_hist *hist);
void q_hist_record(struct q_hist *hist, uint64_t value, uint64_t times);
void q_hist_merge(struct q_hist *to, const struct q_hist *from);
/* The least value that at least `quantile` (0…1) of all records do not exceed; 0 when empty. */
uint64_t q_hist_quantile(const struct q_hist *hist, double quantile);

#endif /* QBASE_HIST_H */
