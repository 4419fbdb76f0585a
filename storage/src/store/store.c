#include "store/store.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

enum {
    MAILBOX_DEFAULT = 65536,
    WINDOW_MESSAGES_DEFAULT = 10000,
    CONSUMER_TIMEOUT_DEFAULT_S = 30,
    SUBJECTS_DEFAULT = 1000 * 1000,
    GROUPS_DEFAULT = 200 * 1000,
};

static void store_set_options(struct qlog_store *store, const struct qlog_store_options *options);
static enum q_err store_recover(struct qlog_store *store);
static enum q_err store_apply_messages(void *context, const struct ql_scan *scan);
static enum q_err store_apply_actions(void *context, const struct ql_scan *scan);
static void store_finish_recovery(struct qlog_store *store);
static void store_take(struct qlog_store *store);
static void store_start(struct qlog_store *store, struct qlog_request *request);
static void store_free(struct qlog_store *store);

enum q_err
qlog_store_open(
    const char *directory, const struct qlog_store_options *options, struct qlog_store **ret_store)
{
    static const struct qlog_store_options defaults = { 0 };
    static const char *const names[] = { [QL_LOG_MESSAGE] = "message", [QL_LOG_ACTION] = "action" };
    if (options == NULL) options = &defaults;
    struct qlog_store *store = calloc(1, sizeof(*store));
    if (store == NULL) return Q_FAIL(Q_E_NOMEM, .what = "store");
    store_set_options(store, options);
    enum q_err err = ql_home_open(directory, &options->log, names, 2, &store->home);
    if (err != Q_OK) {
        store_free(store);
        return err;
    }
    store->clock = store->home->env.clock;
    store->messages = &store->home->logs[QL_LOG_MESSAGE];
    store->actions = &store->home->logs[QL_LOG_ACTION];
    store->now_ns = q_clock_monotonic_ns(store->clock);
    err = store_recover(store);
    if (err == Q_OK) err = ql_home_start(store->home);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        store_free(store);
        q_fault_adopt(&fault);
        return err;
    }
    store_finish_recovery(store);
    *ret_store = store;
    return Q_OK;
}

static void
store_set_options(struct qlog_store *store, const struct qlog_store_options *options)
{
    q_mailbox_init(
        &store->mailbox, options->mailbox_max == 0 ? MAILBOX_DEFAULT : options->mailbox_max);
    q_list_init(&store->stirred);
    store->window_messages_max =
        options->window_messages_max == 0 ? WINDOW_MESSAGES_DEFAULT : options->window_messages_max;
    store->consumer_timeout_ns = options->consumer_timeout_ns == 0
                                     ? (uint64_t)CONSUMER_TIMEOUT_DEFAULT_S * Q_NS_PER_S
                                     : options->consumer_timeout_ns;
    store->groups_max = options->groups_max == 0 ? GROUPS_DEFAULT : options->groups_max;
    store->mode = options->mode == QLOG_MODE_DEFAULT ? QLOG_MODE_SYNC : options->mode;
    ql_index_init(
        &store->index, options->subjects_max == 0 ? SUBJECTS_DEFAULT : options->subjects_max);
}

/* Message log and index first: actions speak of its sequences. */
static enum q_err
store_recover(struct qlog_store *store)
{
    struct ql_recover recover;
    ql_home_recover_init(store->home, QL_LOG_MESSAGE, &recover);
    recover.context = store;
    recover.on_frame = store_apply_messages;
    Q_TRY(ql_home_recover(store->home, QL_LOG_MESSAGE, &recover));
    ql_home_recover_init(store->home, QL_LOG_ACTION, &recover);
    recover.context = store;
    recover.on_frame = store_apply_actions;
    return ql_home_recover(store->home, QL_LOG_ACTION, &recover);
}

typedef enum q_err apply_fn(
    struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record);

#define QL_APPLY_DECLARE(name, number, stem, log)                                                  \
    static enum q_err apply_##stem(                                                                \
        struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record);
QL_RECORD_LIST(QL_APPLY_DECLARE)
#undef QL_APPLY_DECLARE

static const struct {
    unsigned kind;
    const char *log;
    apply_fn *apply;
} appliers[] = {
#define QL_APPLY_ROW(name, number, stem, log) { (number), (log), apply_##stem },
    QL_RECORD_LIST(QL_APPLY_ROW)
#undef QL_APPLY_ROW
};

