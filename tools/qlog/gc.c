/*
 * gc.c: `qlog gc`: which segments retention may drop, and what holds the others.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qbase/clock.h>
#include <qbase/text.h>
#include <qlog/guard.h>
#include <qlog/log.h>

#include "command.h"
#include "format/record.h"
#include "json.h"
#include "log/index.h"
#include "look/audit.h"
#include "look/directory.h"

enum {
    TEXT_SIZE = 32,
    REASON_SIZE = 200,
    AGE_DEFAULT_H = 72,
};

/* A segment that is a part of a log. */
struct segment {
    unsigned log;
    uint64_t base;
    uint64_t end;
    uint64_t bytes; /* of its file */
    bool active;
    uint64_t newest_ms;
    bool damaged;
    bool goes;
    char reason[REASON_SIZE]; /* why it stays */
};

struct gc {
    struct ql_directory *directory;
    bool store;
    /* The policy: one that is not asked for is UINT64_MAX. */
    uint64_t age_ns;
    uint64_t keep_bytes;
    bool consumed;
    uint64_t now_ms;
    struct ql_audit audit;
    struct segment *segments;
    uint32_t count;
};

static enum q_err plan(struct gc *gc);
static enum q_err plan_log(struct gc *gc, unsigned log);
static enum q_err read_log(struct gc *gc, unsigned log, uint32_t first);
static enum q_err look_at_index(
    struct gc *gc, struct ql_index_files *files, struct segment *segment, uint64_t *from);
static enum q_err look_at_subjects(void *context);
static enum q_err read_segment(struct gc *gc, struct qlog_cursor *cursor, struct segment *segment);
static void hold_by_groups(
    struct gc *gc, struct segment *segment, uint32_t subject_id, uint64_t last);
static void judge(struct gc *gc, struct segment *segment, uint64_t bytes_behind);
static uint64_t first_needed(const struct ql_group *group);
static uint64_t drop_end(const struct gc *gc, unsigned log);
static enum q_err apply(struct gc *gc);
static void print_text(const struct gc *gc, bool applied);
static void print_json(const struct gc *gc, bool applied);

enum tool_exit
gc_run(const struct command *command, int argc, char **argv)
{
    const char *format = "text";
    bool apply_it = false;
    struct gc gc = { .age_ns = UINT64_MAX, .keep_bytes = UINT64_MAX, .now_ms = now_ms() };
    const struct q_opt options[] = {
        { "older-than", 0, Q_OPT_DURATION, &gc.age_ns, "AGE",
          "may go when all of it is older (72h, unless --keep is given)", 0, 0 },
        { "keep", 0, Q_OPT_SIZE, &gc.keep_bytes, "SIZE",
          "may go when the message log behind it is at least this large", 0, 0 },
        { "consumed", 0, Q_OPT_FLAG, &gc.consumed, NULL,
          "stays until every group of its subjects is done with it", 0, 0 },
        { "apply", 0, Q_OPT_FLAG, &apply_it, NULL, "drop it; nobody may have the directory open", 0,
          0 },
        FORMAT_OPTION(format),
    };
    struct command_line line;
    enum tool_exit code;
    if (!command_parse(command, options, 5, &format, argc, argv, &line, &code)) return code;
    if (gc.age_ns == UINT64_MAX && gc.keep_bytes == UINT64_MAX)
        gc.age_ns = (uint64_t)AGE_DEFAULT_H * 3600 * Q_NS_PER_S;
    ql_audit_init(&gc.audit);
    enum q_err err = ql_directory_open(line.directory, &gc.directory);
    if (err == Q_OK && apply_it && gc.directory->live)
        err = Q_FAIL(
            Q_E_LOCKED, .path = line.directory, .what = "another process has the directory open",
            .hint = "stop it first; without --apply this only looks");
    if (err == Q_OK) err = plan(&gc);
    if (err == Q_OK && apply_it) err = apply(&gc);
    if (err != Q_OK)
        code = report(err, line.json);
    else if (line.json)
        print_json(&gc, apply_it);
    else
        print_text(&gc, apply_it);
    free(gc.segments);
    ql_audit_fini(&gc.audit);
    ql_directory_close(gc.directory);
    return err == Q_OK ? TOOL_EXIT_OK : code;
}

