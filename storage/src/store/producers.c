/*
 * store/producers.c: what a start has to know of producers without reading the message log.
 *
 * The batches in the message log name their requests, so the table of producers follows from it; but a
 * start reads only its end. So when a stretch of it has grown, every producer with requests in there is
 * stated, in the action log, a slice in each turn; and when that is durable, the superblock says so. A
 * start reads statements, the end of the message log, and what lies between, which index files spare it
 * otherwise.
 *
 * A statement tells only of what is durable: power loss may take the rest, and then it is not known.
 */
#include <errno.h>
#include <string.h>

#include <qbase/assert.h>

#include "log/index_scan.h"
#include "planted.h"
#include "segment/scan.h"
#include "store/store.h"

enum {
    STRETCH_BYTES_MAX = 32 * 1024 * 1024, /* of the message log */
    STRETCHES_OF_SEGMENT = 4,
    SLICE_BYTES = 64 * 1024,
    SLICE_PRODUCERS = 4096,
    QUEUE_BYTES_MAX = 256 * 1024, /* in the action log's queue: then it waits */
};

static bool round_is_due(const struct qlog_store *store);
static void round_begin(struct qlog_store *store);
static void round_slice(struct qlog_store *store);
static void round_end(struct qlog_store *store);
static enum q_err recover_frame(struct qlog_store *store, const struct ql_scan *scan);

void
ql_producers_turn(struct qlog_store *store)
{
    struct ql_producer_round *round = &store->producer_round;
    if (round->state == QL_ROUND_NONE && round_is_due(store)) round_begin(store);
    if (round->state == QL_ROUND_SAYING) round_slice(store);
    if (round->state == QL_ROUND_SAID) round_end(store);
}

bool
ql_producers_are_due(const struct qlog_store *store)
{
    return store->producer_round.state == QL_ROUND_SAYING &&
           store->actions->queued_bytes < QUEUE_BYTES_MAX && !store->producer_round.stuck;
}

static bool
round_is_due(const struct qlog_store *store)
{
    uint64_t stretch =
        q_min_u64(STRETCH_BYTES_MAX, store->messages->segment_bytes / STRETCHES_OF_SEGMENT);
    /* Many producers with few requests each: what is said is not to be more than what was. */
    stretch += 2 * store->producer_round.said_bytes;
    return store->messages->durable - store->home->super.producers >= stretch;
}

static void
round_begin(struct qlog_store *store)
{
    store->producer_round = (struct ql_producer_round){
        .state = QL_ROUND_SAYING,
        .messages_from = store->messages->durable,
        .actions_from = store->actions->tail,
    };
}

static void
round_slice(struct qlog_store *store)
{
    struct ql_producer_round *round = &store->producer_round;
    const struct ql_producers *table = &store->producers;
    uint64_t bytes = 0;
    uint32_t visits = 0;
    round->stuck = false;
    if (store->actions->queued_bytes >= QUEUE_BYTES_MAX) return;
    for (; round->next < table->count; round->next++) {
        struct ql_producer *producer = table->producers[round->next];
        if (bytes >= SLICE_BYTES || visits++ >= SLICE_PRODUCERS) return;
        if (producer == NULL || !ql_producer_has_news(producer, store->messages->durable)) continue;
        struct ql_action *action;
        enum q_err err = ql_state_producer(store, producer, &action);
        /* No room, or no memory: it is tried again in a later turn. */
        round->stuck = err != Q_OK;
        if (round->stuck) return;
        bytes += action->record_size;
        round->said_bytes += action->record_size;
        ql_action_append(action, NULL);
    }
    round->state = QL_ROUND_SAID;
}

static void
round_end(struct qlog_store *store)
{
    struct ql_producer_round *round = &store->producer_round;
    if (round->said_end == 0) {
        if (store->actions->queue.first != NULL) return;
        round->said_end = q_max_u64(store->actions->tail, 1);
    }
    if (store->actions->tail > 0 && store->actions->durable < round->said_end) return;
    store->home->super.producers = round->messages_from;
    store->home->super_news = true;
    round->state = QL_ROUND_NONE;
}

enum q_err
ql_state_producer(
    struct qlog_store *store, struct ql_producer *producer, struct ql_action **ret_action)
{
    struct ql_producer_record record;
    struct ql_producer_result results[QL_PRODUCER_RESULTS_MAX];
    uint64_t durable = store->messages->durable;
    if (!ql_producer_state(producer, durable, &record, results) || QL_PLANTED(producers_dropped))
        return Q_NOT_FOUND;
    Q_TRY(ql_action_new_always(store, ql_producer_record_size(record.result_count), ret_action));
    ql_producer_record_encode(&record, results, (*ret_action)->record);
    /* A lower bound of where it is going to be. */
    producer->stated_at = store->actions->tail;
    producer->stated_next = results[record.result_count - 1].sequence + 1;
    return Q_OK;
}

