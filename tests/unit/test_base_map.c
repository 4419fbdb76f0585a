/*
 * The map from hashes to numbers.
 */
#include <criterion/criterion.h>

#include <string.h>

#include <qbase/map.h>

#include "random.h"

enum {
    KEYS = 700
};

static bool
name_equals(const void *key, uint32_t value, const void *context)
{
    const char *const *names = context;
    return strcmp(key, names[value]) == 0;
}

/* An empty map finds nothing and removes nothing. */
Test(base_map, empty)
{
    struct q_map map = { 0 };
    uint32_t value = 0;
    cr_assert_not(q_map_get(&map, 1, NULL, NULL, NULL, &value));
    cr_assert_not(q_map_remove(&map, 1, 1));
    q_map_fini(&map);
    q_map_fini(&map);
}

/* Keys with the same hash are told apart by `equal`, before and after one of them is removed. */
Test(base_map, equal_hashes)
{
    static const char *const names[] = { "orders", "invoices", "refunds" };
    struct q_map map = { 0 };
    uint32_t value = 0;
    for (uint32_t i = 0; i < 3; i++)
        cr_assert_eq(q_map_put(&map, 42, i), Q_OK);
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert(q_map_get(&map, 42, name_equals, names[i], names, &value));
        cr_assert_eq(value, i);
    }
    cr_assert_not(q_map_get(&map, 42, name_equals, "other", names, &value));
    cr_assert(q_map_remove(&map, 42, 0));
    cr_assert_not(q_map_remove(&map, 42, 0));
    cr_assert_not(q_map_get(&map, 42, name_equals, "orders", names, &value));
    cr_assert(q_map_get(&map, 42, name_equals, "refunds", names, &value));
    q_map_fini(&map);
}

/* With room reserved, nothing is allocated whatever comes and goes. */
Test(base_map, reserve_lasts)
{
    struct random_source random = random_from_seed(3);
    struct q_map map = { 0 };
    cr_assert_eq(q_map_reserve(&map, KEYS), Q_OK);
    const struct q_map_slot *slots = map.slots;
    for (uint64_t round = 0; round < 20; round++) {
        uint64_t base = random_u64(&random);
        for (uint32_t i = 0; i < KEYS; i++)
            cr_assert_eq(q_map_put(&map, base + i, i), Q_OK);
        for (uint32_t i = 0; i < KEYS; i++)
            cr_assert(q_map_remove(&map, base + i, i));
    }
    cr_assert_eq(map.slots, slots);
    cr_assert_eq(map.used, 0);
    cr_assert_eq(q_map_reserve(&map, UINT32_MAX), Q_E_NOMEM);
    cr_assert_eq(map.slots, slots);
    q_map_fini(&map);
}

static void
run_against_array(uint64_t spread)
{
    struct random_source random = random_from_seed(spread);
    struct q_map map = { 0 };
    uint32_t values[KEYS] = { 0 }; /* 0: not in the map */
    uint32_t used = 0;
    for (uint32_t step = 1; step <= 60000; step++) {
        uint32_t key = random_below(&random, KEYS);
        uint64_t hash = key * spread;
        uint32_t value = 0;
        bool found = q_map_get(&map, hash, NULL, NULL, NULL, &value);
        cr_assert_eq(found, values[key] != 0);
        if (found) {
            cr_assert_eq(value, values[key]);
            cr_assert_not(q_map_remove(&map, hash, value + 1));
            cr_assert(q_map_remove(&map, hash, value));
            values[key] = 0;
            used--;
        } else {
            cr_assert_eq(q_map_put(&map, hash, step), Q_OK);
            values[key] = step;
            used++;
        }
        cr_assert_eq(map.used, used);
    }
    q_map_fini(&map);
}

/* After any puts and removals it holds what a plain array holds: for dense hashes, for ones that
 * differ in their upper bits only, and for random ones. */
Test(base_map, random_against_array)
{
    run_against_array(1);
    run_against_array(UINT64_C(1) << 48);
    run_against_array(UINT64_C(0xD6E8FEB86659FD93));
}
