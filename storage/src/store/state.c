/*
 * store/state.c: drop the heads of the logs without losing what they said.
 *
 *   1. what groups have in hand of messages that go becomes dead letters (expire.c)
 *   2. every subject and group whose last statement lies in what is to be dropped of the action log
 *      is stated again, at its end; so is every subject that is about to lose all its messages
 *   3. when that is durable, the superblock says where the logs begin
 *   4. segments are recycled or deleted, and their entries leave the index
 *
 * A group is stated in one append, so that one frame holds all of it or none; statement.c tells how
 * when it has too much in hand for that.
 */
#include <string.h>

#include <qbase/assert.h>

#include "planted.h"
#include "store/store.h"

/* SUBJECT records that share an append. */
enum {
    SUBJECTS_BYTES_MAX = 64 * 1024,
    RESOLVED_MAX = INT32_MAX, /* sequences from the first to the last of one range */
};

struct statement {
    struct qlog_store *store;
    struct ql_action *last; /* filled in, and not appended yet: the very last one is waited for */
};

static enum q_err state_subjects(
    struct statement *statement, uint64_t message_first, uint64_t action_first);
static void trim_begin(struct qlog_store *store, struct qlog_trim *trim);
static void trim_state(struct qlog_store *store, struct qlog_trim *trim);
static void trim_on_dropped(struct ql_home_trim *home_trim, enum q_err err);
static void trim_finish(struct qlog_store *store, enum q_err err);
static enum q_err trim_groups(struct qlog_store *store);
static enum q_err state_producers(
    struct statement *statement, uint64_t message_first, uint64_t action_first);
static bool subject_is_due(
    const struct qlog_store *store,
    const struct ql_subject *subject,
    uint64_t message_first,
    uint64_t action_first);
static bool is_stated(const struct qlog_store *store, uint64_t stated_at, uint64_t action_first);

/* `action`, and those behind it. */
static void
statement_push(struct statement *statement, struct ql_action *action)
{
    while (action != NULL) {
        struct ql_action *next = action->next;
        if (statement->last != NULL) ql_action_append(statement->last, NULL);
        statement->last = action;
        action = next;
    }
}

void
ql_trim_start(struct qlog_store *store, struct qlog_trim *trim)
{
    trim->request.next = NULL;
    struct qlog_request **end = &store->trims;
    while (*end != NULL)
        end = &(*end)->next;
    *end = &trim->request;
    if (store->trims == &trim->request) trim_begin(store, trim);
}

static void
trim_begin(struct qlog_store *store, struct qlog_trim *trim)
{
    const struct ql_log *messages = store->messages;
    /* What is copied is what goes: what rolls or is let go meanwhile waits for the next trim. */
    trim->messages_before.value = ql_log_drop_end(messages, trim->messages_before.value);
    enum q_err err = ql_env_check(&store->home->env);
    if (err == Q_OK && atomic_load_explicit(&store->stopping, memory_order_relaxed))
        err = Q_FAIL(Q_STOPPING, .what = "the store is being closed");
    bool drops = trim->messages_before.value > messages->segments.segments[0]->base;
    if (err == Q_OK && drops && ql_expiry_begin(store, trim->messages_before.value)) return;
    if (err == Q_OK)
        trim_state(store, trim);
    else
        trim_finish(store, err);
}

void
ql_trim_copied(struct qlog_store *store, enum q_err err)
{
    if (err == Q_OK)
        trim_state(store, q_container_of(store->trims, struct qlog_trim, request));
    else
        trim_finish(store, err);
}

static void
trim_state(struct qlog_store *store, struct qlog_trim *trim)
{
    uint64_t message_first = ql_log_drop_end(store->messages, trim->messages_before.value);
    uint64_t action_first = ql_log_drop_end(store->actions, trim->actions_before.value);
    /* What is stated is what goes, too. */
    trim->messages_before.value = message_first;
    trim->actions_before.value = action_first;
    struct statement statement = { .store = store };
    enum q_err err = ql_env_check(&store->home->env);
    if (err == Q_OK) err = state_subjects(&statement, message_first, action_first);
    if (err == Q_OK) err = state_producers(&statement, message_first, action_first);
    for (uint32_t i = 0; err == Q_OK && i < store->group_count; i++)
        if (store->groups[i] != NULL && !QL_PLANTED(state_dropped) &&
            !is_stated(store, store->groups[i]->stated_at, action_first))
        {
            struct ql_action *action;
            err = ql_state_group(store, store->groups[i], &action);
            if (err == Q_OK) statement_push(&statement, action);
        }
    if (statement.last == NULL) {
        ql_trim_go_on(store, trim, err);
        return;
    }
    /* What was stated in vain does no harm: readers who know better pass over it. */
    statement.last->append.flushed = true;
    ql_action_append(statement.last, err == Q_OK ? &trim->request : NULL);
    if (err != Q_OK) trim_finish(store, err);
}

