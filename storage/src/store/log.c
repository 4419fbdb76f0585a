#include <qlog/log.h>

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/record.h"
#include "segment/decisions.h"
#include "segment/home.h"

struct qlog {
    struct ql_home *home;
    struct ql_log *log; /* home's only one */
};

/* In the append's private words. */
struct append_state {
    struct ql_append append;
};

_Static_assert(
    sizeof(struct append_state) <= sizeof(struct qlog_private), "private words are too few");

static void append_measure(struct ql_append *inner, uint64_t incarnation);
static void append_fill(
    struct ql_append *inner, const struct ql_place *place, uint8_t *records, uint8_t *payloads);
static void append_done(struct ql_append *inner, enum q_err err);
static void append_on_waited(struct qlog_append *append, enum q_err err);

static const struct ql_append_table append_table = {
    .measure = append_measure,
    .fill = append_fill,
    .done = append_done,
};

static struct qlog_append *
append_of(struct ql_append *inner)
{
    struct append_state *state = q_container_of(inner, struct append_state, append);
    return q_container_of(state, struct qlog_append, private_);
}

enum q_err
qlog_open(const char *directory, const struct qlog_options *options, struct qlog **ret_log)
{
    static const struct qlog_options defaults = { 0 };
    static const char *const names[] = { "log" };
    struct qlog *log = calloc(1, sizeof(*log));
    if (log == NULL) return Q_FAIL(Q_E_NOMEM, .what = "log");
    enum q_err err =
        ql_home_open(directory, options == NULL ? &defaults : options, names, 1, &log->home);
    if (err != Q_OK) {
        free(log);
        return err;
    }
    log->log = &log->home->logs[0];
    struct ql_recover recover;
    ql_home_recover_init(log->home, 0, &recover);
    err = ql_home_recover(log->home, 0, &recover);
    if (err == Q_OK) err = ql_home_start(log->home);
    if (err != Q_OK) {
        struct q_fault fault = *q_fault_last();
        (void)ql_home_close(log->home);
        free(log);
        q_fault_adopt(&fault);
        return err;
    }
    ql_decisions_write(&log->home->env);
    *ret_log = log;
    return Q_OK;
}

enum q_err
qlog_close(struct qlog *log)
{
    enum q_err err = ql_home_close(log->home);
    free(log);
    return err;
}

enum q_err
qlog_submit(struct qlog *log, struct qlog_append *append)
{
    Q_TRY(ql_env_check(&log->home->env));
    if (append->mode > QLOG_MODE_SYNC)
        return Q_FAIL(
            Q_NO_SUCH_MODE,
            .what = q_text("mode %s needs a replica", qlog_mode_name(append->mode)));
    if (append->size > ql_log_body_bytes_max(log->log))
        return Q_FAIL(
            Q_TOO_BIG, .what = q_text(
                           "a record of %zu bytes does not fit into a segment of %llu",
                           append->size, (unsigned long long)log->log->segment_bytes));
    struct append_state *state = (struct append_state *)(void *)&append->private_;
    memset(state, 0, sizeof(*state));
    state->append.table = &append_table;
    state->append.flushed = append->mode != QLOG_MODE_ASYNC;
    return ql_log_append(log->log, &state->append);
}

enum q_err
qlog_turn(struct qlog *log)
{
    uint64_t now_ns = q_clock_monotonic_ns(log->home->env.clock);
    enum q_err err = ql_home_reap(log->home, now_ns);
    ql_log_finish(log->log);
    if (err != Q_OK) return ql_env_check(&log->home->env);
    ql_home_write(log->home, now_ns);
    return Q_OK;
}

enum q_err
qlog_wait(struct qlog *log, uint64_t timeout_ns)
{
    struct ql_env *env = &log->home->env;
    uint64_t deadline = ql_home_deadline_ns(log->home);
    uint64_t now_ns = q_clock_monotonic_ns(env->clock);
    uint64_t wait_ns = deadline <= now_ns ? 0 : q_min_u64(timeout_ns, deadline - now_ns);
    int rv = env->io->table->enter(env->io, wait_ns);
    if (rv < 0) return Q_FAIL(Q_E_IO, .path = env->path, .sys = -rv, .what = "wait for the disk");
    return Q_OK;
}

struct waited {
    bool done;
    enum q_err err;
};

enum q_err
qlog_append(struct qlog *log, const void *data, size_t size, qlog_position *ret_position)
{
    struct waited waited = { 0 };
    struct qlog_append append = {
        .data = data,
        .size = size,
        .done = append_on_waited,
        .context = &waited,
    };
    Q_TRY(qlog_submit(log, &append));
    /* Until `done`, the append is the log's: no way out before. A broken log finishes it. */
    while (!waited.done) {
        enum q_err err = qlog_turn(log);
        if (waited.done) break;
        if (err == Q_OK) err = qlog_wait(log, Q_NS_PER_S);
        if (err != Q_OK) ql_env_break(&log->home->env, "log", log->home->env.path, 0, 0);
    }
    if (waited.err == Q_OK && ret_position != NULL) *ret_position = append.position;
    return waited.err;
}

static void
append_on_waited(struct qlog_append *append, enum q_err err)
{
    struct waited *waited = append->context;
    waited->done = true;
    waited->err = err;
}

enum q_err
qlog_trim(struct qlog *log, qlog_position before)
{
    const uint64_t positions[QL_LOGS_MAX] = { before.value };
    return ql_home_trim(log->home, positions);
}

qlog_position
qlog_written(const struct qlog *log)
{
    return (qlog_position){ log->log->written };
}

qlog_position
qlog_durable(const struct qlog *log)
{
    return (qlog_position){ log->log->durable };
}

static void
append_measure(struct ql_append *inner, uint64_t incarnation)
{
    (void)incarnation;
    inner->records_size = ql_bytes_record_size(append_of(inner)->size);
    inner->payloads_size = 0;
    inner->record_count = 1;
}

static void
append_fill(
    struct ql_append *inner, const struct ql_place *place, uint8_t *records, uint8_t *payloads)
{
    (void)payloads;
    struct qlog_append *append = append_of(inner);
    append->position.value = place->frame;
    ql_bytes_record_encode(q_bytes_from(append->data, append->size), records);
}

static void
append_done(struct ql_append *inner, enum q_err err)
{
    struct qlog_append *append = append_of(inner);
    append->done(append, err);
}
