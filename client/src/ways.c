/*
 * ways.c: to which broker group a message goes.
 *
 * Order keys: the low ten bits of the key's hash, as the envelope has it, are its slot; the route says
 * at which broker group each slot is at home. That never changes, so a key's messages are all in one
 * place, and it waits when that is away.
 *
 * All others: round robin over the broker groups that take messages, by batches. One that fails is
 * left out while its circuit breaker is open.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbatch/hash.h>

#include "producer.h"

/* The slots of order keys below `until`, as far as the ones before leave them. */
struct home {
    uint32_t until;
    uint32_t way;
};

struct ways {
    uint32_t count;
    uint32_t home_count;
    uint32_t turn;      /* of the way that was chosen last */
    struct home *homes; /* behind the ways */
    struct way ways[];
};

static enum q_err add_way(struct ways *ways, struct qmq_producer *producer, struct broker *broker);
static void take_over(struct ways *ways, const struct ways *before);
static struct way *find_way(struct ways *ways, const struct lane *lane);
static struct way *home_of(struct ways *ways, struct q_bytes order_key);
static uint32_t slot_of(struct q_bytes order_key);
static bool is_usable(const struct way *way);

enum q_err
ways_new(
    struct qmq_producer *producer,
    const struct route *route,
    struct ways *before,
    struct ways **ret_ways)
{
    uint32_t count_max = route->count + route->home_count;
    size_t size = sizeof(struct ways) + count_max * sizeof(struct way);
    struct ways *ways = calloc(1, size + route->home_count * sizeof(struct home));
    if (!ways) return Q_FAIL(Q_E_NOMEM);
    ways->homes = (struct home *)&ways->ways[count_max];

    bool has_writable = false;
    enum q_err err = Q_OK;
    for (uint32_t index = 0; index < route->count && err == Q_OK; index++) {
        err = add_way(ways, producer, route->brokers[index]);
        if (err != Q_OK) break;
        bool is_taken = !producer->one_way || route->takes_one_way[index];
        ways->ways[index].is_writable = route->is_writable[index] && is_taken;
        has_writable |= ways->ways[index].is_writable;
    }
    if (err == Q_OK && producer->one_way) err = route_check_one_way(route);
    if (err == Q_OK && !has_writable)
        err = Q_FAIL(
            Q_NO_ROUTE, .what = q_text("none of %u broker groups takes messages", route->count));
    for (uint32_t index = 0; index < route->home_count && err == Q_OK; index++) {
        struct home *home = &ways->homes[ways->home_count++];
        home->until = route->homes[index].until;
        for (home->way = 0; home->way < ways->count; home->way++)
            if (ways->ways[home->way].lane->broker == route->homes[index].broker) break;
        if (home->way == ways->count) err = add_way(ways, producer, route->homes[index].broker);
    }
    if (err != Q_OK) {
        free(ways);
        return err;
    }
    if (before) take_over(ways, before);
    free(before);
    *ret_ways = ways;
    return Q_OK;
}

static enum q_err
add_way(struct ways *ways, struct qmq_producer *producer, struct broker *broker)
{
    Q_TRY(lane_get(producer, broker, &ways->ways[ways->count].lane));
    ways->count++;
    return Q_OK;
}

static void
take_over(struct ways *ways, const struct ways *before)
{
    for (uint32_t index = 0; index < before->count; index++) {
        const struct way *old = &before->ways[index];
        struct way *way = find_way(ways, old->lane);
        if (way) memcpy(way->open, old->open, sizeof(way->open));
        if (way && index == before->turn) ways->turn = (uint32_t)(way - ways->ways);
        if (way && way->is_writable) continue;
        old->lane->is_unwanted = true;
        client_wake(old->lane->producer->client);
    }
}

static struct way *
find_way(struct ways *ways, const struct lane *lane)
{
    for (uint32_t index = 0; index < ways->count; index++)
        if (ways->ways[index].lane == lane) return &ways->ways[index];
    return NULL;
}

struct way *
ways_choose(struct ways *ways, struct q_bytes order_key)
{
    if (order_key.size > 0) return home_of(ways, order_key);
    if (ways->count == 1) return &ways->ways[0];

    /* What is open is filled first: small batches cost more than an uneven turn. */
    struct way *last = &ways->ways[ways->turn];
    if (last->open[0] && is_usable(last)) return last;
    for (uint32_t step = 1; step <= ways->count; step++) {
        uint32_t index = (ways->turn + step) % ways->count;
        if (!is_usable(&ways->ways[index])) continue;
        ways->turn = index;
        return &ways->ways[index];
    }
    /* None works: it waits where it would have gone. */
    do {
        ways->turn = (ways->turn + 1) % ways->count;
    } while (!ways->ways[ways->turn].is_writable);
    return &ways->ways[ways->turn];
}

static struct way *
home_of(struct ways *ways, struct q_bytes order_key)
{
    uint32_t slot = slot_of(order_key);
    for (uint32_t index = 0; index < ways->home_count; index++)
        if (slot < ways->homes[index].until) return &ways->ways[ways->homes[index].way];
    return NULL;
}

static uint32_t
slot_of(struct q_bytes order_key)
{
    uint32_t hash = (uint32_t)qbatch_hash(order_key);
    /* 0 says in an envelope that there is no key. */
    return (hash == 0 ? 1 : hash) % ROUTE_SLOTS;
}

static bool
is_usable(const struct way *way)
{
    if (!way->is_writable) return false;
    if (!breaker_is_open(&way->lane->breaker)) return true;
    uint64_t now_ns = client_now_ns(way->lane->producer->client);
    if (now_ns < way->lane->breaker.until_ns) return false;
    return breaker_allows(&way->lane->breaker, now_ns, random_number());
}

struct way *
ways_other(struct ways *ways, const struct lane *lane)
{
    for (uint32_t step = 1; step <= ways->count; step++) {
        struct way *way = &ways->ways[(ways->turn + step) % ways->count];
        bool works = way->is_writable && !breaker_is_open(&way->lane->breaker);
        if (way->lane != lane && works) return way;
    }
    return NULL;
}

bool
ways_has(const struct ways *ways, const struct lane *lane)
{
    for (uint32_t index = 0; index < ways->count; index++)
        if (ways->ways[index].lane == lane) return ways->ways[index].is_writable;
    return false;
}

void
ways_close(struct ways *ways, const struct batch *batch)
{
    for (uint32_t index = 0; index < ways->count; index++)
        for (unsigned which = 0; which < 2; which++)
            if (ways->ways[index].open[which] == batch) ways->ways[index].open[which] = NULL;
}
