#include "look/check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <qbase/assert.h>

#include "format/record.h"
#include "log/index_verify.h"
#include "segment/recover.h"

enum {
    PROGRESS_NS = 100 * 1000 * 1000,
    RECORD_TEXT = 16 * 1024,
};

/* What a thread found in its range. */
struct range {
    uint64_t from;
    uint64_t to; /* UINT64_MAX: to the end of the log */
    bool done;
    enum q_err err;
    struct q_fault fault;
    struct ql_recover recover; /* its numbers */
    uint64_t first_generation; /* of the first frame */
    uint64_t last_generation;
    bool whole_end; /* its last frame is the one before `to` */

    struct ql_index_witness *witnesses; /* of its segments; none when no index is looked at */
    uint32_t witness_count;
    uint32_t witness; /* of the segment that is being read */

    struct ql_digest *digests;
    size_t digest_count;
    size_t digest_capacity;
    struct qlog_damage *damages;
    size_t damage_count;
    size_t damage_capacity;
};

struct work {
    struct ql_check *check;
    struct ql_index_files files; /* when its index is looked at */
    struct range *ranges;
    uint32_t count;
    struct ql_recover
        all; /* of the log as it was found: what a running writer changes later is another log */
    uint64_t total; /* bytes to read */
    _Atomic(uint64_t) bytes;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t next; /* range that nobody has taken */
    uint32_t told; /* ranges below were told */
    bool stop;
};

static enum q_err work_cut(struct work *work);
static enum q_err work_tell_all(struct work *work);
static enum q_err work_tell(struct work *work, uint32_t index);
static void *worker_main(void *context);
static void worker_range(struct work *work, struct ql_env *env, struct range *range, char *text);
static enum q_err worker_open(
    struct work *work,
    struct ql_env *env,
    const struct range *range,
    struct ql_segment_set *ret_segments);
static enum q_err range_begin_index(
    const struct work *work,
    struct range *range,
    struct ql_env *env,
    const struct ql_segment_set *segments);
static enum q_err range_end_index(const struct work *work, struct range *range);
static enum q_err range_frame(
    struct work *work, struct range *range, const struct ql_scan *scan, char *text);
static void range_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static enum q_err range_add_damage(
    struct range *range, uint64_t from, uint64_t to, const char *what);
static enum q_err range_add_digest(struct range *range, const struct ql_digest *digest);
static void range_free(struct range *range);

enum q_err
ql_check_run(struct ql_check *check)
{
    struct work work = { .check = check };
    pthread_t threads[QL_CHECK_JOBS_MAX];
    check->state = (struct qlog_log_state){ 0 };
    Q_TRY(work_cut(&work));
    enum q_err err = Q_OK;
    if (check->on_index != NULL)
        err = ql_index_verify_open(&check->home->logs[check->log], &work.files);
    if (err != Q_OK) {
        free(work.ranges);
        return err;
    }
    Q_ASSERT(pthread_mutex_init(&work.lock, NULL) == 0);
    Q_ASSERT(pthread_cond_init(&work.changed, NULL) == 0);
    unsigned jobs = (unsigned)q_min_u64(q_max_u64(check->jobs, 1), QL_CHECK_JOBS_MAX);
    jobs = (unsigned)q_min_u64(jobs, work.count);
    unsigned started = 0;
    while (started < jobs && pthread_create(&threads[started], NULL, worker_main, &work) == 0)
        started++;
    err = started > 0 ? work_tell_all(&work) : Q_FAIL(Q_E_NOMEM, .what = "a thread");
    struct q_fault fault = *q_fault_last();
    (void)pthread_mutex_lock(&work.lock);
    work.stop = true;
    (void)pthread_cond_broadcast(&work.changed);
    (void)pthread_mutex_unlock(&work.lock);
    for (unsigned i = 0; i < started; i++)
        (void)pthread_join(threads[i], NULL);
    for (uint32_t i = 0; i < work.count; i++)
        range_free(&work.ranges[i]);
    free(work.ranges);
    ql_index_files_fini(&work.files);
    (void)pthread_cond_destroy(&work.changed);
    (void)pthread_mutex_destroy(&work.lock);
    if (err != Q_OK) q_fault_adopt(&fault);
    return err;
}

