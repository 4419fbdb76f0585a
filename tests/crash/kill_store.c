/*
 * kill_store.c: what child and parent of the store's workload share.
 */
#include "kill_store.h"

const char *const subject_names[SUBJECTS] = { "left", "right" };

struct shape
shape_of(const struct history *history, uint32_t life, uint32_t number)
{
    struct random_source random = { .state = history->seed + ((uint64_t)life << 32) + number };
    struct shape shape = {
        .key = random_u64(&random),
        .batch_count = 1 + random_below(&random, BATCHES_MAX),
    };
    for (uint32_t i = 0; i < shape.batch_count; i++) {
        shape.subjects[i] = random_below(&random, SUBJECTS);
        shape.message_counts[i] = 1 + random_below(&random, MESSAGES_MAX);
    }
    return shape;
}

uint64_t
message_key(const struct shape *shape, uint32_t batch, uint32_t message)
{
    struct random_source random = { .state =
                                        shape->key + (uint64_t)batch * MESSAGES_MAX + message };
    return random_u64(&random);
}

size_t
message_size(uint64_t key)
{
    struct random_source random = { .state = key };
    uint32_t end = random_below(&random, 8) == 0 ? BODY_MAX : 200;
    return sizeof(key) + random_below(&random, end);
}

struct qlog_consumer
consumer_of(uint32_t subject, const char *group, uint64_t session)
{
    return (struct qlog_consumer){
        .subject = q_bytes_from_text(subject_names[subject]),
        .group = q_bytes_from_text(group),
        .consumer = q_bytes_from_text("c"),
        .session = session,
    };
}

enum q_err
open_store(const struct history *history, struct qlog_io *io, struct qlog_store **ret_store)
{
    struct qlog_store_options options = {
        .log = history->options,
        .window_messages_max = SEQUENCES_MAX,
        .window_bytes_max = UINT64_MAX,
    };
    options.log.io = io;
    return qlog_store_open(history->directory, &options, ret_store);
}

static bool
store_is_blank(const struct history *history)
{
    const struct ledger *ledger = history->ledger;
    return ledger->kept == 0 && !atomic_load(&ledger->acknowledged[0]);
}

const struct workload store_workload = {
    .name = "store",
    .ledger_size = sizeof(struct ledger),
    .work = store_work,
    .check = store_check,
    .is_blank = store_is_blank,
};
