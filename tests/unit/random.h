/*
 * random.h: random numbers of a test, the same in every run.
 *
 * QMQ_TEST_SEED=N in the environment gives others.
 */
#ifndef TESTS_UNIT_RANDOM_H
#define TESTS_UNIT_RANDOM_H

#include <stdint.h>
#include <stdlib.h>

struct random_source {
    uint64_t state;
};

static inline struct random_source
random_from_seed(uint64_t seed)
{
    const char *wanted = getenv("QMQ_TEST_SEED");
    return (struct random_source){ .state = wanted ? strtoull(wanted, NULL, 10) ^ seed : seed };
}

/* splitmix64 */
static inline uint64_t
random_u64(struct random_source *source)
{
    uint64_t value = source->state += UINT64_C(0x9E3779B97F4A7C15);
    value = (value ^ value >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    value = (value ^ value >> 27) * UINT64_C(0x94D049BB133111EB);
    return value ^ value >> 31;
}

/* From 0 to `end` - 1. */
static inline uint32_t
random_below(struct random_source *source, uint32_t end)
{
    return (uint32_t)((random_u64(source) >> 32) * end >> 32);
}

#endif /* TESTS_UNIT_RANDOM_H */