static enum q_err
store_apply_frame(struct qlog_store *store, const struct ql_scan *scan, const char *log)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    for (;;) {
        struct ql_record record;
        enum q_err err = ql_record_next(&walk, &record);
        if (err == Q_END) return Q_OK;
        if (err != Q_OK) return err;
        apply_fn *apply = NULL;
        for (size_t i = 0; i < sizeof(appliers) / sizeof(appliers[0]); i++) {
            bool here = strcmp(appliers[i].log, log) == 0 || strcmp(appliers[i].log, "any") == 0;
            if (here && appliers[i].kind == record.kind) apply = appliers[i].apply;
        }
        if (apply == NULL)
            err = Q_FAIL(
                Q_E_CORRUPT, .what = q_text("record kind %u in the %s log", record.kind, log));
        else
            err = apply(store, scan, &record);
        if (err != Q_OK)
            return Q_FAIL(
                err, .path = store->home->env.path, .position = (int64_t)scan->frame.position,
                .what = q_text("%s log: %s", log, q_fault_last()->what));
    }
}

static enum q_err
store_apply_messages(void *context, const struct ql_scan *scan)
{
    return store_apply_frame(context, scan, "message");
}

static enum q_err
store_apply_actions(void *context, const struct ql_scan *scan)
{
    return store_apply_frame(context, scan, "action");
}

static enum q_err
apply_batch(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    return ql_publish_replay(store, scan, record);
}

static enum q_err
apply_subject(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_subject_record subject;
    Q_TRY(ql_subject_record_decode(record->bytes, &subject));
    Q_TRY(ql_index_apply_subject(&store->index, &subject));
    if (scan->segments == &store->actions->segments)
        ql_index_get(&store->index, subject.subject_id)->stated_at = scan->frame.position;
    return Q_OK;
}

static enum q_err
apply_group(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_group_record group_record;
    Q_TRY(ql_group_record_decode(record->bytes, &group_record));
    /* The subject's own record may have been lost with a later part of the message log. */
    struct ql_subject_record subject = {
        .subject_id = group_record.subject_id,
        .name = group_record.subject,
    };
    if (ql_index_get(&store->index, group_record.subject_id) == NULL)
        Q_TRY(ql_index_apply_subject(&store->index, &subject));
    struct ql_group *group = ql_store_group(store, group_record.group_id);
    if (group == NULL) Q_TRY(ql_store_add_group(store, &group_record, &group));
    if (!q_bytes_equal(q_bytes_from(group->name, group->name_size), group_record.name) ||
        group->subject->id != group_record.subject_id)
        return Q_FAIL(
            Q_E_CORRUPT,
            .what = q_text("group id %u stands for two groups", group_record.group_id));
    group->stated_at = scan->frame.position;
    return Q_OK;
}

/*
 * The group of an action. NULL with Q_OK: its making lies in a dropped head; the state that was
 * logged before the head went comes later, and this action's effect is in it.
 */
static struct ql_group *
apply_find_group(
    struct qlog_store *store, const struct ql_scan *scan, uint32_t id, enum q_err *ret_err)
{
    struct ql_group *group = ql_store_group(store, id);
    *ret_err = Q_OK;
    if (group == NULL && scan->segments->segments[0]->base == 0)
        *ret_err = Q_FAIL(Q_E_CORRUPT, .what = q_text("an action of the unknown group %u", id));
    return group;
}

static enum q_err
apply_join(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_join_record join;
    Q_TRY(ql_join_record_decode(record->bytes, &join));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, join.group_id, &err);
    return group == NULL ? err : ql_group_apply_join(group, &join);
}

static enum q_err
apply_pull(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_pull_record pull;
    Q_TRY(ql_pull_record_decode(record->bytes, &pull));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, pull.group_id, &err);
    return group == NULL ? err : ql_group_apply_pull(group, &pull);
}

static enum q_err
apply_ack(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_ack_record ack;
    Q_TRY(ql_ack_record_decode(record->bytes, &ack));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, ack.group_id, &err);
    return group == NULL ? err : ql_group_apply_ack(group, &ack);
}

static enum q_err
apply_release(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_release_record release;
    Q_TRY(ql_release_record_decode(record->bytes, &release));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, release.group_id, &err);
    return group == NULL ? err : ql_group_apply_release(group, &release);
}

static enum q_err
apply_consumer(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_consumer_record consumer;
    Q_TRY(ql_consumer_record_decode(record->bytes, &consumer));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, consumer.group_id, &err);
    return group == NULL ? err : ql_group_apply_consumer(group, &consumer);
}

