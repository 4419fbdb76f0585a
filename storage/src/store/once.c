/*
 * store/once.c: requests with a number are stored once, and in their producer's order.
 *
 * Which request is due, known or early is consume/producer.h's to say. Here it is done: what is due is
 * appended, what is early is held, and what is known gets the answer of its first sending. That is where
 * the first one is: with its frame, behind the same mark that it waits for. The index tells its sequences.
 */
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/publish.h"

static enum q_err once_go(
    struct qlog_store *store, struct qlog_publish *publish, const struct ql_request_name *name);
static void once_go_on(struct qlog_store *store, struct ql_producer *producer);
static void once_await(struct qlog_publish *publish, const struct ql_result *first);
static enum qlog_mode once_achieves(struct qlog_store *store, const struct qlog_publish *publish);
static enum q_err repeat_find(
    struct qlog_store *store,
    struct ql_subject *subject,
    const struct ql_result *first,
    uint32_t skip,
    uint64_t *ret_sequence);
static bool lies_before(const struct ql_entry *entry, const struct ql_result *first);

static struct ql_request_name
name_of(const struct qlog_publish *publish)
{
    struct ql_request_name name = {
        .sequence = publish->sequence,
        .settled = q_min_u64(publish->settled, publish->sequence),
        .digest = publish->digest,
        .batch_count = publish->batch_count,
        .again = publish->again,
    };
    memcpy(name.producer, publish->producer, sizeof(name.producer));
    return name;
}

static struct qlog_publish *
publish_of_waiting(struct ql_waiting *waiting)
{
    return ql_publish_of(q_container_of(waiting, struct ql_publish_state, waiting));
}

enum q_err
ql_once_start(struct qlog_store *store, struct qlog_publish *publish)
{
    struct ql_publish_state *state = ql_publish_state(publish);
    struct ql_request_name name = name_of(publish);
    struct ql_producer *producer;
    struct ql_result result;
    enum ql_request_verdict verdict;
    uint64_t now_ms = q_clock_wall_ms(store->clock);
    Q_TRY(ql_producers_judge(&store->producers, &name, now_ms, &verdict, &producer, &result));
    if (verdict == QL_REQUEST_EARLY && QL_PLANTED(request_overtakes))
        return ql_publish_append(store, publish);
    bool known = verdict == QL_REQUEST_QUEUED || verdict == QL_REQUEST_STORED;
    if (known && QL_PLANTED(request_stored_again)) return ql_publish_append(store, publish);
    state->producer = producer;
    state->repeat = known;
    switch (verdict) {
    case QL_REQUEST_DUE:
        Q_TRY(once_go(store, publish, &name));
        break;
    case QL_REQUEST_EARLY:
        ql_producer_hold(
            &store->producers, producer, &state->waiting, name.sequence, store->now_ns);
        break;
    case QL_REQUEST_QUEUED:
        ql_producer_follow(producer, &state->waiting, name.sequence);
        break;
    case QL_REQUEST_STORED:
        once_await(publish, &result);
        break;
    }
    once_go_on(store, producer);
    return Q_OK;
}

/* Q_OK: it is in the log's queue, and its number is taken. */
static enum q_err
once_go(struct qlog_store *store, struct qlog_publish *publish, const struct ql_request_name *name)
{
    struct ql_producer *producer = ql_publish_state(publish)->producer;
    Q_TRY(ql_producer_take(producer, name));
    enum q_err err = ql_publish_append(store, publish);
    if (err != Q_OK) ql_producer_untake(producer, name->sequence);
    return err;
}

/* Those that were held for the one that came. They are judged again: each may be due, or a repeat. */
static void
once_go_on(struct qlog_store *store, struct ql_producer *producer)
{
    if (store->going_on) return;
    store->going_on = true;
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_ready(producer)) != NULL) {
        struct qlog_publish *publish = publish_of_waiting(waiting);
        enum q_err err = ql_once_start(store, publish);
        if (err != Q_OK) ql_publish_finish(publish, err);
    }
    store->going_on = false;
}

void
ql_once_expire(struct qlog_store *store)
{
    struct ql_waiting *waiting;
    while ((waiting = ql_producers_late(&store->producers, store->now_ns)) != NULL) {
        struct qlog_publish *publish = publish_of_waiting(waiting);
        const struct ql_producer *producer = ql_publish_state(publish)->producer;
        enum q_err err = Q_FAIL(
            Q_OUT_OF_SEQUENCE, .what = q_text(
                                   "request %llu was held for %d s, and %llu did not come",
                                   (unsigned long long)publish->sequence, QL_EARLY_S,
                                   (unsigned long long)producer->next));
        ql_publish_finish(publish, err);
    }
    ql_producers_expire(&store->producers, q_clock_wall_ms(store->clock));
}

void
ql_once_end(struct qlog_store *store)
{
    struct ql_waiting *waiting;
    while ((waiting = ql_producers_late(&store->producers, UINT64_MAX)) != NULL) {
        enum q_err err = ql_env_check(&store->home->env);
        if (err == Q_OK) err = Q_FAIL(Q_STOPPING, .what = "the store is being closed");
        ql_publish_finish(publish_of_waiting(waiting), err);
    }
}

