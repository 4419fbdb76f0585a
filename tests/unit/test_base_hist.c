/*
 * The histogram of durations.
 */
#include <criterion/criterion.h>

#include <stdlib.h>

#include <qbase/hist.h>

#include "random.h"

enum {
    VALUES = 20000
};

static int
compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* Without records everything is 0. */
Test(base_hist, empty)
{
    static struct q_hist hist;
    q_hist_init(&hist);
    cr_assert_eq(q_hist_quantile(&hist, 0.5), 0);
    cr_assert_eq(hist.count, 0);
}

/* Small values are exact, and the ends are the least and the greatest record. */
Test(base_hist, exact)
{
    static struct q_hist hist;
    q_hist_init(&hist);
    for (uint64_t value = 1; value <= 100; value++)
        q_hist_record(&hist, value, 1);
    cr_assert_eq(q_hist_quantile(&hist, 0), 1);
    cr_assert_eq(q_hist_quantile(&hist, 0.5), 50);
    cr_assert_eq(q_hist_quantile(&hist, 0.99), 99);
    cr_assert_eq(q_hist_quantile(&hist, 1), 100);
    cr_assert_eq(hist.sum, 5050);
    q_hist_record(&hist, 7, 0);
    cr_assert_eq(hist.count, 100);
}

/* A quantile is never above the greatest record, though its bucket goes on. */
Test(base_hist, within_records)
{
    static struct q_hist hist;
    q_hist_init(&hist);
    q_hist_record(&hist, 1000, 1);
    cr_assert_eq(q_hist_quantile(&hist, 0.5), 1000);
    cr_assert_eq(q_hist_quantile(&hist, 1), 1000);
}

/* Values beyond the last bucket are counted in it; the maximum stays exact. */
Test(base_hist, beyond)
{
    static struct q_hist hist;
    q_hist_init(&hist);
    q_hist_record(&hist, 1, 1);
    q_hist_record(&hist, UINT64_C(1) << 50, 1);
    q_hist_record(&hist, UINT64_C(1) << Q_HIST_VALUE_BITS, 1);
    cr_assert_eq(q_hist_quantile(&hist, 0.3), 1);
    cr_assert_eq(q_hist_quantile(&hist, 0.9), UINT64_C(1) << 50);
    cr_assert_eq(hist.max, UINT64_C(1) << 50);
}

/* Each quantile lies at or above the true one, by less than 1 %, and merging equals recording. */
Test(base_hist, random_against_sorting)
{
    static struct q_hist hist;
    static struct q_hist parts[2];
    static uint64_t values[VALUES];
    struct random_source random = random_from_seed(2);
    q_hist_init(&hist);
    q_hist_init(&parts[0]);
    q_hist_init(&parts[1]);
    for (int i = 0; i < VALUES; i++) {
        values[i] = random_u64(&random) >> (64 - random_below(&random, Q_HIST_VALUE_BITS) - 1);
        q_hist_record(&hist, values[i], 1);
        q_hist_record(&parts[i % 2], values[i], 1);
    }
    qsort(values, VALUES, sizeof(values[0]), compare);

    q_hist_merge(&parts[0], &parts[1]);
    cr_assert_arr_eq(&parts[0], &hist, sizeof(hist));
    for (int percent = 1; percent <= 100; percent++) {
        uint64_t expected = values[VALUES / 100 * percent - 1];
        uint64_t got = q_hist_quantile(&hist, percent / 100.0);
        cr_assert_geq(got, expected);
        cr_assert_leq((double)got, (double)expected * 1.01);
    }
}
