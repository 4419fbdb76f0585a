/*
 * store/statements.c: what a start would have to read from far back is said again.
 *
 * Rounds go over all subjects and groups, a slice in each turn. Said again is
 *
 *   - what was said last too far back in the action log
 *   - a subject with more messages than its last statement tells
 *
 * When all of a round is durable, a start may begin to read the action log where the oldest of the
 * last statements is; and of the message log only what lies behind the place that was durable when
 * the round began tells sequences that no statement tells. The superblock names both positions. A
 * subject or group is stated by one append, and states change in between as they like: what comes
 * after its statement is read after it.
 *
 * A round begins after a stretch of either log, and a minute after something was written.
 */
#include <qbase/assert.h>

#include "planted.h"
#include "store/store.h"

enum {
    ACTION_BYTES_MAX = 16 * 1024 * 1024, /* of the action log between rounds */
    MESSAGE_BYTES_MAX = 256 * 1024 * 1024,
    SLICE_BYTES = 64 * 1024,
    SLICE_OBJECTS = 4096,
    QUEUE_BYTES_MAX = 256 * 1024, /* in the action log's queue: then it waits */
};
#define PERIOD_NS (60 * (uint64_t)Q_NS_PER_S)

static bool round_is_due(const struct qlog_store *store);
static void round_begin(struct qlog_store *store);
static void round_slice(struct qlog_store *store);
static enum q_err slice_subjects(struct qlog_store *store, uint32_t *size, uint32_t *visits);
static enum q_err slice_producers(struct qlog_store *store, uint32_t *size, uint32_t *visits);
static enum q_err slice_groups(struct qlog_store *store, uint32_t *size, uint32_t *visits);
static void round_end(struct qlog_store *store);

void
ql_statements_turn(struct qlog_store *store)
{
    struct ql_statements *round = &store->statements;
    if (round->state == QL_ROUND_NONE && round_is_due(store)) round_begin(store);
    if (round->state == QL_ROUND_SAYING) round_slice(store);
    if (round->state == QL_ROUND_SAID) round_end(store);
}

bool
ql_statements_are_due(const struct qlog_store *store)
{
    return store->statements.state == QL_ROUND_SAYING &&
           store->actions->queued_bytes < QUEUE_BYTES_MAX && !store->statements.stuck;
}

static bool
round_is_due(const struct qlog_store *store)
{
    const struct ql_statements *round = &store->statements;
    uint64_t actions = store->actions->tail - round->actions_end;
    uint64_t messages = store->messages->tail - round->messages_from;
    uint64_t action_bytes = q_min_u64(ACTION_BYTES_MAX, store->actions->segment_bytes / 4);
    uint64_t message_bytes = q_min_u64(MESSAGE_BYTES_MAX, store->messages->segment_bytes);
    /* What a round says must not be what makes the next one due. */
    if (actions >= action_bytes + 2 * round->said_bytes) return true;
    if (messages >= message_bytes) return true;
    return actions + messages > 0 && store->now_ns - round->ended_ns >= PERIOD_NS;
}

static void
round_begin(struct qlog_store *store)
{
    struct ql_statements *round = &store->statements;
    uint64_t distance = q_min_u64(ACTION_BYTES_MAX, store->actions->segment_bytes / 4);
    uint64_t tail = store->actions->tail;
    round->state = QL_ROUND_SAYING;
    round->next_subject = 0;
    round->next_producer = 0;
    round->next_group = 0;
    round->messages_from = store->messages->durable;
    round->actions_from = tail;
    round->keep_from = tail > distance ? tail - distance : 0;
    round->oldest = tail;
    round->said_bytes = 0;
}

static void
round_slice(struct qlog_store *store)
{
    struct ql_statements *round = &store->statements;
    uint32_t size = 0;
    uint32_t visits = 0;
    round->stuck = false;
    if (store->actions->queued_bytes >= QUEUE_BYTES_MAX) return;
    enum q_err err = slice_subjects(store, &size, &visits);
    if (err == Q_OK) err = slice_producers(store, &size, &visits);
    if (err == Q_OK) err = slice_groups(store, &size, &visits);
    round->said_bytes += size;
    if (err == Q_END) {
        round->state = QL_ROUND_SAID;
        round->said_end = 0;
    } else if (err != Q_OK) {
        /* No room, or no memory: the slice is tried again in a later turn. */
        round->stuck = true;
    }
}