/* One range for each segment; the last two are one. */
static enum q_err
work_cut(struct work *work)
{
    struct ql_check *check = work->check;
    const struct ql_segment_set *segments = &check->home->logs[check->log].segments;
    ql_home_recover_init(check->home, check->log, &work->all);
    const struct ql_recover *all = &work->all;
    work->ranges = calloc(segments->count + 1, sizeof(*work->ranges));
    if (work->ranges == NULL) return Q_FAIL(Q_E_NOMEM, .what = "ranges of a log");
    uint64_t from = all->from;
    for (uint32_t i = 1; i + 1 < segments->count; i++) {
        uint64_t to = segments->segments[i]->base;
        if (to <= from || (check->live && to > all->marks.durable)) continue;
        work->ranges[work->count++] = (struct range){ .from = from, .to = to };
        from = to;
    }
    work->ranges[work->count++] = (struct range){ .from = from, .to = UINT64_MAX };
    check->state.first = all->from;
    check->state.segments = segments->count;
    check->state.generation = check->home->super.generation;
    check->state.clean = check->home->was_clean;
    check->state.live = check->live;
    uint64_t end = q_max_u64(all->marks.durable, all->marks.end);
    if (segments->count > 0 && !check->live)
        end = q_max_u64(end, segments->segments[segments->count - 1]->base);
    work->total = end > all->from ? end - all->from : 0;
    return Q_OK;
}

static enum q_err
work_tell_all(struct work *work)
{
    const struct ql_check *check = work->check;
    enum q_err err = Q_OK;
    for (uint32_t i = 0; err == Q_OK && i < work->count; i++) {
        (void)pthread_mutex_lock(&work->lock);
        while (!work->ranges[i].done) {
            struct timespec until;
            (void)clock_gettime(CLOCK_REALTIME, &until);
            until.tv_nsec += PROGRESS_NS;
            if (until.tv_nsec >= Q_NS_PER_S) {
                until.tv_nsec -= Q_NS_PER_S;
                until.tv_sec++;
            }
            (void)pthread_cond_timedwait(&work->changed, &work->lock, &until);
            if (check->on_progress != NULL)
                check->on_progress(
                    check->context, atomic_load_explicit(&work->bytes, memory_order_relaxed),
                    work->total);
        }
        (void)pthread_mutex_unlock(&work->lock);
        err = work_tell(work, i);
        (void)pthread_mutex_lock(&work->lock);
        work->told = i + 1;
        (void)pthread_cond_broadcast(&work->changed);
        (void)pthread_mutex_unlock(&work->lock);
    }
    return err;
}

static void
tell_damage(struct work *work, struct qlog_damage damage)
{
    struct ql_check *check = work->check;
    /* What a writer drops, it has taken out of the superblock before it writes over it. */
    if (check->live) {
        uint64_t first = ql_home_first_now(check->home, check->log);
        damage.from = q_min_u64(q_max_u64(damage.from, first), damage.to);
        if (damage.from == damage.to) return;
    }
    check->state.rot_bytes += damage.to - damage.from;
    if (check->on_damage != NULL) check->on_damage(check->context, &damage);
}

static enum q_err
work_tell(struct work *work, uint32_t index)
{
    struct ql_check *check = work->check;
    struct range *range = &work->ranges[index];
    if (range->err != Q_OK) {
        q_fault_adopt(&range->fault);
        return range->err;
    }
    struct qlog_log_state *state = &check->state;
    const struct ql_recover *recover = &range->recover;
    state->frames += recover->frames;
    state->records += recover->records;
    state->end = recover->end;
    state->durable = q_max_u64(state->durable, recover->durable);
    state->torn_bytes = recover->torn_bytes;
    if (index > 0) {
        /* The first frame follows what the header names; here, that it names what is there. */
        const struct range *before = range - 1;
        const struct ql_segment *segment =
            ql_segment_set_find(&check->home->logs[check->log].segments, range->from);
        bool follows = !before->whole_end || segment == NULL || segment->base != range->from ||
                       (segment->chain == before->recover.chain &&
                        range->first_generation >= before->last_generation);
        if (!follows)
            tell_damage(
                work, (struct qlog_damage){ range->from, range->from + QL_BLOCK,
                                            ql_scan_state_text(QL_SCAN_ORPHAN) });
    }
    /* Both lists are in the order of the log. */
    size_t at = 0;
    for (size_t i = 0; i < range->damage_count || at < range->digest_count;) {
        bool damage =
            i < range->damage_count &&
            (at == range->digest_count || range->damages[i].from < range->digests[at].position);
        if (damage) {
            tell_damage(work, range->damages[i++]);
        } else {
            const struct ql_digest *digest = &range->digests[at++];
            if (check->on_digest != NULL) Q_TRY(check->on_digest(check->context, digest));
        }
    }
    for (uint32_t i = 0; i < range->witness_count; i++) {
        const struct ql_index_witness *witness = &range->witnesses[i];
        /* A running store may have replaced it meanwhile. */
        if (witness->what == NULL || !ql_index_files_has(&work->files, witness->file)) continue;
        check->on_index(
            check->context, witness->file->view.header.base,
            q_text(
                "index-%06u %s; the next start makes it again", witness->file->number,
                witness->what));
    }
    range_free(range);
    return Q_OK;
}

