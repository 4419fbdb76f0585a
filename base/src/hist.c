/*
 * hist.c: log-linear histogram.
 *
 * Values below 128 have a bucket each; each power of two above has 128 buckets, so a bucket is
 * never wider than a 128th of its values.
 */
#include <qbase/hist.h>

#include <string.h>

#include <qbase/assert.h>

enum {
    LINEAR = 1 << Q_HIST_LINEAR_BITS
};

static uint32_t bucket_of(uint64_t value);
static uint64_t bucket_last_value(uint32_t bucket);

void
q_hist_init(struct q_hist *hist)
{
    memset(hist, 0, sizeof(*hist));
}

void
q_hist_record(struct q_hist *hist, uint64_t value, uint64_t times)
{
    if (times == 0) return;
    if (hist->count == 0 || value < hist->min) hist->min = value;
    if (value > hist->max) hist->max = value;
    hist->count += times;
    hist->sum += value * times;
    hist->buckets[bucket_of(value)] += times;
}

void
q_hist_merge(struct q_hist *to, const struct q_hist *from)
{
    if (from->count == 0) return;
    if (to->count == 0 || from->min < to->min) to->min = from->min;
    if (from->max > to->max) to->max = from->max;
    to->count += from->count;
    to->sum += from->sum;
    for (uint32_t i = 0; i < Q_HIST_BUCKETS; i++)
        to->buckets[i] += from->buckets[i];
}

uint64_t
q_hist_quantile(const struct q_hist *hist, double quantile)
{
    Q_ASSERT(quantile >= 0.0);
    Q_ASSERT(quantile <= 1.0);
    if (hist->count == 0) return 0;
    if (quantile == 0.0) return hist->min;

    double wanted_exact = quantile * (double)hist->count;
    uint64_t wanted = (uint64_t)wanted_exact;
    if ((double)wanted < wanted_exact) wanted++;

    uint64_t seen = 0;
    for (uint32_t i = 0; i < Q_HIST_BUCKETS - 1; i++) {
        seen += hist->buckets[i];
        if (seen < wanted) continue;
        uint64_t last = bucket_last_value(i);
        if (last < hist->min) return hist->min;
        return last < hist->max ? last : hist->max;
    }
    return hist->max;
}

static uint32_t
bucket_of(uint64_t value)
{
    if (value < LINEAR) return (uint32_t)value;
    if (value >> Q_HIST_VALUE_BITS != 0) return Q_HIST_BUCKETS - 1;

    uint32_t power = 63u - (uint32_t)__builtin_clzll(value);
    uint32_t shift = power - Q_HIST_LINEAR_BITS;
    return (shift + 1) * LINEAR + (uint32_t)(value >> shift) - LINEAR;
}

static uint64_t
bucket_last_value(uint32_t bucket)
{
    if (bucket < LINEAR) return bucket;
    uint32_t shift = bucket / LINEAR - 1;
    uint64_t first = (uint64_t)(LINEAR + bucket % LINEAR) << shift;
    return first + (((uint64_t)1 << shift) - 1);
}