/* Q_OK. Every subject that is passed is said, or need not be. */
static enum q_err
slice_subjects(struct qlog_store *store, uint32_t *size, uint32_t *visits)
{
    struct ql_statements *round = &store->statements;
    const struct ql_index *index = &store->index;
    while (round->next_subject < index->count && *size < SLICE_BYTES && *visits < SLICE_OBJECTS) {
        struct ql_subject *subject = index->subjects[round->next_subject];
        ++*visits;
        if (subject == NULL) {
            round->next_subject++;
            continue;
        }
        /* What power loss may take leaves no gap. */
        uint64_t next = ql_index_visible_end(index, subject, store->messages->durable);
        next = q_max_u64(next, subject->stated_next);
        if (subject->stated_at >= round->keep_from && subject->stated_next == next) {
            round->oldest = q_min_u64(round->oldest, subject->stated_at);
            round->next_subject++;
            continue;
        }
        struct ql_subject_record record = ql_subject_statement(subject);
        record.next_sequence = next;
        struct ql_action *action;
        Q_TRY(ql_action_new(store, ql_subject_record_size(&record), &action));
        ql_subject_record_encode(&record, action->record);
        action->subject = subject;
        *size += action->record_size;
        if (!QL_PLANTED(statement_skipped))
            ql_action_append(action, NULL);
        else
            ql_action_drop(action);
        subject->stated_at = store->actions->tail;
        subject->stated_next = next;
        round->next_subject++;
    }
    return Q_OK;
}

/* What was said of producers. What was not yet is not for a round of these (store/producers.c). */
static enum q_err
slice_producers(struct qlog_store *store, uint32_t *size, uint32_t *visits)
{
    struct ql_statements *round = &store->statements;
    const struct ql_producers *producers = &store->producers;
    if (round->next_subject < store->index.count) return Q_OK;
    for (; round->next_producer < producers->count; round->next_producer++) {
        if (*size >= SLICE_BYTES || *visits >= SLICE_OBJECTS) return Q_OK;
        struct ql_producer *producer = producers->producers[round->next_producer];
        ++*visits;
        if (producer == NULL || producer->stated_at == UINT64_MAX) continue;
        if (producer->stated_at >= round->keep_from) {
            round->oldest = q_min_u64(round->oldest, producer->stated_at);
            continue;
        }
        struct ql_action *action;
        enum q_err err = ql_state_producer(store, producer, &action);
        if (err == Q_NOT_FOUND) continue;
        if (err != Q_OK) return err;
        *size += action->record_size;
        ql_action_append(action, NULL);
    }
    return Q_OK;
}

/* Q_OK, or Q_END behind the last one. */
static enum q_err
slice_groups(struct qlog_store *store, uint32_t *size, uint32_t *visits)
{
    struct ql_statements *round = &store->statements;
    if (round->next_subject < store->index.count) return Q_OK;
    if (round->next_producer < store->producers.count) return Q_OK;
    while (round->next_group < store->group_count) {
        if (*size >= SLICE_BYTES || *visits >= SLICE_OBJECTS) return Q_OK;
        struct ql_group *group = store->groups[round->next_group];
        ++*visits;
        if (group != NULL && group->stated_at >= round->keep_from) {
            round->oldest = q_min_u64(round->oldest, group->stated_at);
        } else if (group != NULL) {
            struct ql_action *action;
            Q_TRY(ql_state_group(store, group, &action));
            for (struct ql_action *next; action != NULL; action = next) {
                next = action->next;
                *size += action->record_size;
                ql_action_append(action, NULL);
            }
            group->stated_at = store->actions->tail;
        }
        round->next_group++;
    }
    return Q_END;
}

/* All is said. Once it is durable, the superblock may say so. */
static void
round_end(struct qlog_store *store)
{
    struct ql_statements *round = &store->statements;
    if (round->said_end == 0) {
        if (store->actions->queue.first != NULL && !QL_PLANTED(replay_early)) return;
        round->said_end = q_max_u64(store->actions->tail, 1);
    }
    if (store->actions->durable < round->said_end && !QL_PLANTED(replay_early)) return;
    struct ql_home *home = store->home;
    home->super.logs[QL_LOG_MESSAGE].replay = round->messages_from;
    home->super.logs[QL_LOG_ACTION].replay = round->oldest;
    home->super_news = true;
    round->state = QL_ROUND_NONE;
    round->actions_end = round->said_end;
    round->ended_ns = store->now_ns;
}