bool
ql_producer_is_due(
    const struct qlog_store *store,
    const struct ql_producer *producer,
    uint64_t message_first,
    uint64_t action_first)
{
    if (producer->stated_at != UINT64_MAX) {
        /* What a round says may not be durable yet. */
        const struct ql_producer_round *round = &store->producer_round;
        const struct ql_statements *statements = &store->statements;
        bool saying = round->state != QL_ROUND_NONE && producer->stated_at >= round->actions_from;
        saying |=
            statements->state != QL_ROUND_NONE && producer->stated_at >= statements->actions_from;
        if (producer->stated_at < action_first || saying) return true;
    }
    return message_first > store->messages->segments.segments[0]->base &&
           ql_producer_has_news(producer, message_first);
}

/* --- Recovery. */

enum q_err
ql_producers_replay(
    struct qlog_store *store, const struct qbatch *batch, const struct ql_entry *entry)
{
    struct ql_replayed *replayed = &store->replayed;
    if (batch->request_sequence == 0) return Q_OK;
    if (batch->request_index == 0) *replayed = (struct ql_replayed){ .from = entry->envelope_at };
    if (batch->request_index != replayed->index) return Q_OK;
    replayed->digest = ql_request_digest(replayed->digest, batch->envelope);
    if (++replayed->index < batch->request_count) return Q_OK;
    struct ql_result result = {
        .frame = entry->frame,
        .from = replayed->from,
        .to = entry->envelope_at + entry->envelope_size,
        .digest = replayed->digest,
        .batch_count = batch->request_count,
    };
    return ql_producers_apply(
        &store->producers, batch->producer_id, batch->request_sequence, &result,
        batch->store_time_ms);
}

enum q_err
ql_producers_apply_statement(
    struct qlog_store *store, const struct ql_producer_record *record, uint64_t position)
{
    uint64_t stated_next = 0;
    for (uint32_t i = 0; i < record->result_count; i++) {
        struct ql_producer_result stated = ql_producer_result_at(record, i);
        /* Only a disk that lied about a flush has lost it; then it is not stored. */
        if (stated.frame >= store->index.recovered_end) break;
        struct ql_result result = {
            .frame = stated.frame,
            .from = stated.from,
            .to = stated.to,
            .digest = stated.digest,
            .batch_count = stated.batch_count,
        };
        Q_TRY(ql_producers_apply(
            &store->producers, record->id, stated.sequence, &result, record->seen_ms));
        stated_next = stated.sequence + 1;
    }
    struct ql_producer *producer = ql_producers_find(&store->producers, record->id);
    if (producer == NULL) return Q_OK;
    producer->stated_at = position;
    producer->stated_next = q_max_u64(producer->stated_next, stated_next);
    return Q_OK;
}

enum q_err
ql_producers_recover(struct qlog_store *store)
{
    const struct ql_home *home = store->home;
    const struct ql_segment_set *segments = &store->messages->segments;
    if (segments->count == 0) return Q_OK;
    uint64_t from = segments->segments[0]->base;
    /* Where the action log is damaged, statements may be missing. */
    if (home->super_found && !store->damaged) from = q_max_u64(from, home->super.producers);
    uint64_t to = store->messages_read;
    if (from >= to || QL_PLANTED(producers_unread)) return Q_OK;
    struct ql_scan scan;
    ql_scan_init(&scan, &store->home->env, segments, from);
    scan.limit = to;
    scan.payloads_above = UINT64_MAX;
    enum q_err err = Q_OK;
    while (err == Q_OK) {
        enum ql_scan_state state = ql_scan_next(&scan);
        if (state == QL_SCAN_FRAME)
            err = recover_frame(store, &scan);
        else if (state == QL_SCAN_READ)
            err = ql_scan_fail(&scan, store->messages->name);
        else if (scan.position >= to || !ql_scan_search(&scan, to))
            break;
        if (err == Q_OK && scan.unread != UINT64_MAX) {
            scan.position = scan.unread;
            scan.error = EIO;
            err = ql_scan_fail(&scan, store->messages->name);
        }
    }
    ql_scan_fini(&scan);
    return err;
}

static enum q_err
recover_frame(struct qlog_store *store, const struct ql_scan *scan)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct qbatch batch;
        struct ql_entry entry;
        if (record.kind != QL_RECORD_BATCH) continue;
        Q_TRY(ql_entry_of_record(scan, &record, &batch, &entry));
        Q_TRY(ql_producers_replay(store, &batch, &entry));
    }
    return Q_OK;
}
