/*
 * store_work.c: workloads of a message store.
 */
#include <stdio.h>
#include <string.h>

#include <qbase/assert.h>

#include "store_client.h"

struct store_plan {
    const char *name;
    unsigned steps;
    unsigned publish; /* weights of what a step does */
    unsigned consume; /* join, pull, acknowledge */
    unsigned leave;
    unsigned die; /* half a minute without a sign of life */
    unsigned trim;
    unsigned async;   /* percent of the publishes */
    unsigned batches; /* of a publish, at most */
    uint32_t body;
    unsigned drain; /* percent of the steps: wait for all */
    unsigned clean; /* ... close and open again */
    unsigned kill;  /* ... kill -9 */
    unsigned power; /* ... power loss */
    bool async_store;
};

/* clang-format off */
static const struct store_plan plans[] = {
    /* name                  steps pub con lv die trim async bat body drain cl ki po */
    { "store-publish",          14, 10,  0, 0, 0,  0,    0, 1,   20,  50,  0, 0, 0, false },
    { "store-publish-async",    14, 10,  0, 0, 0,  0,  100, 1,   20,  30,  0, 0, 0, false },
    { "store-subjects",         14, 10,  0, 0, 0,  0,   50, 3,   20,  30,  0, 0, 0, false },
    { "store-rolls",            16, 10,  1, 0, 0,  0,   30, 3, 3000,  50,  0, 0, 0, false },
    { "store-consume",          20,  4,  8, 0, 0,  0,    0, 1,   20,  60,  0, 0, 0, false },
    { "store-consume-async",    20,  4,  8, 0, 0,  0,   50, 2,   20,  40,  0, 0, 0, true },
    { "store-actions-roll",     40,  2, 10, 0, 0,  0,    0, 1,   20,  90,  0, 0, 0, false },
    { "store-leave",            24,  3,  8, 3, 0,  0,    0, 1,   20,  60,  0, 0, 0, false },
    { "store-die",              24,  3,  8, 0, 2,  0,    0, 1,   20,  60,  0, 0, 0, false },
    { "store-die-leave",        30,  3,  8, 2, 2,  0,   50, 2,   20,  40,  0, 0, 0, true },
    { "store-both-roll",        30,  5,  8, 1, 1,  0,   30, 3, 2000,  60,  0, 0, 0, false },
    { "store-clean",            16,  4,  8, 1, 0,  0,   30, 2,   20,  40, 25, 0, 0, false },
    { "store-clean-async",      16,  4,  8, 1, 1,  0,   50, 2,   20,  30, 25, 0, 0, true },
    { "store-kill",             16,  4,  8, 1, 0,  0,   30, 2,   20,  40,  0, 25, 0, false },
    { "store-kill-async",       16,  4,  8, 1, 1,  0,   50, 2,   20,  30,  0, 25, 0, true },
    { "store-kill-rolls",       24,  5,  8, 1, 1,  0,   30, 3, 2000,  40,  0, 15, 0, false },
    { "store-power",            16,  4,  8, 1, 0,  0,   30, 2,   20,  40,  0, 0, 25, false },
    { "store-power-async",      16,  4,  8, 1, 1,  0,   50, 2,   20,  30,  0, 0, 25, true },
    { "store-power-rolls",      24,  5,  8, 1, 1,  0,   30, 3, 2000,  40,  0, 0, 15, false },
    { "store-trim",             40,  6,  8, 1, 0,  3,    0, 3, 2000,  80,  0, 0, 0, false },
    { "store-trim-async",       40,  6,  8, 1, 1,  3,   50, 3, 2000,  50,  0, 0, 0, true },
    { "store-trim-reopen",      40,  6,  8, 1, 1,  3,   30, 3, 2000,  60,  5, 5, 5, false },
    { "store-everything",       30,  6,  8, 1, 1,  1,   40, 3, 1000,  40,  5, 6, 6, true },
};
/* clang-format on */

static const struct work_kind store_kind;

struct work
store_work(unsigned number)
{
    if (number >= sizeof(plans) / sizeof(plans[0])) return (struct work){ 0 };
    return (struct work){ plans[number].name, &store_kind, &plans[number] };
}

static struct qlog_store_options
plan_options(const struct store_plan *plan)
{
    return (struct qlog_store_options){
        .log = { .segment_bytes = 64 * 1024, .frame_bytes_max = 32 * 1024 },
        .mode = plan->async_store ? QLOG_MODE_ASYNC : QLOG_MODE_SYNC,
    };
}

static bool
chance(struct store_client *client, unsigned percent)
{
    return random_below(&client->random, 100) < percent;
}

static void
step_consume(struct store_client *client)
{
    struct client_consumer *consumer =
        &client->consumers[random_below(&client->random, CLIENT_CONSUMERS)];
    if (consumer->busy) return;
    if (consumer->session == 0) {
        client_join(client, consumer, chance(client, 30));
    } else if (consumer->hand_count > 0 && chance(client, 50)) {
        client_ack(client, consumer, chance(client, 50));
    } else {
        uint64_t wait_ns = chance(client, 30) ? 20 * (uint64_t)Q_NS_PER_MS : 0;
        client_pull(client, consumer, 1 + random_below(&client->random, 12), wait_ns);
    }
}

static void
step_leave(struct store_client *client)
{
    struct client_consumer *consumer =
        &client->consumers[random_below(&client->random, CLIENT_CONSUMERS)];
    if (!consumer->busy && consumer->session != 0) client_leave(client, consumer);
}

/* Consumers die after 30 s and are forgotten after 20 times that. */
static void
step_die(struct store_client *client)
{
    uint64_t seconds = chance(client, 25) ? 700 : 31;
    q_clock_manual_advance_ns(&client->clock, seconds * Q_NS_PER_S);
}

