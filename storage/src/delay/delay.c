#include "delay/delay.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "segment/decisions.h"

enum {
    MAILBOX_DEFAULT = 65536,
    BATCHES_DEFAULT = 1000 * 1000 * 1000,
    DEPTH_DEFAULT = 4,
    SEND_MESSAGES_DEFAULT = 512,
    SEND_BYTES_DEFAULT = 256 * 1024,
    ROUND_BYTES_DEFAULT = 8 * 1024 * 1024,
    SEGMENT_BYTES_DEFAULT = 64 * 1024 * 1024,
    DISPATCH_FILES = 3, /* that the dispatch log may come to while the delay log asks for space */
    CLOCK_LOOK_NS = 500 * Q_NS_PER_MS, /* the wall clock is looked at that often */
};
#define AHEAD_DEFAULT_MS (2 * 366 * UINT64_C(24) * 3600 * 1000)

static void delay_set_options(struct qlog_delay *delay, const struct qlog_delay_options *options);
static void delay_take(struct qlog_delay *delay);
static void delay_take_sent(struct qlog_delay *delay);
static void delay_refuse(struct qlog_delay *delay);
static void delay_start(struct qlog_delay *delay, struct qlog_delay_request *request);
static void delay_free(struct qlog_delay *delay);

enum q_err
qlog_delay_open(
    const char *directory, const struct qlog_delay_options *options, struct qlog_delay **ret_delay)
{
    static const char *const names[] = { [QL_LOG_DELAY] = "delay", [QL_LOG_DISPATCH] = "dispatch" };
    struct qlog_delay *delay = calloc(1, sizeof(*delay));
    if (delay == NULL) return Q_FAIL(Q_E_NOMEM, .what = "delay store");
    delay_set_options(delay, options);
    struct qlog_options log = options->log;
    if (log.segment_bytes == 0) log.segment_bytes = SEGMENT_BYTES_DEFAULT;
    enum q_err err = ql_home_open(directory, &log, names, 2, &delay->home);
    if (err != Q_OK) {
        delay_free(delay);
        return err;
    }
    delay->clock = delay->home->env.clock;
    delay->log = &delay->home->logs[QL_LOG_DELAY];
    delay->dispatch = &delay->home->logs[QL_LOG_DISPATCH];
    delay->dispatch->spare_first = true;
    /* What can't be dispatched can't make room. */
    delay->log->yields_to = delay->dispatch;
    delay->log->yields_files = DISPATCH_FILES;
    delay->log->kept_files = QL_CARRY_FILES;
    delay->now_ns = q_clock_monotonic_ns(delay->clock);
    ql_delay_clock_init(&delay->eff, delay->now_ns, q_clock_wall_ms(delay->clock));
    /* Over an io of its user's all is done on this thread, so that a run can be repeated. */
    ql_filing_init(delay, options->log.io == NULL);
    ql_intake_init(delay);
    err = ql_delay_recover(delay);
    if (err == Q_OK) err = ql_home_start(delay->home);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        delay_free(delay);
        q_fault_adopt(&fault);
        return err;
    }
    ql_decisions_write(&delay->home->env);
    *ret_delay = delay;
    return Q_OK;
}

static void
delay_set_options(struct qlog_delay *delay, const struct qlog_delay_options *options)
{
    delay->options = *options;
    struct qlog_delay_options *set = &delay->options;
    q_mailbox_init(
        &delay->mailbox, options->mailbox_max == 0 ? MAILBOX_DEFAULT : options->mailbox_max);
    /* What was handed over comes back, however much else waits. */
    q_mailbox_init(&delay->sent, UINT32_MAX);
    q_list_init(&delay->free_opens);
    delay->refused_last = &delay->refused_notes;
    delay->skipped_from = UINT64_MAX;
    if (set->batches_max == 0) set->batches_max = BATCHES_DEFAULT;
    if (set->ahead_max_ms == 0) set->ahead_max_ms = AHEAD_DEFAULT_MS;
    if (set->depth_max == 0) set->depth_max = DEPTH_DEFAULT;
    if (set->send_messages_max == 0) set->send_messages_max = SEND_MESSAGES_DEFAULT;
    if (set->send_bytes_max == 0) set->send_bytes_max = SEND_BYTES_DEFAULT;
    if (set->round_bytes == 0) set->round_bytes = ROUND_BYTES_DEFAULT;
    if (set->mode == QLOG_MODE_DEFAULT) set->mode = QLOG_MODE_SYNC;
}

