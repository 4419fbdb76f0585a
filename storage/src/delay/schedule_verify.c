#include "delay/schedule_verify.h"

#include <stdlib.h>
#include <string.h>

#include <qlog/guard.h>

#include "delay/delay.h"
#include "log/index_scan.h"

/* What the frames of a segment say. */
struct witness {
    struct ql_run run;
    uint8_t *rows; /* of subjects, by id */
    uint32_t rows_size;
    uint32_t subject_count;
    bool damaged;
};

static enum q_err verify_segment(
    const struct ql_schedule_verify *verify, const struct ql_segment *segment, uint64_t end);
static enum q_err verify_pages(
    struct ql_env *env, const struct ql_log *log, uint32_t number, struct ql_run_file *file);
static enum q_err verify_deep(
    struct ql_home *home, const struct ql_log *log, struct ql_run_file *file, bool *ret_same);
static enum q_err compare_bytes(void *context);
static enum q_err witness_frame(void *context, const struct ql_scan *scan);
static void witness_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static enum q_err witness_name(struct witness *witness, const struct ql_subject_record *subject);

enum q_err
ql_schedule_verify(const struct ql_schedule_verify *verify)
{
    const struct ql_segment_set *segments = &verify->home->logs[verify->log].segments;
    for (uint32_t i = 0; i + 1 < segments->count; i++)
        Q_TRY(verify_segment(verify, segments->segments[i], segments->segments[i + 1]->base));
    return Q_OK;
}

static enum q_err
verify_segment(
    const struct ql_schedule_verify *verify, const struct ql_segment *segment, uint64_t end)
{
    struct ql_home *home = verify->home;
    const struct ql_log *log = &home->logs[verify->log];
    struct ql_run_file *file = NULL;
    uint8_t *tail = NULL;
    const char *what = NULL;
    enum q_err err = ql_run_file_open(&home->env, log->name, segment, end, &file, &tail);
    if (err == Q_NOT_FOUND) return Q_OK;
    if (err == Q_OK) err = verify_pages(&home->env, log, segment->number, file);
    bool same = true;
    if (err == Q_E_CORRUPT)
        what = "is damaged";
    else if (err == Q_OK && verify->deep)
        err = verify_deep(home, log, file, &same);
    if (!same) what = "does not say what its segment says";
    ql_run_file_free(&home->env, file);
    free(tail);
    if (what == NULL) return err;
    /* A running store may have dropped the segment meanwhile. */
    err = ql_run_file_open(&home->env, log->name, segment, end, &file, &tail);
    if (err == Q_OK) {
        ql_run_file_free(&home->env, file);
        free(tail);
    }
    if (err == Q_OK || err == Q_E_CORRUPT)
        verify->on_finding(
            verify->context, segment->base,
            q_text("schedule-%06u %s; the store makes it again", segment->number, what));
    return Q_OK;
}

static enum q_err
verify_pages(
    struct ql_env *env, const struct ql_log *log, uint32_t number, struct ql_run_file *file)
{
    for (uint32_t i = 0; i < file->layout.page_count; i++) {
        enum q_err err = ql_run_file_load(env, log->name, number, file, i);
        if (err == Q_OK && file->entries[0].due_ms != file->starts[i]) err = Q_E_CORRUPT;
        if (err != Q_OK) return err;
    }
    return Q_OK;
}

/* The file is the only one that can be made of the segment. */
static enum q_err
verify_deep(
    struct ql_home *home, const struct ql_log *log, struct ql_run_file *file, bool *ret_same)
{
    struct witness witness = { .run = { .base = file->header.base, .first_sequence = UINT64_MAX } };
    struct ql_run *run = &witness.run;
    struct ql_env quiet = home->env;
    struct ql_recover recover;
    quiet.observer = NULL;
    ql_index_range_init(
        &quiet, log->name, &log->segments, file->header.base, file->header.end, &recover);
    recover.context = &witness;
    recover.on_frame = witness_frame;
    recover.on_rot = witness_rot;
    enum q_err err = ql_recover(&recover);
    struct ql_schedule_build build = {
        .header = file->header,
        .entries = run->entries,
        .replaced = run->replaced,
        .subjects = witness.rows,
    };
    build.header.generation = run->generation;
    build.header.wall_ms = run->wall_ms;
    build.header.entry_count = run->count;
    build.header.replaced_count = run->replaced_count;
    build.header.subject_count = witness.subject_count;
    build.header.subject_bytes = witness.rows_size;
    if (err == Q_OK && !witness.damaged) {
        ql_schedule_build(&build);
        err = build.err;
    }
    struct q_bytes bytes[] = {
        q_bytes_from(build.file, build.file_size),
        q_bytes_from(file->map, file->layout.file_size),
    };
    if (build.file != NULL) *ret_same = qlog_guard(compare_bytes, bytes) == Q_OK;
    free(build.file);
    free(run->entries);
    free(run->heap);
    free(run->replaced);
    free(witness.rows);
    return err;
}

/* Under a guard. */
static enum q_err
compare_bytes(void *context)
{
    const struct q_bytes *bytes = context;
    return q_bytes_equal(bytes[0], bytes[1]) ? Q_OK : Q_E_CORRUPT;
}

static enum q_err
witness_frame(void *context, const struct ql_scan *scan)
{
    struct witness *witness = context;
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_record record;
    while (ql_record_next(&walk, &record) == Q_OK) {
        struct ql_subject_record subject;
        if (record.kind == QL_RECORD_SUBJECT &&
            ql_subject_record_decode(record.bytes, &subject) == Q_OK)
            Q_TRY(witness_name(witness, &subject));
    }
    return ql_run_collect(&witness->run, scan);
}

static void
witness_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct witness *witness = context;
    (void)from;
    (void)to;
    (void)state;
    witness->damaged = true;
}

/* Into its place among the rows, unless it is there. */
static enum q_err
witness_name(struct witness *witness, const struct ql_subject_record *subject)
{
    struct q_bytes rows = q_bytes_from(witness->rows, witness->rows_size);
    uint32_t at = 0;
    uint32_t id;
    struct q_bytes name;
    while (ql_schedule_next_subject(&rows, &id, &name) == Q_OK && id <= subject->subject_id) {
        if (id == subject->subject_id) return Q_OK;
        at = (uint32_t)(rows.data - witness->rows);
    }
    uint32_t size = ql_schedule_subject_size((uint32_t)subject->name.size);
    uint8_t *grown = realloc(witness->rows, (size_t)witness->rows_size + size);
    if (grown == NULL) return Q_FAIL(Q_E_NOMEM, .what = "subjects of a segment");
    memmove(grown + at + size, grown + at, witness->rows_size - at);
    ql_schedule_subject_encode(subject->subject_id, subject->name, grown + at);
    witness->rows = grown;
    witness->rows_size += size;
    witness->subject_count++;
    return Q_OK;
}