void
ql_trim_go_on(struct qlog_store *store, struct qlog_trim *trim, enum q_err err)
{
    if (err != Q_OK) {
        trim_finish(store, err);
        return;
    }
    store->home_trim = (struct ql_home_trim){
        .before = {
            [QL_LOG_MESSAGE] = trim->messages_before.value,
            [QL_LOG_ACTION] = trim->actions_before.value,
        },
        .done = trim_on_dropped,
    };
    ql_home_trim_start(store->home, &store->home_trim);
}

static void
trim_on_dropped(struct ql_home_trim *home_trim, enum q_err err)
{
    struct qlog_store *store = q_container_of(home_trim, struct qlog_store, home_trim);
    ql_index_drop(&store->index, store->messages->segments.segments[0]->base);
    enum q_err trim_err = trim_groups(store);
    trim_finish(store, err == Q_OK ? trim_err : err);
}

/* The first of those that wait; the next one begins. */
static void
trim_finish(struct qlog_store *store, enum q_err err)
{
    struct qlog_request *request = store->trims;
    struct qlog_request *next = request->next;
    store->trims = next;
    ql_request_finish(request, err);
    /* Another one may have begun in between, when this was the last. */
    if (next != NULL) trim_begin(store, q_container_of(next, struct qlog_trim, request));
}

/* What groups had in hand, or pending, of messages that went. */
static enum q_err
trim_groups(struct qlog_store *store)
{
    uint64_t expired = store->counters.expired;
    enum q_err failed = Q_OK;
    for (uint32_t i = 0; i < store->group_count; i++) {
        struct ql_group *group = store->groups[i];
        if (group == NULL || !ql_group_has_some(group)) continue;
        struct ql_entry entry;
        enum q_err err = ql_index_entry(&store->index, group->subject, 0, &entry);
        if (err < Q_OK && err != Q_E_NOT_NOW) return err;
        if (err == Q_E_NOT_NOW) failed = err;
        if (err < Q_OK) continue;
        uint64_t first = err == Q_OK ? entry.first_sequence : UINT64_MAX;
        /* What it has is below its cursor, also where nothing of the subject is left. */
        uint64_t end = q_min_u64(first, group->cursor);
        for (uint64_t at = ql_group_oldest(group); at < end;) {
            uint64_t stop = q_min_u64(end, at + RESOLVED_MAX);
            struct ql_resolve_item gone = { at, stop - 1, 0 };
            /* Refused: not counted. A restart concludes the same. */
            if (ql_store_resolve(store, group, QL_VERDICT_EXPIRED, &gone, 1, NULL) != Q_OK)
                (void)ql_group_drop(group, at, stop);
            at = stop;
        }
        ql_group_stir(store, group);
    }
    expired = store->counters.expired - expired;
    if (expired > 0)
        QL_TELL(
            &store->home->env, EXPIRED, .log = store->messages->name, .bytes = expired,
            .path = store->home->env.path,
            .text = q_text(
                "%llu messages that groups had in hand were dropped without a dead letter",
                (unsigned long long)expired));
    store->trim_looks_again = failed != Q_OK;
    return Q_OK;
}

void
ql_trim_look_again(struct qlog_store *store)
{
    if (store->trim_looks_again) (void)trim_groups(store);
}

