#include "delay/filing.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "delay/delay.h"
#include "planted.h"

enum {
    WRITE_BYTES = 1024 * 1024, /* at a time: frames must not wait behind it */
};
#define RETRY_NS (10 * (uint64_t)Q_NS_PER_S)

static void filing_begin(struct qlog_delay *delay);
static struct ql_run *filing_next(const struct qlog_delay *delay);
static enum q_err filing_subjects(
    struct qlog_delay *delay, const struct ql_run *run, struct ql_schedule_build *build);
static void job_run(struct ql_job *job);
static void job_done(struct ql_job *job);
static void filing_open_file(struct qlog_delay *delay);
static void filing_submit(struct qlog_delay *delay);
static void filing_on_done(struct ql_transfer *transfer);
static void filing_end(struct qlog_delay *delay);
static bool filing_adopt(struct qlog_delay *delay);

const char *
ql_schedule_path(const struct ql_env *env, const char *log, uint32_t number, char out[QL_PATH_MAX])
{
    (void)snprintf(out, QL_PATH_MAX, "%s/%s/schedule-%06u", env->path, log, number);
    return out;
}

void
ql_filing_init(struct qlog_delay *delay, bool threaded)
{
    struct ql_filing *filing = &delay->filing;
    *filing = (struct ql_filing){ .file = -1 };
    filing->job = (struct ql_job){ .run = job_run, .done = job_done };
    q_list_init(&filing->job.link);
    ql_worker_init(&filing->worker, delay->home->env.io, threaded);
}

void
ql_filing_stop(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    struct qlog_io *io = delay->home->env.io;
    ql_worker_stop(&filing->worker);
    ql_worker_fini(&filing->worker);
    while (filing->step >= QL_FILING_BODY && filing->step <= QL_FILING_HEAD)
        if (io->table->enter(io, Q_NS_PER_MS) < 0) break;
    if (filing->file >= 0) io->table->close(io, filing->file);
    free(filing->build.file);
    free(filing->build.subjects);
    free(filing->orphans);
    free(filing->orphans_replaced);
    *filing = (struct ql_filing){ .file = -1 };
}

void
ql_filing_turn(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    while (delay->filed_below < delay->run_count && delay->runs[delay->filed_below]->file != NULL)
        delay->filed_below++;
    if (filing->step == QL_FILING_IDLE) filing_begin(delay);
    if (filing->step == QL_FILING_BUILDING) ql_worker_collect(&filing->worker);
    if (filing->step == QL_FILING_BUILT) filing_open_file(delay);
    if (filing->step == QL_FILING_WRITTEN || filing->step == QL_FILING_FAILED) filing_end(delay);
}

uint64_t
ql_filing_deadline_ns(const struct qlog_delay *delay)
{
    const struct ql_filing *filing = &delay->filing;
    if (filing->step >= QL_FILING_WRITTEN || ql_worker_is_due(&filing->worker)) return 0;
    bool waits = filing->step == QL_FILING_IDLE && filing_next(delay) != NULL;
    return waits ? q_max_u64(filing->retry_ns, delay->now_ns) : UINT64_MAX;
}

void
ql_filing_forget(struct qlog_delay *delay, struct ql_run *run)
{
    struct ql_filing *filing = &delay->filing;
    struct ql_env *env = &delay->home->env;
    char path[QL_PATH_MAX];
    const struct ql_segment *segment = ql_segment_set_find(&delay->log->segments, run->base);
    if (run->file != NULL && segment != NULL && segment->base == run->base && env->broken == Q_OK)
        (void)env->io->table->unlink(
            env->io, ql_schedule_path(env, delay->log->name, segment->number, path));
    if (filing->run != run) return;
    /* The worker may be reading them. */
    filing->run = NULL;
    filing->orphans = run->entries;
    filing->orphans_replaced = run->replaced;
    run->entries = NULL;
    run->replaced = NULL;
}

/* --- Building. */

static struct ql_run *
filing_next(const struct qlog_delay *delay)
{
    if (delay->tight || delay->home->env.broken != Q_OK) return NULL;
    for (uint32_t i = delay->filed_below; i < delay->run_count; i++) {
        struct ql_run *run = delay->runs[i];
        bool going = i == 0 && (delay->space == QL_SPACE_CARRY || run->gone == run->count);
        if (run->file == NULL && run->end != 0 && !run->rotten && !going && run->count > 0)
            return run;
    }
    return NULL;
}