static enum q_err
plan(struct gc *gc)
{
    struct ql_directory *directory = gc->directory;
    if (directory->home == NULL) {
        q_fault_adopt(&directory->fault);
        return directory->fault.err;
    }
    gc->store =
        directory->super.log_count == 2 && strcmp(directory->super.logs[0].name, "message") == 0;
    if (gc->consumed && !gc->store)
        return Q_FAIL(
            Q_INVALID, .path = directory->env.path,
            .what = "--consumed: a log of a program's own has no groups");
    struct ql_audit_source source;
    if (gc->store) Q_TRY(ql_audit_read(&gc->audit, directory->env.path, &source));
    if (gc->store && source.unindexed > 0)
        (void)fprintf(
            stderr, "qlog: %u of %u segments have no good index file, and were read\n",
            source.unindexed, source.segments);
    gc->segments = calloc(directory->file_count + 1, sizeof(*gc->segments));
    if (gc->segments == NULL) return Q_FAIL(Q_E_NOMEM, .what = "list of segments");
    for (unsigned log = 0; log < directory->super.log_count; log++)
        Q_TRY(plan_log(gc, log));
    return Q_OK;
}

static enum q_err
plan_log(struct gc *gc, unsigned log)
{
    const struct ql_directory *directory = gc->directory;
    uint32_t from = gc->count;
    for (uint32_t i = 0; i < directory->file_count; i++) {
        const struct ql_file *file = &directory->files[i];
        bool used = file->state == QL_FILE_ACTIVE || file->state == QL_FILE_SEALED;
        if (file->log != log || !used) continue;
        gc->segments[gc->count++] = (struct segment){
            .log = log,
            .base = file->base,
            .end = file->end,
            .bytes = file->size,
            .active = file->state == QL_FILE_ACTIVE,
        };
    }
    Q_TRY(read_log(gc, log, from));
    uint64_t end = gc->count > from ? gc->segments[gc->count - 1].end : 0;
    bool head = true;
    for (uint32_t i = from; i < gc->count; i++) {
        struct segment *segment = &gc->segments[i];
        judge(gc, segment, end - segment->end);
        if (head && segment->reason[0] == '\0') {
            segment->goes = true;
            continue;
        }
        /* Only a head can go: positions and sequences have no holes. */
        if (segment->reason[0] == '\0')
            (void)snprintf(segment->reason, REASON_SIZE, "a segment before it stays");
        head = false;
    }
    return Q_OK;
}

/* What each segment holds, the newest record's time, and who needs it; from `first` on they are its. */
static enum q_err
read_log(struct gc *gc, unsigned log, uint32_t first)
{
    struct ql_log *home_log = &gc->directory->home->logs[log];
    struct qlog_cursor *cursor;
    struct ql_index_files files = { 0 };
    Q_TRY(qlog_cursor_open(gc->directory->env.path, home_log->name, (qlog_position){ 0 }, &cursor));
    bool indexed = gc->store && log == 0;
    ql_index_files_init(&files, home_log, NULL, false);
    enum q_err err = indexed ? ql_index_files_open(&files) : Q_OK;
    for (uint32_t i = first; err == Q_OK && i < gc->count; i++) {
        struct segment *segment = &gc->segments[i];
        uint64_t to = i + 1 < gc->count ? gc->segments[i + 1].base : UINT64_MAX;
        uint64_t from = segment->base;
        err = look_at_index(gc, &files, segment, &from);
        if (err != Q_OK || from >= to) continue;
        qlog_cursor_range(cursor, (qlog_position){ from }, (qlog_position){ to });
        err = read_segment(gc, cursor, segment);
    }
    ql_index_files_fini(&files);
    qlog_cursor_close(cursor);
    return err;
}

struct index_look {
    struct gc *gc;
    struct ql_index_view *view;
    struct segment *segment;
};

/* `*from`: what lies below in the segment is told by its index file. */
static enum q_err
look_at_index(struct gc *gc, struct ql_index_files *files, struct segment *segment, uint64_t *from)
{
    struct ql_index_file *file = ql_index_files_of(files, segment->base);
    if (file == NULL || file->view.header.rot_from < file->view.header.rot_to) return Q_OK;
    struct index_look look = { .gc = gc, .view = &file->view, .segment = segment };
    enum q_err err = gc->consumed ? ql_index_files_view(files, file) : Q_OK;
    if (err == Q_OK && gc->consumed) err = qlog_guard(look_at_subjects, &look);
    if (err == Q_OK) {
        *from = file->view.header.end;
        segment->newest_ms = file->view.header.wall_ms;
    }
    return ql_index_is_damaged(err) ? Q_OK : err;
}

