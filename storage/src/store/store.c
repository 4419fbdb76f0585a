#include "store/store.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "segment/decisions.h"

enum {
    WINDOW_MESSAGES_DEFAULT = 10000,
    WINDOW_BYTES_DEFAULT = 64 * 1024 * 1024,
    CONSUMER_TIMEOUT_DEFAULT_S = 30,
    GROUPS_DEFAULT = 200 * 1000,
    PRODUCER_KEEP_DEFAULT_H = 24,
};

static void store_set_options(struct qlog_store *store, const struct qlog_store_options *options);
static enum q_err store_set_limits(
    struct qlog_store *store, const struct qlog_store_options *options);
static void store_take(struct qlog_store *store);
static void store_refuse(struct qlog_store *store);
static void store_start(struct qlog_store *store, struct qlog_request *request);
static void store_free(struct qlog_store *store);
static void store_read_clock(struct qlog_store *store);
static void heap_empty(struct q_heap *heap);

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
    enum q_err err = ql_home_open(directory, &options->log, names, QL_STORE_LOGS, &store->home);
    if (err == Q_OK) err = store_set_limits(store, options);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        store_free(store);
        q_fault_adopt(&fault);
        return err;
    }
    store->clock = store->home->env.clock;
    store->messages = &store->home->logs[QL_LOG_MESSAGE];
    store->actions = &store->home->logs[QL_LOG_ACTION];
    store->actions->frame_bytes_max = QL_ACTION_FRAME_MAX;
    store->actions->spare_first = true;
    /* Who can't acknowledge can't make room. */
    store->messages->yields_to = store->actions;
    store->messages->yields_files = QL_ACTION_FILES;
    store_read_clock(store);
    ql_index_attach(&store->index, store->messages, store->actions, store->home->io_owned);
    ql_fetch_init(store, options->scrub_bytes_per_s);
    err = ql_store_recover(store);
    if (err == Q_OK) err = ql_home_start(store->home);
    if (err == Q_OK) err = ql_store_finish_recovery(store);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        store_free(store);
        q_fault_adopt(&fault);
        return err;
    }
    ql_decisions_write(&store->home->env);
    *ret_store = store;
    return Q_OK;
}

static void
store_set_options(struct qlog_store *store, const struct qlog_store_options *options)
{
    q_list_init(&store->stirred);
    q_list_init(&store->dying);
    store->window_messages_max =
        options->window_messages_max == 0 ? WINDOW_MESSAGES_DEFAULT : options->window_messages_max;
    store->window_bytes_max =
        options->window_bytes_max == 0 ? WINDOW_BYTES_DEFAULT : options->window_bytes_max;
    store->consumer_timeout_ns = options->consumer_timeout_ns == 0
                                     ? (uint64_t)CONSUMER_TIMEOUT_DEFAULT_S * Q_NS_PER_S
                                     : options->consumer_timeout_ns;
    store->groups_max = options->groups_max == 0 ? GROUPS_DEFAULT : options->groups_max;
    store->mode = options->mode == QLOG_MODE_DEFAULT ? QLOG_MODE_SYNC : options->mode;
    ql_producers_init(
        &store->producers, UINT32_MAX,
        options->producer_keep_ms == 0 ? PRODUCER_KEEP_DEFAULT_H * 3600ull * Q_MS_PER_S
                                       : options->producer_keep_ms);
    ql_retention_init(&store->retention, options);
    ql_index_init(&store->index);
}

/* Limits of memory: some follow from what the directory says. */
static enum q_err
store_set_limits(struct qlog_store *store, const struct qlog_store_options *options)
{
    Q_TRY(ql_memory_plan(options, &store->home->env, &store->memory));
    q_mailbox_init(&store->mailbox, store->memory.mailbox_max);
    store->producers.max = store->memory.producers_max;
    store->index.subjects_max = store->memory.subjects_max;
    store->index.entries_max = store->memory.index_entries_max;
    store->room.max = store->memory.group_bytes;
    return Q_OK;
}