static void
filing_begin(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    const struct ql_env *env = &delay->home->env;
    if (delay->now_ns < filing->retry_ns) return;
    struct ql_run *run = filing_next(delay);
    if (run == NULL) return;
    const struct ql_segment *segment = ql_segment_set_find(&delay->log->segments, run->base);
    if (segment == NULL || segment->base != run->base) {
        run->rotten = true; /* there is nothing that a file could be made again from */
        return;
    }
    filing->build = (struct ql_schedule_build){
        .header = {
            .incarnation = segment->incarnation,
            .base = run->base,
            .end = run->end,
            .generation = run->generation,
            .wall_ms = run->wall_ms,
            .entry_count = run->count,
            .replaced_count = run->replaced_count,
        },
        .entries = run->entries,
        .replaced = run->replaced,
    };
    struct ql_schedule_header *header = &filing->build.header;
    memcpy(header->store_id, env->store_id, sizeof(header->store_id));
    memcpy(header->log_name, delay->log->name, sizeof(header->log_name));
    filing->number = segment->number;
    filing->run = run;
    filing->transfer.error = 0;
    filing->step = QL_FILING_FAILED;
    if (filing_subjects(delay, run, &filing->build) != Q_OK) return;
    if (QL_PLANTED(schedule_replaced_forgotten)) header->replaced_count = 0;
    filing->step = QL_FILING_BUILDING;
    struct q_list jobs;
    q_list_init(&jobs);
    q_list_push_back(&jobs, &filing->job.link);
    ql_worker_give(&filing->worker, &jobs);
}

static int
compare_ids(const void *a, const void *b)
{
    const uint32_t *left = a;
    const uint32_t *right = b;
    return *left < *right ? -1 : *left > *right;
}

/* Names may move while the worker works, so their rows are made here. */
static enum q_err
filing_subjects(struct qlog_delay *delay, const struct ql_run *run, struct ql_schedule_build *build)
{
    uint32_t *ids = malloc(((size_t)delay->subject_count + 1) * sizeof(ids[0]));
    if (ids == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subjects of a schedule file");
    uint32_t count = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < run->count; i++) {
        struct ql_delay_subject *subject = ql_delay_subject(delay, run->entries[i].subject_id);
        if (subject->filed_in == run->base + 1) continue;
        subject->filed_in = run->base + 1;
        ids[count++] = subject->id;
        bytes += ql_schedule_subject_size(subject->size);
    }
    /* Of another try. */
    for (uint32_t i = 0; i < count; i++)
        ql_delay_subject(delay, ids[i])->filed_in = 0;
    qsort(ids, count, sizeof(ids[0]), compare_ids);
    build->subjects = bytes > UINT32_MAX ? NULL : malloc(bytes + 1);
    uint8_t *at = build->subjects;
    for (uint32_t i = 0; at != NULL && i < count; i++) {
        const struct ql_delay_subject *subject = ql_delay_subject(delay, ids[i]);
        ql_schedule_subject_encode(subject->id, q_bytes_from(subject->name, subject->size), at);
        at += ql_schedule_subject_size(subject->size);
    }
    free(ids);
    if (at == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subjects of a schedule file");
    build->header.subject_count = count;
    build->header.subject_bytes = (uint32_t)bytes;
    return Q_OK;
}

static void
job_run(struct ql_job *job)
{
    ql_schedule_build(&q_container_of(job, struct ql_filing, job)->build);
}

static void
job_done(struct ql_job *job)
{
    struct ql_filing *filing = q_container_of(job, struct ql_filing, job);
    filing->step = QL_FILING_BUILT;
}

static int
compare_entries(const void *a, const void *b)
{
    if (ql_delay_entry_is_before(a, b)) return -1;
    return ql_delay_entry_is_before(b, a);
}

void
ql_schedule_build(struct ql_schedule_build *build)
{
    struct ql_schedule_header *header = &build->header;
    uint32_t count = header->entry_count;
    struct ql_delay_entry *sorted = malloc((size_t)count * sizeof(sorted[0]) + 1);
    build->err = Q_E_NOMEM;
    if (sorted == NULL) return;
    memcpy(sorted, build->entries, (size_t)count * sizeof(sorted[0]));
    header->bytes = 0;
    header->messages = 0;
    header->first_sequence = UINT64_MAX;
    header->next_sequence = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct ql_delay_entry *entry = &sorted[i];
        header->bytes += (uint64_t)entry->envelope_size + entry->payload_size;
        header->messages += entry->count;
        header->first_sequence = q_min_u64(header->first_sequence, entry->sequence);
        header->next_sequence = q_max_u64(header->next_sequence, entry->sequence + entry->count);
    }
    qsort(sorted, count, sizeof(sorted[0]), compare_entries);
    struct ql_schedule_layout layout = ql_schedule_layout(header);
    build->file_size = layout.file_size;
    build->file = aligned_alloc(QL_BLOCK, layout.file_size);
    if (build->file != NULL) {
        uint8_t *tail = build->file + layout.tail_at;
        uint8_t *at = tail;
        memset(tail, 0, layout.file_size - layout.tail_at);
        for (uint32_t i = 0; i < layout.page_count; i++, at += 8) {
            const struct ql_delay_entry *first = sorted + (size_t)i * QL_SCHEDULE_PAGE_MAX;
            ql_schedule_page_encode(
                header, i, first,
                build->file + QL_SCHEDULE_HEADER_SIZE + (size_t)i * QL_SCHEDULE_PAGE);
            q_store_le64(at, first->due_ms);
        }
        for (uint32_t i = 0; i < header->replaced_count; i++, at += 8)
            q_store_le64(at, build->replaced[i]);
        memcpy(at, build->subjects, header->subject_bytes);
        header->tail_hash = ql_hash(tail, layout.tail_size);
        ql_schedule_header_encode(header, build->file);
        build->err = Q_OK;
    }
    free(sorted);
}