static void *
worker_main(void *context)
{
    struct work *work = context;
    const struct ql_check *check = work->check;
    struct ql_env env = check->home->env;
    env.observer = NULL;
    char *text = malloc(RECORD_TEXT);
    env.io = NULL;
    int rv = text == NULL ? -ENOMEM : qlog_io_uring_new(&env.io);
    if (rv < 0 && text != NULL) rv = qlog_io_plain_new(&env.io);
    unsigned jobs = (unsigned)q_max_u64(check->jobs, 1);
    (void)pthread_mutex_lock(&work->lock);
    for (;;) {
        while (!work->stop && work->next < work->count && work->next >= work->told + 2 * jobs)
            (void)pthread_cond_wait(&work->changed, &work->lock);
        if (work->stop || work->next == work->count) break;
        struct range *range = &work->ranges[work->next++];
        (void)pthread_mutex_unlock(&work->lock);
        if (rv < 0) {
            range->err = Q_FAIL(Q_E_NOMEM, .sys = -rv, .what = "a thread's way to the kernel");
            range->fault = *q_fault_last();
        } else {
            worker_range(work, &env, range, text);
        }
        (void)pthread_mutex_lock(&work->lock);
        range->done = true;
        (void)pthread_cond_broadcast(&work->changed);
    }
    (void)pthread_mutex_unlock(&work->lock);
    if (env.io != NULL) env.io->table->destroy(env.io);
    free(text);
    return NULL;
}

static void
worker_range(struct work *work, struct ql_env *env, struct range *range, char *text)
{
    const struct ql_check *check = work->check;
    struct ql_recover *recover = &range->recover;
    struct ql_segment_set segments = { 0 };
    range->err = worker_open(work, env, range, &segments);
    if (range->err == Q_OK) range->err = range_begin_index(work, range, env, &segments);
    if (range->err != Q_OK) {
        range->fault = *q_fault_last();
        ql_segment_set_free(env, &segments);
        return;
    }
    *recover = work->all;
    recover->env = env;
    recover->segments = &segments;
    recover->from = range->from;
    recover->deep = check->deep;
    recover->live = check->live;
    recover->context = range;
    recover->on_rot = range_on_rot;
    if (range->to != UINT64_MAX) {
        /* Another segment follows, so all of it was durable before that one began. */
        recover->live = true;
        recover->clean = false;
        recover->marks.durable = range->to;
    }
    ql_recover_begin(recover);
    enum q_err err;
    while ((err = ql_recover_next(recover)) == Q_OK) {
        err = range_frame(work, range, &recover->scan, text);
        if (err != Q_OK) break;
    }
    ql_recover_end(recover);
    range->err = err == Q_END ? range->err : err;
    if (range->err == Q_OK) range->err = range_end_index(work, range);
    if (range->err != Q_OK) range->fault = *q_fault_last();
    recover->segments = NULL;
    ql_segment_set_free(env, &segments);
}

/* The segments of the range. One that is gone is missed as frames, and a running writer's to drop. */
static enum q_err
worker_open(
    struct work *work,
    struct ql_env *env,
    const struct range *range,
    struct ql_segment_set *ret_segments)
{
    const struct ql_log *log = &work->check->home->logs[work->check->log];
    const struct ql_segment *first = ql_segment_set_find(&log->segments, range->from);
    for (uint32_t i = 0; i < log->segments.count; i++) {
        const struct ql_segment *segment = log->segments.segments[i];
        bool inside =
            segment == first || (segment->base > range->from && segment->base < range->to);
        if (!inside) continue;
        struct ql_segment *own;
        enum q_err err = ql_segment_reopen(env, log->name, segment, &own);
        if (err == Q_NOT_FOUND) continue;
        Q_TRY(err);
        err = ql_segment_set_add(ret_segments, own);
        if (err != Q_OK) {
            ql_segment_free(env, own);
            return err;
        }
    }
    return Q_OK;
}