static enum q_err
look_at_subjects(void *context)
{
    const struct index_look *look = context;
    for (uint32_t i = 0; i < look->view->header.subject_count; i++) {
        struct ql_index_subject row;
        Q_TRY(ql_index_view_subject(look->view, i, &row));
        if (row.next_sequence > 0)
            hold_by_groups(look->gc, look->segment, row.id, row.next_sequence - 1);
    }
    return Q_OK;
}

static enum q_err
read_segment(struct gc *gc, struct qlog_cursor *cursor, struct segment *segment)
{
    for (;;) {
        struct qlog_record record;
        struct qlog_damage damage;
        enum q_err err = qlog_cursor_next(cursor, &record, &damage);
        if (err == Q_END) return Q_OK;
        if (err == Q_E_CORRUPT) {
            segment->damaged = true;
            continue;
        }
        Q_TRY(err);
        segment->newest_ms = q_max_u64(segment->newest_ms, record.wall_ms);
        struct qbatch batch;
        bool messages = gc->store && segment->log == 0 && record.kind == QL_RECORD_BATCH;
        if (gc->consumed && messages && qbatch_open(record.bytes, &batch) == Q_OK)
            hold_by_groups(
                gc, segment, batch.subject_id, batch.first_sequence + batch.message_count - 1);
    }
}

/* `last`: the highest sequence of the subject that the segment holds, as far as it was read. */
static void
hold_by_groups(struct gc *gc, struct segment *segment, uint32_t subject_id, uint64_t last)
{
    for (uint32_t i = 0; segment->reason[0] == '\0' && i < gc->audit.group_count; i++) {
        const struct ql_audit_group *found = &gc->audit.groups[i];
        if (found->group == NULL || found->subject_id != subject_id) continue;
        uint64_t needed = first_needed(found->group);
        if (needed > last) continue;
        const struct ql_audit_subject *subject = gc->audit.subjects[found->subject_id];
        (void)snprintf(
            segment->reason, REASON_SIZE,
            "group \"%.*s\" is not done with \"%.*s\" from sequence %" PRIu64 " on",
            (int)found->group->name_size, found->group->name, (int)subject->name_size,
            subject->name, needed);
    }
}

/* The least sequence that the group has in hand, pending, or before it. */
static uint64_t
first_needed(const struct ql_group *group)
{
    uint64_t first = group->cursor;
    if (group->pending.count > 0)
        first = q_min_u64(first, ql_span_at(&group->pending, 0)->sequence);
    for (uint32_t i = 0; i < group->consumer_count; i++) {
        const struct ql_consumer *consumer = group->consumers[i];
        for (uint32_t j = 0; consumer != NULL && j < consumer->held.count; j++)
            first = q_min_u64(first, ql_span_at(&consumer->held, j)->sequence);
    }
    return first;
}

static void
judge(struct gc *gc, struct segment *segment, uint64_t bytes_behind)
{
    if (segment->active) {
        (void)snprintf(segment->reason, REASON_SIZE, "it is being written");
        return;
    }
    if (segment->reason[0] != '\0') return;
    bool sized = gc->store ? segment->log == 0 : true;
    bool old = gc->age_ns != UINT64_MAX &&
               gc->now_ms - q_min_u64(segment->newest_ms, gc->now_ms) >= gc->age_ns / Q_NS_PER_MS;
    bool large = sized && gc->keep_bytes != UINT64_MAX && bytes_behind >= gc->keep_bytes;
    if (old || large) return;
    char text[TEXT_SIZE];
    if (gc->age_ns != UINT64_MAX)
        (void)snprintf(
            segment->reason, REASON_SIZE, "it has records of %s",
            q_text_format_time(segment->newest_ms, text, sizeof(text)));
    else if (sized)
        (void)snprintf(
            segment->reason, REASON_SIZE, "the log behind it has only %s",
            q_text_format_size(bytes_behind, text, sizeof(text)));
    else
        (void)snprintf(segment->reason, REASON_SIZE, "actions go by age: --older-than");
}

/* Position below which the log may be dropped; 0: nothing. */
static uint64_t
drop_end(const struct gc *gc, unsigned log)
{
    uint64_t end = 0;
    for (uint32_t i = 0; i < gc->count; i++)
        if (gc->segments[i].log == log && gc->segments[i].goes) end = gc->segments[i].end;
    return end;
}