static void
step_submit(struct store_client *client, const struct store_plan *plan)
{
    unsigned at = random_below(
        &client->random, plan->publish + plan->consume + plan->leave + plan->die + plan->trim);
    if (at < plan->publish) {
        unsigned batches = 1 + random_below(&client->random, plan->batches);
        if (chance(client, 10))
            client_publish_crossed(client, batches, plan->body);
        else
            client_publish(client, batches, plan->body, chance(client, plan->async));
        if (chance(client, 30)) client_publish_again(client, chance(client, plan->async));
        return;
    }
    at -= plan->publish;
    if (at < plan->consume)
        step_consume(client);
    else if (at < plan->consume + plan->leave)
        step_leave(client);
    else if (at < plan->consume + plan->leave + plan->die)
        step_die(client);
    else
        client_trim(client);
}

static bool
step(struct store_client *client, const struct store_plan *plan)
{
    for (unsigned i = random_below(&client->random, 3) + 1; i > 0; i--)
        step_submit(client, plan);
    for (unsigned i = random_below(&client->random, 5); i > 0; i--)
        if (!client_turn(client)) return false;
    if (chance(client, plan->drain) && !client_drain(client)) return false;
    if (chance(client, 10)) q_clock_manual_advance_ns(&client->clock, 250 * (uint64_t)Q_NS_PER_MS);
    if (chance(client, plan->clean)) return client_close(client) && client_open(client);
    bool kill = chance(client, plan->kill);
    if (!kill && !chance(client, plan->power)) return true;
    client_stop(client, kill);
    return client_open(client);
}

static struct history *
store_run(const void *context, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    const struct store_plan *plan = context;
    struct store_history *history = store_history_new(&store_kind, plan);
    struct qlog_store_options options = plan_options(plan);
    struct store_client client;
    client_init(&client, history, &options, seed, disk, verdict);
    bool good = client_open(&client);
    for (unsigned i = 0; good && i < plan->steps; i++)
        good = step(&client, plan);
    if (client.store != NULL) (void)client_close(&client);
    return &history->history;
}

static struct history *
store_cut(const struct history *history, uint64_t at, bool kill)
{
    return &store_history_cut(q_container_of(history, struct store_history, history), at, kill)
                ->history;
}

/* A group that has never been there takes all that there is, in order, and is done with it. */
static bool
consume_afresh(struct store_client *client)
{
    struct client_consumer *consumer = &client->consumers[0];
    consumer->session = 0;
    consumer->tag = MODEL_NO_TAG;
    consumer->given = 0;
    (void)snprintf(
        consumer->group, sizeof(consumer->group), "fresh-%u", client->history->group_count);
    client_join(client, consumer, false);
    if (!client_drain(client)) return false;
    int group = model_find_group(client->history, consumer->subject, consumer->group);
    uint64_t next = client->history->groups[group].start;
    for (;;) {
        client_pull(client, consumer, 100, 0);
        if (!client_drain(client)) return false;
        if (consumer->hand_count == 0) break;
        for (unsigned i = 0; i < consumer->hand_count; i++) {
            const struct model_publish *publish;
            uint64_t sequence = consumer->hands[i].sequence;
            /* A gap is what power loss took behind a statement of the next sequence. */
            while (next < sequence &&
                   model_find(client->history, consumer->subject, next, &publish) == NULL)
                next++;
            if (next != sequence)
                verdict_add(
                    client->verdict, VERDICT_LOST, "a new group gets %llu where %llu is due",
                    (unsigned long long)sequence, (unsigned long long)next);
            next = sequence + consumer->hands[i].count;
        }
        client_ack(client, consumer, true);
        if (!client_drain(client)) return false;
    }
    struct ql_subject *subject;
    struct q_bytes name = q_bytes_from_text(model_subject_name(consumer->subject));
    const struct model_publish *publish;
    if (ql_index_find(&client->store->index, name, &subject) == Q_OK)
        for (; next < subject->next_sequence; next++)
            if (model_find(client->history, consumer->subject, next, &publish) != NULL)
                verdict_add(
                    client->verdict, VERDICT_LOST, "a new group never gets %llu",
                    (unsigned long long)next);
    return verdict_is_good(client->verdict);
}

static void
store_check(struct history *history, uint64_t seed, struct simdisk *disk, struct verdict *verdict)
{
    struct store_history *store_history = q_container_of(history, struct store_history, history);
    const struct store_plan *plan = store_history->plan;
    struct qlog_store_options options = plan_options(plan);
    struct store_client client;
    client_init(&client, store_history, &options, seed, disk, verdict);
    if (!client_open(&client)) return;
    /* What recovery left is recovered again: by then it is all promised, and nothing else is. */
    if (chance(&client, 50)) {
        client_stop(&client, chance(&client, 50));
        if (!client_open(&client)) return;
    }
    for (unsigned i = 0; i < 3; i++)
        client_publish_again(&client, chance(&client, 50));
    client_publish(&client, 1, plan->body, chance(&client, 50));
    for (unsigned i = random_below(&client.random, 4); i > 0; i--)
        step_submit(&client, plan);
    bool good = client_settle(&client) && consume_afresh(&client) && client_settle(&client);
    if (good) client_verify(&client);
    if (good && chance(&client, 50)) {
        (void)(client_close(&client) && client_open(&client));
        if (client.store == NULL) return;
    }
    client_stop(&client, true);
}

static void
store_free(struct history *history)
{
    store_history_free(q_container_of(history, struct store_history, history));
}

static const struct work_kind store_kind = {
    .run = store_run,
    .cut = store_cut,
    .check = store_check,
    .free = store_free,
};