enum q_err
qlog_delay_close(struct qlog_delay *delay)
{
    atomic_store_explicit(&delay->stopping, true, memory_order_release);
    delay->now_ns = q_clock_monotonic_ns(delay->clock);
    delay_take_sent(delay);
    delay_take(delay);
    ql_intake_end(delay);
    enum q_err err = ql_home_drain(delay->home);
    struct q_fault fault = *q_fault_last();
    /* Pushed by a thread that had looked at `stopping` just before it was set. */
    delay_refuse(delay);
    ql_filing_stop(delay);
    ql_schedule_free(delay);
    enum q_err close_err = ql_home_close(delay->home);
    if (err == Q_OK) {
        err = close_err;
        fault = *q_fault_last();
    }
    delay->home = NULL;
    delay_free(delay);
    if (err != Q_OK) q_fault_adopt(&fault);
    return err;
}

static void
delay_free(struct qlog_delay *delay)
{
    if (delay->home != NULL) {
        ql_filing_stop(delay);
        ql_schedule_free(delay);
        (void)ql_home_close(delay->home);
    }
    ql_dispatch_free(delay);
    ql_notes_free(delay);
    ql_puts_free(delay);
    ql_delay_subjects_free(delay);
    ql_marks_free(&delay->marks);
    ql_intake_fini(delay);
    q_mailbox_fini(&delay->mailbox);
    q_mailbox_fini(&delay->sent);
    free(delay);
}

/* --- Turns. */

static void
delay_wake_thread(struct qlog_delay *delay)
{
    delay->home->env.io->table->wake(delay->home->env.io);
}

enum q_err
qlog_delay_submit(struct qlog_delay *delay, struct qlog_delay_request *request)
{
    if (atomic_load_explicit(&delay->stopping, memory_order_acquire))
        return Q_FAIL(Q_STOPPING, .what = "the delay store is being closed");
    bool wake;
    enum q_err err = q_mailbox_push(&delay->mailbox, &request->node, &wake);
    if (err != Q_OK) return Q_FAIL(err, .what = "too many requests wait for the delay store");
    if (wake) delay_wake_thread(delay);
    return Q_OK;
}

void
qlog_delay_sent(struct qlog_delay *delay, struct qlog_delay_send *send, enum q_err err)
{
    send->err = err;
    bool wake;
    err = q_mailbox_push(&delay->sent, &send->node, &wake);
    Q_ASSERT(err == Q_OK);
    if (wake) delay_wake_thread(delay);
}

void
qlog_delay_wake(struct qlog_delay *delay)
{
    /* Pairs with the acquire in ql_dispatch_due(). */
    atomic_store_explicit(&delay->woken, true, memory_order_release);
    delay_wake_thread(delay);
}

enum q_err
qlog_delay_turn(struct qlog_delay *delay)
{
    struct ql_home *home = delay->home;
    delay->now_ns = q_clock_monotonic_ns(delay->clock);
    delay->turn++;
    ql_delay_clock_move(&delay->eff, delay->now_ns, q_clock_wall_ms(delay->clock));
    delay_take(delay);
    enum q_err err = ql_home_reap(home, delay->now_ns);
    for (unsigned i = 0; i < home->log_count; i++)
        ql_log_finish(&home->logs[i]);
    delay_take_sent(delay);
    if (err != Q_OK) {
        ql_intake_end(delay);
        return ql_env_check(&home->env);
    }
    ql_intake_expire(delay);
    ql_schedule_arrive(delay);
    ql_dispatch_retry(delay);
    ql_dispatch_due(delay);
    ql_space_turn(delay);
    ql_filing_turn(delay);
    ql_home_write(home, delay->now_ns);
    return ql_env_check(&home->env);
}