static enum q_err
state_subjects(struct statement *statement, uint64_t message_first, uint64_t action_first)
{
    struct qlog_store *store = statement->store;
    const struct ql_index *index = &store->index;
    uint32_t next = 0;
    while (next < index->count) {
        /* As many as share one append. */
        uint32_t size = 0;
        uint32_t count = 0;
        uint32_t end = next;
        for (; end < index->count && size < SUBJECTS_BYTES_MAX; end++) {
            if (!subject_is_due(store, index->subjects[end], message_first, action_first)) continue;
            struct ql_subject_record record = ql_subject_statement(index->subjects[end]);
            size += ql_subject_record_size(&record);
            count++;
        }
        if (count > 0) {
            struct ql_action *action;
            Q_TRY(ql_action_new_always(store, size, &action));
            action->record_count = count;
            uint8_t *at = action->record;
            for (uint32_t i = next; i < end; i++) {
                struct ql_subject *subject = index->subjects[i];
                if (!subject_is_due(store, subject, message_first, action_first)) continue;
                struct ql_subject_record record = ql_subject_statement(subject);
                ql_subject_record_encode(&record, at);
                at += ql_subject_record_size(&record);
                /* A lower bound of where it is going to be. */
                subject->stated_at = store->actions->tail;
                subject->stated_next = subject->next_sequence;
            }
            statement_push(statement, action);
        }
        next = end;
    }
    return Q_OK;
}

static enum q_err
state_producers(struct statement *statement, uint64_t message_first, uint64_t action_first)
{
    struct qlog_store *store = statement->store;
    for (uint32_t i = 0; i < store->producers.count; i++) {
        struct ql_producer *producer = store->producers.producers[i];
        if (producer == NULL || !ql_producer_is_due(store, producer, message_first, action_first))
            continue;
        struct ql_action *action;
        enum q_err err = ql_state_producer(store, producer, &action);
        if (err == Q_NOT_FOUND) continue;
        if (err != Q_OK) return err;
        statement_push(statement, action);
    }
    return Q_OK;
}

static bool
subject_is_due(
    const struct qlog_store *store,
    const struct ql_subject *subject,
    uint64_t message_first,
    uint64_t action_first)
{
    if (subject == NULL) return false;
    if (!is_stated(store, subject->stated_at, action_first)) return true;
    if (message_first == store->messages->segments.segments[0]->base) return false;
    /* Its last message is about to go, and with it the only trace of its next sequence. Those that
     * power loss may still take leave none. */
    if (subject->stated_next == subject->next_sequence) return false;
    const struct ql_entries *entries = &store->index.entries;
    uint64_t number = subject->last;
    const struct ql_node *last = ql_entries_get(entries, number);
    while (last != NULL && last->entry.frame >= store->messages->durable) {
        number = ql_entries_before(entries, number);
        last = ql_entries_get(entries, number);
    }
    /* Where it is in files is not looked for: one statement too many does no harm. */
    return last == NULL || last->entry.frame < message_first;
}

struct ql_subject_record
ql_subject_statement(const struct ql_subject *subject)
{
    return (struct ql_subject_record){
        .subject_id = subject->id,
        .next_sequence = subject->next_sequence,
        .mode = (uint8_t)subject->mode,
        .name = q_bytes_from(subject->name, subject->name_size),
    };
}

/* Behind the head that goes, and not by a statement of a round that may not be durable yet. */
static bool
is_stated(const struct qlog_store *store, uint64_t stated_at, uint64_t action_first)
{
    const struct ql_statements *round = &store->statements;
    if (round->state != QL_ROUND_NONE && stated_at >= round->actions_from) return false;
    return stated_at >= action_first;
}

uint64_t
ql_store_state_hash(const struct qlog_store *store)
{
    uint64_t hash = 0;
    for (uint32_t i = 0; i < store->index.count; i++) {
        const struct ql_subject *subject = store->index.subjects[i];
        if (subject == NULL) continue;
        uint64_t words[4] = {
            hash,
            subject->id,
            subject->next_sequence,
            ql_hash(subject->name, subject->name_size) + (uint64_t)subject->mode,
        };
        hash = ql_hash(words, sizeof(words));
    }
    hash += ql_producers_state_hash(&store->producers);
    for (uint32_t i = 0; i < store->group_count; i++) {
        if (store->groups[i] == NULL) continue;
        uint64_t words[2] = { hash, ql_group_state_hash(store->groups[i]) };
        hash = ql_hash(words, sizeof(words));
    }
    return hash;
}