static void
on_trimmed(struct qlog_request *request, enum q_err err)
{
    (void)err;
    *(bool *)request->context = true;
}

/* The same request that a running store gets, so it states what must outlive its log. */
static enum q_err
apply(struct gc *gc)
{
    const char *path = gc->directory->env.path;
    struct qlog_store_options options = {
        .log.segment_bytes = ql_directory_segment_bytes(gc->directory),
    };
    uint64_t before = drop_end(gc, 0);
    uint64_t actions_before = gc->store ? drop_end(gc, 1) : 0;
    if (before == 0 && actions_before == 0) return Q_OK;
    if (!gc->store) {
        struct qlog *log;
        Q_TRY(qlog_open(path, &options.log, &log));
        enum q_err err = qlog_trim(log, (qlog_position){ before });
        enum q_err closed = qlog_close(log);
        return err == Q_OK ? closed : err;
    }
    struct qlog_store *store;
    Q_TRY(qlog_store_open(path, &options, &store));
    bool done = false;
    struct qlog_trim trim = {
        .request = { .kind = QLOG_TRIM, .done = on_trimmed, .context = &done },
        .messages_before = { before },
        .actions_before = { actions_before },
    };
    enum q_err err = qlog_store_submit(store, &trim.request);
    while (err == Q_OK && !done) {
        err = qlog_store_turn(store);
        if (err == Q_OK && !done) err = qlog_store_wait(store, Q_NS_PER_MS);
    }
    if (err == Q_OK) err = trim.request.err;
    struct q_fault fault = *q_fault_last();
    enum q_err closed = qlog_store_close(store);
    if (err == Q_OK) return closed;
    q_fault_adopt(&fault);
    return err;
}

static uint64_t
bytes_that_go(const struct gc *gc)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < gc->count; i++)
        if (gc->segments[i].goes) bytes += gc->segments[i].bytes;
    return bytes;
}

static void
print_text(const struct gc *gc, bool applied)
{
    char text[TEXT_SIZE];
    (void)printf(
        "%-16s %16s %16s %10s  %s\n", "LOG", "FROM", "TO", "SIZE",
        applied ? "WHAT HAPPENED" : "WHAT MAY HAPPEN");
    for (uint32_t i = 0; i < gc->count; i++) {
        const struct segment *segment = &gc->segments[i];
        (void)printf(
            "%-16s %16" PRIu64 " %16" PRIu64 " %10s  %s%s%s",
            gc->directory->super.logs[segment->log].name, segment->base, segment->end,
            q_text_format_size(segment->bytes, text, sizeof(text)),
            !segment->goes ? "stays"
            : applied      ? "dropped"
                           : "may go",
            segment->goes ? "" : ": ", segment->goes ? "" : segment->reason);
        (void)printf("%s\n", segment->damaged ? "  (a part of it is damaged)" : "");
    }
    uint64_t bytes = bytes_that_go(gc);
    (void)printf(
        "%s: %s%s\n", applied ? "dropped" : "may go", q_text_format_size(bytes, text, sizeof(text)),
        applied && bytes > 0 ? "; a part of it is kept as spares, to be written again"
        : applied            ? ""
        : bytes > 0          ? ". Nothing was changed; --apply drops it"
                             : ". Nothing was changed");
}

static void
print_json(const struct gc *gc, bool applied)
{
    struct json json = { 0 };
    json_open(&json, NULL, '{');
    json_open(&json, "segments", '[');
    for (uint32_t i = 0; i < gc->count; i++) {
        const struct segment *segment = &gc->segments[i];
        json_open(&json, NULL, '{');
        json_text(&json, "log", q_bytes_from_text(gc->directory->super.logs[segment->log].name));
        json_number(&json, "from", segment->base);
        json_number(&json, "to", segment->end);
        json_number(&json, "bytes", segment->bytes);
        if (segment->newest_ms > 0) json_time(&json, "newest", segment->newest_ms);
        json_bool(&json, "goes", segment->goes);
        if (!segment->goes) json_text(&json, "held_by", q_bytes_from_text(segment->reason));
        json_close(&json, '}');
    }
    json_close(&json, ']');
    json_number(&json, "bytes", bytes_that_go(gc));
    json_bool(&json, "applied", applied);
    json_close(&json, '}');
    (void)putchar('\n');
}