static enum q_err
apply_held(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_ranges_record held;
    Q_TRY(ql_ranges_record_decode(record->bytes, &held));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, held.group_id, &err);
    return group == NULL ? err : ql_group_apply_held(group, &held);
}

static enum q_err
apply_pending(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    struct ql_ranges_record pending;
    Q_TRY(ql_ranges_record_decode(record->bytes, &pending));
    enum q_err err;
    struct ql_group *group = apply_find_group(store, scan, pending.group_id, &err);
    return group == NULL ? err : ql_group_apply_pending(group, &pending);
}

static enum q_err
apply_bytes(struct qlog_store *store, const struct ql_scan *scan, const struct ql_record *record)
{
    (void)store;
    (void)scan;
    (void)record;
    return Q_FAIL(Q_E_CORRUPT, .what = "a program's own record in a store");
}

/*
 * What the logs alone don't say: actions on messages that power loss took are void; pull sequences
 * go on above anything that may have been given out; every consumer gets its full time.
 */
static void
store_finish_recovery(struct qlog_store *store)
{
    uint64_t voided = 0;
    uint64_t floor = store->home->env.generation << 40;
    for (uint32_t i = 0; i < store->group_count; i++) {
        struct ql_group *group = store->groups[i];
        if (group == NULL) continue;
        voided += ql_group_cut(group, group->subject->next_sequence);
        for (uint32_t j = 0; j < group->consumer_count; j++) {
            struct ql_consumer *consumer = group->consumers[j];
            if (consumer == NULL) continue;
            /* After a clean stop, too: the jump of an unclean start before it is in no action yet. */
            consumer->next_pull_sequence = q_max_u64(consumer->next_pull_sequence, floor);
            ql_consumer_seen(store, consumer);
        }
        ql_group_check(group);
    }
    if (voided > 0)
        QL_TELL(
            &store->home->env, VOID_ACTIONS, .log = "action", .path = store->home->env.path,
            .bytes = voided, .text = "hand-outs of messages that were lost were dropped");
}

enum q_err
qlog_store_close(struct qlog_store *store)
{
    atomic_store_explicit(&store->stopping, true, memory_order_release);
    store->now_ns = q_clock_monotonic_ns(store->clock);
    store_take(store);
    ql_pulls_end(store);
    while (store->consumer_deadlines.count > 0)
        q_heap_remove(&store->consumer_deadlines, q_heap_first(&store->consumer_deadlines));
    enum q_err err = ql_home_drain(store->home);
    struct q_fault fault = *q_fault_last();
    ql_pulls_end(store);
    enum q_err close_err = ql_home_close(store->home);
    if (err == Q_OK) {
        err = close_err;
        fault = *q_fault_last();
    }
    store->home = NULL;
    store_free(store);
    if (err != Q_OK) q_fault_adopt(&fault);
    return err;
}

static void
store_free(struct qlog_store *store)
{
    while (store->consumer_deadlines.count > 0)
        q_heap_remove(&store->consumer_deadlines, q_heap_first(&store->consumer_deadlines));
    if (store->home != NULL) (void)ql_home_close(store->home);
    for (uint32_t i = 0; i < store->group_count; i++)
        ql_group_free(store->groups[i]);
    free(store->groups);
    q_map_fini(&store->groups_by_name);
    ql_index_fini(&store->index);
    ql_actions_free(store);
    q_heap_fini(&store->pull_deadlines);
    q_heap_fini(&store->consumer_deadlines);
    q_mailbox_fini(&store->mailbox);
    free(store);
}

/* --- Turns. */

enum q_err
qlog_store_submit(struct qlog_store *store, struct qlog_request *request)
{
    if (atomic_load_explicit(&store->stopping, memory_order_acquire))
        return Q_FAIL(Q_STOPPING, .what = "the store is being closed");
    bool wake;
    enum q_err err = q_mailbox_push(&store->mailbox, &request->node, &wake);
    if (err != Q_OK) return Q_FAIL(err, .what = "too many requests wait for the store");
    if (wake) store->home->env.io->table->wake(store->home->env.io);
    return Q_OK;
}