/* --- Writing. */

static void
filing_open_file(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    struct qlog_io *io = delay->home->env.io;
    char path[QL_PATH_MAX];
    filing->step = QL_FILING_FAILED;
    if (filing->run == NULL || filing->build.err != Q_OK) return;
    ql_schedule_path(&delay->home->env, delay->log->name, filing->number, path);
    /* One that is there does not fit, or it would be in use. */
    (void)io->table->unlink(io, path);
    filing->file = io->table->open(io, path, QLOG_IO_OPEN_CREATE);
    if (filing->file < 0) {
        filing->transfer.error = filing->file;
        return;
    }
    filing->step = QL_FILING_BODY;
    filing->moved = QL_SCHEDULE_HEADER_SIZE;
    filing_submit(delay);
}

static void
filing_submit(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    struct qlog_io_op op = { .file = filing->file, .buffer = -1 };
    uint64_t left = filing->build.file_size - filing->moved;
    switch (filing->step) {
    case QL_FILING_BODY:
        op.kind = QLOG_IO_WRITE;
        op.data = filing->build.file + filing->moved;
        op.at = filing->moved;
        op.length = (uint32_t)q_min_u64(left, WRITE_BYTES);
        break;
    case QL_FILING_FLUSH:
        op.kind = QLOG_IO_FLUSH;
        break;
    default:
        op.kind = QLOG_IO_WRITE;
        op.durable = true;
        op.data = filing->build.file;
        op.length = QL_SCHEDULE_HEADER_SIZE;
        break;
    }
    filing->transfer = (struct ql_transfer){ .op = op, .done = filing_on_done };
    ql_transfer_submit(delay->home->env.io, &filing->transfer);
}

static void
filing_on_done(struct ql_transfer *transfer)
{
    struct ql_filing *filing = q_container_of(transfer, struct ql_filing, transfer);
    struct qlog_delay *delay = q_container_of(filing, struct qlog_delay, filing);
    if (transfer->error != 0) {
        filing->step = QL_FILING_FAILED;
        return;
    }
    switch (filing->step) {
    case QL_FILING_BODY:
        filing->moved += transfer->length;
        if (filing->moved == filing->build.file_size) filing->step = QL_FILING_FLUSH;
        break;
    case QL_FILING_FLUSH:
        filing->step = QL_FILING_HEAD;
        break;
    default:
        filing->step = QL_FILING_WRITTEN;
        return;
    }
    filing_submit(delay);
}

/* The run is read from the file from now on, or the file is given up for now. */
static void
filing_end(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    struct ql_env *env = &delay->home->env;
    int error = filing->transfer.error;
    bool opened = filing->file >= 0;
    bool gone = filing->run == NULL;
    bool adopted = filing->step == QL_FILING_WRITTEN && filing_adopt(delay);
    char path[QL_PATH_MAX];
    if (opened) env->io->table->close(env->io, filing->file);
    ql_schedule_path(env, delay->log->name, filing->number, path);
    if (opened && !adopted && env->broken == Q_OK) (void)env->io->table->unlink(env->io, path);
    free(filing->build.file);
    free(filing->build.subjects);
    free(filing->orphans);
    free(filing->orphans_replaced);
    uint64_t base = filing->build.header.base;
    enum q_err err = filing->build.err;
    filing->build = (struct ql_schedule_build){ 0 };
    filing->orphans = NULL;
    filing->orphans_replaced = NULL;
    filing->file = -1;
    filing->run = NULL;
    filing->step = QL_FILING_IDLE;
    if (adopted || gone) return;
    filing->retry_ns = delay->now_ns + RETRY_NS;
    if (error != 0 || err != Q_OK)
        QL_TELL(
            env, INDEX_FAILED, .log = delay->log->name, .path = path, .position = base,
            .text = q_text(
                "schedule of the segment at %llu: %s; it is tried again", (unsigned long long)base,
                error < 0 ? strerror(-error) : q_err_name(err)));
}

static bool
filing_adopt(struct qlog_delay *delay)
{
    struct ql_filing *filing = &delay->filing;
    struct ql_run *run = filing->run;
    if (run == NULL) return false;
    /* What is written again is counted by places in memory. */
    if (run == delay->runs[0] && delay->space == QL_SPACE_CARRY) return false;
    const struct ql_schedule_header *header = &filing->build.header;
    struct ql_schedule_layout layout = ql_schedule_layout(header);
    struct ql_run_file *file = malloc(sizeof(*file));
    uint64_t *starts = malloc((size_t)layout.page_count * sizeof(starts[0]));
    if (file == NULL || starts == NULL) {
        free(file);
        free(starts);
        return false;
    }
    for (uint32_t i = 0; i < layout.page_count; i++)
        starts[i] = q_load_le64(filing->build.file + layout.tail_at + (size_t)i * 8);
    file->header = *header;
    file->layout = layout;
    file->starts = starts;
    file->map = NULL;
    file->loaded = UINT32_MAX;
    ql_run_take_file(run, file);
    ql_run_settle(delay, run);
    return true;
}