enum q_err
qlog_store_close(struct qlog_store *store)
{
    atomic_store_explicit(&store->stopping, true, memory_order_release);
    store_read_clock(store);
    store_take(store);
    ql_pulls_end(store);
    ql_once_end(store);
    ql_expiry_end(store);
    enum q_err err = ql_home_drain(store->home);
    struct q_fault fault = *q_fault_last();
    ql_pulls_end(store);
    /* Pushed by a thread that had looked at `stopping` just before it was set. */
    store_refuse(store);
    ql_fetch_fini(store);
    ql_index_detach(&store->index);
    store->home->super.sessions = store->session_count;
    store->home->super.pulls =
        (uint32_t)(q_align_up(store->forgotten_pulls, QL_PULLS_UNIT) / QL_PULLS_UNIT);
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
    heap_empty(&store->consumer_deadlines);
    heap_empty(&store->consumer_timeouts);
    heap_empty(&store->group_deadlines);
    ql_fetch_fini(store);
    ql_index_detach(&store->index);
    if (store->home != NULL) (void)ql_home_close(store->home);
    for (uint32_t i = 0; i < store->group_count; i++)
        ql_group_free(store->groups[i]);
    free(store->groups);
    free(store->plan_runs);
    free(store->plan_passes);
    free(store->ack_ranges);
    free(store->ack_has);
    ql_keys_fini(&store->plan_notes);
    ql_dead_fini(&store->dead);
    q_map_fini(&store->groups_by_name);
    ql_index_fini(&store->index);
    ql_producers_fini(&store->producers);
    ql_actions_free(store);
    q_heap_fini(&store->pull_deadlines);
    q_map_fini(&store->parked);
    q_heap_fini(&store->consumer_deadlines);
    q_heap_fini(&store->consumer_timeouts);
    q_heap_fini(&store->group_deadlines);
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
    store_read_clock(store);
    ql_reader_turn(&store->reader, store->now_ns);
    store_take(store);
    enum q_err err = ql_home_reap(home, store->now_ns);
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_finish(&home->logs[i]);
    if (err != Q_OK) {
        ql_pulls_end(store);
        ql_once_end(store);
        ql_expiry_end(store);
        return ql_env_check(&home->env);
    }
    if (store->counters.parked > 0) ql_reader_expect(&store->reader);
    ql_subjects_look(store);
    ql_pulls_expire(store);
    ql_consumers_expire(store);
    ql_once_expire(store);
    ql_timeouts_expire(store);
    ql_groups_expire(store);
    ql_groups_room(store);
    ql_dead_turn(store);
    ql_expiry_turn(store);
    ql_statements_turn(store);
    ql_producers_turn(store);
    ql_index_cut(&store->index);
    ql_retention_step(store);
    ql_home_write(home, store->now_ns);
    ql_reader_submit(&store->reader);
    ql_scrub_step(&store->scrub, store->now_ns, store->reader.under_way > 0);
    if (ql_index_make(&store->index, store->now_ns)) {
        store->look_again = true;
        ql_trim_look_again(store);
    }
    return ql_env_check(&home->env);
}

enum q_err
qlog_store_wait(struct qlog_store *store, uint64_t timeout_ns)
{
    const struct qlog_io_table *table = store->home->env.io->table;
    uint64_t deadline = ql_home_deadline_ns(store->home);
    deadline = q_min_u64(deadline, store->retention.next_ns);
    deadline = q_min_u64(deadline, ql_scrub_deadline_ns(&store->scrub));
    deadline = q_min_u64(deadline, ql_producers_deadline_ns(&store->producers));
    deadline = q_min_u64(deadline, ql_dead_deadline_ns(store));
    if (store->room_wanted) deadline = q_min_u64(deadline, store->room_next_ns);
    if (store->fetch_retry_ns > 0) deadline = q_min_u64(deadline, store->fetch_retry_ns);
    const struct q_heap *const heaps[] = {
        &store->pull_deadlines,
        &store->consumer_deadlines,
        &store->consumer_timeouts,
        &store->group_deadlines,
    };
    for (size_t i = 0; i < sizeof(heaps) / sizeof(heaps[0]); i++)
        if (q_heap_first(heaps[i]) != NULL)
            deadline = q_min_u64(deadline, q_heap_first(heaps[i])->key);
    uint64_t now_ns = q_clock_monotonic_ns(store->clock);
    uint64_t wait_ns = deadline <= now_ns ? 0 : q_min_u64(timeout_ns, deadline - now_ns);
    if (store->look_again || ql_statements_are_due(store) || ql_reader_is_due(&store->reader) ||
        ql_producers_are_due(store) || ql_expiry_is_due(store) || !q_mailbox_sleep(&store->mailbox))
        wait_ns = 0;
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
heap_empty(struct q_heap *heap)
{
    while (heap->count > 0)
        q_heap_remove(heap, heap->nodes[heap->count - 1]);
}

static void
store_read_clock(struct qlog_store *store)
{
    store->now_ns = q_clock_monotonic_ns(store->clock);
    store->wall_ms = q_max_u64(store->wall_ms, q_clock_wall_ms(store->clock));
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
store_refuse(struct qlog_store *store)
{
    struct q_mailbox_node *node = q_mailbox_take(&store->mailbox);
    while (node != NULL) {
        struct qlog_request *request = q_container_of(node, struct qlog_request, node);
        node = node->next;
        ql_request_finish(request, Q_FAIL(Q_STOPPING, .what = "the store is being closed"));
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
    case QLOG_NACK:
        ql_nack_start(store, q_container_of(request, struct qlog_nack, request));
        break;
    case QLOG_CONTROL:
        ql_control_start(store, q_container_of(request, struct qlog_control, request));
        break;
    case QLOG_LAG:
        ql_lag_start(store, q_container_of(request, struct qlog_lag, request));
        break;
    case QLOG_GROUPS:
        ql_groups_start(store, q_container_of(request, struct qlog_groups, request));
        break;
    case QLOG_PEEK:
        ql_peek_start(store, q_container_of(request, struct qlog_peek, pull.request));
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
    ret_counters->reads = store->reader.read_count;
    ret_counters->read_bytes = store->reader.read_bytes;
    ret_counters->scrubbed = store->scrub.bytes;
    ret_counters->producers = store->producers.count - store->producers.free_count;
    ret_counters->generation = store->home->env.generation;
    ret_counters->io_name = store->home->env.io->table->name;
    ret_counters->io_note = store->home->io_note;
}