enum q_err
qlog_store_turn(struct qlog_store *store)
{
    struct ql_home *home = store->home;
    store->now_ns = q_clock_monotonic_ns(store->clock);
    store_take(store);
    enum q_err err = ql_home_reap(home, store->now_ns);
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_finish(&home->logs[i]);
    if (err != Q_OK) {
        ql_pulls_end(store);
        return ql_env_check(&home->env);
    }
    ql_subjects_look(store);
    ql_pulls_expire(store);
    ql_consumers_expire(store);
    ql_home_write(home, store->now_ns);
    return ql_env_check(&home->env);
}

enum q_err
qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns)
{
    const struct qlog_io_table *table = store->home->env.io->table;
    uint64_t deadline = ql_home_deadline_ns(store->home);
    const struct q_heap_node *pull = q_heap_first(&store->pull_deadlines);
    const struct q_heap_node *consumer = q_heap_first(&store->consumer_deadlines);
    if (pull != NULL) deadline = q_min_u64(deadline, pull->key);
    if (consumer != NULL) deadline = q_min_u64(deadline, consumer->key);
    uint64_t now_ns = q_clock_monotonic_ns(store->clock);
    uint64_t wait_ns = deadline <= now_ns ? 0 : q_min_u64(timeout_ns, deadline - now_ns);
    if (store->look_again || !q_mailbox_sleep(&store->mailbox)) wait_ns = 0;
    int rv = table->enter(store->home->env.io, wait_ns);
    q_mailbox_awake(&store->mailbox);
    if (rv < 0)
        return Q_FAIL(
            Q_E_IO, .path = store->home->env.path, .sys = -rv, .what = "wait for the disk");
    return Q_OK;
}

enum q_err
qlog_store_run(struct qlog_store *store)
{
    while (!atomic_load_explicit(&store->stopping, memory_order_acquire)) {
        Q_TRY(qlog_store_turn(store));
        Q_TRY(qlog_store_wait(store, Q_NS_PER_S));
    }
    return Q_OK;
}

void
qlog_store_stop(struct qlog_store *store)
{
    atomic_store_explicit(&store->stopping, true, memory_order_release);
    store->home->env.io->table->wake(store->home->env.io);
}

static void
store_take(struct qlog_store *store)
{
    struct q_mailbox_node *node = q_mailbox_take(&store->mailbox);
    while (node != NULL) {
        struct qlog_request *request = q_container_of(node, struct qlog_request, node);
        node = node->next;
        store_start(store, request);
    }
}

static void
store_start(struct qlog_store *store, struct qlog_request *request)
{
    enum q_err err = ql_env_check(&store->home->env);
    if (err != Q_OK && request->kind != QLOG_CANCEL) {
        ql_request_finish(request, err);
        return;
    }
    switch (request->kind) {
    case QLOG_PUBLISH:
        ql_publish_start(store, q_container_of(request, struct qlog_publish, request));
        break;
    case QLOG_JOIN:
        ql_join_start(store, q_container_of(request, struct qlog_join, request));
        break;
    case QLOG_PULL:
        ql_pull_start(store, q_container_of(request, struct qlog_pull, request));
        break;
    case QLOG_ACK:
        ql_ack_start(store, q_container_of(request, struct qlog_ack, request));
        break;
    case QLOG_KEEP_ALIVE:
        ql_keep_alive_start(store, q_container_of(request, struct qlog_session, request));
        break;
    case QLOG_LEAVE:
        ql_leave_start(store, q_container_of(request, struct qlog_session, request));
        break;
    case QLOG_TRIM:
        ql_trim_start(store, q_container_of(request, struct qlog_trim, request));
        break;
    case QLOG_CANCEL:
        ql_pull_cancel(store, q_container_of(request, struct qlog_cancel, request));
        break;
    }
}

void
ql_request_finish(struct qlog_request *request, enum q_err err)
{
    request->err = err;
    request->done(request, err);
}

enum qlog_mode
ql_store_mode(const struct qlog_store *store, const struct ql_subject *subject)
{
    return subject->mode == QLOG_MODE_DEFAULT ? store->mode : subject->mode;
}

void
qlog_store_counters(struct qlog_store *store, struct qlog_counters *ret_counters)
{
    *ret_counters = store->counters;
    ret_counters->frames = store->home->env.frame_count;
    ret_counters->flushes = store->home->env.flush_count;
    ret_counters->bytes = store->home->env.byte_count;
    ret_counters->subjects = store->index.count;
    ret_counters->generation = store->home->env.generation;
    ret_counters->io_name = store->home->env.io->table->name;
    ret_counters->io_note = store->home->io_note;
}