enum q_err
qlog_delay_wait(struct qlog_delay *delay, uint64_t timeout_ns)
{
    const struct qlog_io_table *table = delay->home->env.io->table;
    uint64_t deadline = ql_home_deadline_ns(delay->home);
    deadline = q_min_u64(deadline, ql_dispatch_deadline_ns(delay));
    deadline = q_min_u64(deadline, ql_space_deadline_ns(delay));
    deadline = q_min_u64(deadline, ql_filing_deadline_ns(delay));
    deadline = q_min_u64(deadline, ql_producers_deadline_ns(&delay->intake.producers));
    uint64_t now_ns = q_clock_monotonic_ns(delay->clock);
    deadline = q_min_u64(deadline, now_ns + CLOCK_LOOK_NS);
    uint64_t wait_ns = deadline <= now_ns ? 0 : q_min_u64(timeout_ns, deadline - now_ns);
    bool sleeps = q_mailbox_sleep(&delay->mailbox);
    if (!q_mailbox_sleep(&delay->sent) || !sleeps) wait_ns = 0;
    /* Who wakes without a request. */
    if (atomic_load_explicit(&delay->woken, memory_order_acquire)) wait_ns = 0;
    int rv = table->enter(delay->home->env.io, wait_ns);
    q_mailbox_awake(&delay->mailbox);
    q_mailbox_awake(&delay->sent);
    if (rv < 0)
        return Q_FAIL(
            Q_E_IO, .path = delay->home->env.path, .sys = -rv, .what = "wait for the disk");
    return Q_OK;
}

enum q_err
qlog_delay_run(struct qlog_delay *delay)
{
    while (!atomic_load_explicit(&delay->stopping, memory_order_acquire)) {
        Q_TRY(qlog_delay_turn(delay));
        Q_TRY(qlog_delay_wait(delay, Q_NS_PER_S));
    }
    return Q_OK;
}

void
qlog_delay_stop(struct qlog_delay *delay)
{
    atomic_store_explicit(&delay->stopping, true, memory_order_release);
    delay_wake_thread(delay);
}

static void
delay_take(struct qlog_delay *delay)
{
    struct q_mailbox_node *node = q_mailbox_take(&delay->mailbox);
    while (node != NULL) {
        struct qlog_delay_request *request = q_container_of(node, struct qlog_delay_request, node);
        node = node->next;
        delay_start(delay, request);
    }
}

static void
delay_take_sent(struct qlog_delay *delay)
{
    struct q_mailbox_node *node = q_mailbox_take(&delay->sent);
    while (node != NULL) {
        struct qlog_delay_send *send = q_container_of(node, struct qlog_delay_send, node);
        node = node->next;
        ql_dispatch_sent(delay, send);
    }
}

static void
delay_refuse(struct qlog_delay *delay)
{
    struct q_mailbox_node *node = q_mailbox_take(&delay->mailbox);
    while (node != NULL) {
        struct qlog_delay_request *request = q_container_of(node, struct qlog_delay_request, node);
        node = node->next;
        ql_delay_finish(request, Q_FAIL(Q_STOPPING, .what = "the delay store is being closed"));
    }
    (void)q_mailbox_take(&delay->sent);
}

static void
delay_start(struct qlog_delay *delay, struct qlog_delay_request *request)
{
    enum q_err err = ql_env_check(&delay->home->env);
    if (err != Q_OK) {
        ql_delay_finish(request, err);
        return;
    }
    switch (request->kind) {
    case QLOG_DELAY_PUBLISH:
        ql_delay_publish_start(delay, q_container_of(request, struct qlog_delay_publish, request));
        break;
    case QLOG_DELAY_CANCEL:
        ql_delay_cancel_start(delay, q_container_of(request, struct qlog_delay_cancel, request));
        break;
    case QLOG_DELAY_RESCHEDULE:
        ql_delay_reschedule_start(
            delay, q_container_of(request, struct qlog_delay_reschedule, request));
        break;
    case QLOG_DELAY_SHOW:
        ql_delay_show_start(delay, q_container_of(request, struct qlog_delay_show, request));
        break;
    case QLOG_DELAY_LIST:
        ql_delay_list_start(delay, q_container_of(request, struct qlog_delay_list, request));
        break;
    case QLOG_DELAY_HISTOGRAM:
        ql_delay_histogram_start(
            delay, q_container_of(request, struct qlog_delay_histogram, request));
        break;
    case QLOG_DELAY_LAG:
        ql_delay_lag_start(delay, q_container_of(request, struct qlog_delay_lag, request));
        break;
    }
}

void
ql_delay_finish(struct qlog_delay_request *request, enum q_err err)
{
    request->done(request, err);
}

void
qlog_delay_counters(struct qlog_delay *delay, struct qlog_delay_counters *ret_counters)
{
    *ret_counters = delay->counters;
    ret_counters->clock_steps = delay->eff.steps;
    ret_counters->generation = delay->home->env.generation;
    ret_counters->io_name = delay->home->env.io->table->name;
    ret_counters->io_note = delay->home->io_note;
}