void
ql_once_placed(struct qlog_publish *publish, const struct ql_result *place)
{
    struct ql_producer *producer = ql_publish_state(publish)->producer;
    ql_producer_place(producer, publish->sequence, place);
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_follower(producer, publish->sequence)) != NULL)
        once_await(publish_of_waiting(waiting), place);
}

void
ql_once_refused(struct qlog_publish *publish, enum q_err err)
{
    struct ql_producer *producer = ql_publish_state(publish)->producer;
    struct q_fault fault = *q_fault_last();
    ql_producer_untake(producer, publish->sequence);
    struct ql_waiting *waiting;
    while ((waiting = ql_producer_follower(producer, publish->sequence)) != NULL) {
        q_fault_adopt(&fault);
        ql_publish_finish(publish_of_waiting(waiting), err);
    }
    q_fault_adopt(&fault);
}

/* The answer comes when the first one has what this one asks for. */
static void
once_await(struct qlog_publish *publish, const struct ql_result *first)
{
    struct ql_publish_state *state = ql_publish_state(publish);
    uint64_t frame = QL_PLANTED(repeat_undurable) ? 0 : first->frame;
    state->first = *first;
    publish->achieved = once_achieves(state->store, publish);
    state->append.flushed = publish->achieved == QLOG_MODE_SYNC;
    ql_log_await(state->store->messages, &state->append, frame);
}

static enum qlog_mode
once_achieves(struct qlog_store *store, const struct qlog_publish *publish)
{
    enum qlog_mode achieved = publish->mode;
    for (uint32_t i = 0; publish->mode == QLOG_MODE_DEFAULT && i < publish->batch_count; i++) {
        struct ql_subject *subject;
        if (ql_index_find(&store->index, publish->subjects[i], &subject) != Q_OK) continue;
        if (ql_store_mode(store, subject) > achieved) achieved = ql_store_mode(store, subject);
    }
    return achieved;
}

/* The request is stored, whether or not the index can tell where its messages are now. */
enum q_err
ql_once_repeat(struct qlog_publish *publish)
{
    struct ql_publish_state *state = ql_publish_state(publish);
    struct qlog_store *store = state->store;
    publish->duplicate = true;
    store->counters.duplicates++;
    for (uint32_t i = 0; i < publish->batch_count; i++) {
        publish->ret_first_sequences[i] = QLOG_SEQUENCE_GONE;
        struct ql_subject *subject;
        if (ql_index_find(&store->index, publish->subjects[i], &subject) != Q_OK) continue;
        /* Of several batches of one subject, the first comes first. */
        uint32_t skip = 0;
        for (uint32_t j = 0; j < i; j++)
            skip += q_bytes_equal(publish->subjects[j], publish->subjects[i]);
        enum q_err err =
            repeat_find(store, subject, &state->first, skip, &publish->ret_first_sequences[i]);
        bool kept = state->first.frame >= store->messages->segments.segments[0]->base;
        if (err == Q_NOT_FOUND && kept && !store->damaged)
            return Q_FAIL(
                Q_UNKNOWN_PRODUCER, .path = store->home->env.path,
                .position = (int64_t)state->first.frame,
                .what = q_text(
                    "request %llu is not where it is said to be stored",
                    (unsigned long long)publish->sequence));
    }
    return Q_OK;
}

/* Entries of a subject are sorted by their places, too. Repeats are young: it is looked for from the
 * end on, in steps that double. Q_OK, Q_NOT_FOUND, failures of the index. */
static enum q_err
repeat_find(
    struct qlog_store *store,
    struct ql_subject *subject,
    const struct ql_result *first,
    uint32_t skip,
    uint64_t *ret_sequence)
{
    uint64_t end = subject->next_sequence; /* what is here or behind lies behind it */
    uint64_t begin = end;                  /* what is before this may lie before it */
    struct ql_entry entry;
    enum q_err err = Q_OK;
    for (uint64_t step = 1; begin > 0; step *= 2) {
        begin -= q_min_u64(begin, step);
        err = ql_index_entry(&store->index, subject, begin, &entry);
        if (err < Q_OK) return err;
        if (err == Q_OK && lies_before(&entry, first)) break;
        end = q_min_u64(end, begin + 1);
    }
    while (begin < end) {
        uint64_t middle = begin + (end - begin) / 2;
        err = ql_index_entry(&store->index, subject, middle, &entry);
        if (err < Q_OK) return err;
        if (err == Q_OK && lies_before(&entry, first))
            begin = ql_entry_end(&entry);
        else
            end = middle;
    }
    do {
        err = ql_index_entry(&store->index, subject, begin, &entry);
        if (err != Q_OK) return err;
        if (entry.frame != first->frame || entry.envelope_at >= first->to) return Q_NOT_FOUND;
        begin = ql_entry_end(&entry);
    } while (skip-- > 0);
    *ret_sequence = entry.first_sequence;
    return Q_OK;
}

static bool
lies_before(const struct ql_entry *entry, const struct ql_result *first)
{
    if (entry->frame != first->frame) return entry->frame < first->frame;
    return entry->envelope_at < first->from;
}