static enum q_err
range_begin_index(
    const struct work *work,
    struct range *range,
    struct ql_env *env,
    const struct ql_segment_set *segments)
{
    if (work->check->on_index == NULL || segments->count == 0) return Q_OK;
    range->witnesses = calloc(segments->count, sizeof(*range->witnesses));
    if (range->witnesses == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index files of a range");
    for (; range->witness_count < segments->count; range->witness_count++)
        ql_index_witness_init(
            &range->witnesses[range->witness_count], &work->files, env, segments,
            segments->segments[range->witness_count]->base);
    return Q_OK;
}

static enum q_err
range_end_index(const struct work *work, struct range *range)
{
    for (uint32_t i = 0; i < range->witness_count; i++)
        Q_TRY(ql_index_witness_end(&range->witnesses[i], work->check->deep));
    return Q_OK;
}

static enum q_err
range_frame(struct work *work, struct range *range, const struct ql_scan *scan, char *text)
{
    const struct ql_frame *frame = &scan->frame;
    uint64_t size = ql_frame_size(frame->body_length);
    uint64_t base = ql_segment_set_find(scan->segments, frame->position)->base;
    atomic_fetch_add_explicit(&work->bytes, size, memory_order_relaxed);
    if (range->recover.frames == 1) range->first_generation = frame->generation;
    range->last_generation = frame->generation;
    range->whole_end = frame->position + size == range->to;
    if (range->witness_count > 0 && work->check->deep) {
        while (scan->segments->segments[range->witness]->base < base)
            range->witness++;
        Q_TRY(ql_index_witness_frame(&range->witnesses[range->witness], scan));
    }
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct qlog_record told = {
        .frame = { frame->position },
        .wall_ms = frame->wall_ms,
        .generation = frame->generation,
    };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        told.kind = record.kind;
        told.bytes = record.bytes;
        told.payload = q_bytes_from(record.payload, record.payload_size);
        struct ql_digest digest = { 0 };
        enum q_err err = ql_digest_of(&told, base, &digest);
        if (err == Q_NOT_FOUND)
            err = !work->check->deep || qlog_record_describe(&told, true, text, RECORD_TEXT)
                      ? Q_OK
                      : Q_E_CORRUPT;
        else if (err == Q_OK)
            err = range_add_digest(range, &digest);
        told.index++;
        if (err == Q_E_CORRUPT || err == Q_E_VERSION)
            err = range_add_damage(
                range, frame->position, frame->position + size, "a record that does not decode");
        Q_TRY(err);
    }
    return Q_OK;
}

static void
range_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct range *range = context;
    for (uint32_t i = 0; i < range->witness_count; i++)
        ql_index_witness_rot(&range->witnesses[i], from, to);
    enum q_err err = range_add_damage(range, from, to, ql_scan_state_text(state));
    if (range->err == Q_OK) range->err = err;
}

static enum q_err
range_add_damage(struct range *range, uint64_t from, uint64_t to, const char *what)
{
    struct qlog_damage damage = { from, to, what };
    size_t last = range->damage_count - 1;
    bool again = range->damage_count > 0 && range->damages[last].from == from &&
                 range->damages[last].what == what;
    if (again) return Q_OK;
    if (range->damage_count == range->damage_capacity) {
        size_t capacity = range->damage_capacity == 0 ? 16 : range->damage_capacity * 2;
        struct qlog_damage *damages = realloc(range->damages, capacity * sizeof(*damages));
        if (damages == NULL) return Q_FAIL(Q_E_NOMEM, .what = "list of damages");
        range->damages = damages;
        range->damage_capacity = capacity;
    }
    range->damages[range->damage_count++] = damage;
    return Q_OK;
}

static enum q_err
range_add_digest(struct range *range, const struct ql_digest *digest)
{
    if (range->digest_count == range->digest_capacity) {
        size_t capacity = range->digest_capacity == 0 ? 256 : range->digest_capacity * 2;
        struct ql_digest *digests = realloc(range->digests, capacity * sizeof(*digests));
        if (digests == NULL) return Q_FAIL(Q_E_NOMEM, .what = "what is in a segment");
        range->digests = digests;
        range->digest_capacity = capacity;
    }
    struct ql_digest copy = *digest;
    if (copy.name.size > 0) {
        uint8_t *name = malloc(copy.name.size);
        if (name == NULL) return Q_FAIL(Q_E_NOMEM, .what = "a subject's name");
        memcpy(name, copy.name.data, copy.name.size);
        copy.name.data = name;
    }
    range->digests[range->digest_count++] = copy;
    return Q_OK;
}

static void
range_free(struct range *range)
{
    for (size_t i = 0; i < range->digest_count; i++)
        if (range->digests[i].name.size > 0) free((void *)(uintptr_t)range->digests[i].name.data);
    for (uint32_t i = 0; i < range->witness_count; i++)
        ql_index_witness_fini(&range->witnesses[i]);
    free(range->witnesses);
    free(range->digests);
    free(range->damages);
    range->witnesses = NULL;
    range->witness_count = 0;
    range->digests = NULL;
    range->damages = NULL;
    range->digest_count = 0;
    range->damage_count = 0;
}
