#include <stdlib.h>

#include <qlog/guard.h>

#include "log/index.h"
#include "look/audit.h"
#include "segment/home.h"

struct reading {
    struct ql_audit *audit;
    struct ql_audit_source *source;
    struct qlog_cursor *cursor;
    struct ql_index_view *view;
};

static enum q_err read_messages(struct reading *reading, const char *directory);
static enum q_err read_segment(
    struct reading *reading, struct ql_index_files *files, uint64_t base, uint64_t end);
static enum q_err view_is_good(void *context);
static enum q_err tell_view(void *context);
static enum q_err read_on(struct reading *reading, bool actions);
static enum q_err read_actions(struct reading *reading, const char *directory);
static void begin(struct reading *reading);

enum q_err
ql_audit_read(struct ql_audit *audit, const char *directory, struct ql_audit_source *ret_source)
{
    struct reading reading = { .audit = audit, .source = ret_source };
    *ret_source = (struct ql_audit_source){ 0 };
    Q_TRY(qlog_cursor_open(directory, "message", (qlog_position){ 0 }, &reading.cursor));
    begin(&reading);
    enum q_err err = read_messages(&reading, directory);
    qlog_cursor_close(reading.cursor);
    if (err == Q_OK) err = read_actions(&reading, directory);
    if (err == Q_OK) ql_audit_end(audit);
    return err;
}

static void
begin(struct reading *reading)
{
    struct ql_audit *audit = reading->audit;
    struct qlog_log_state state;
    qlog_cursor_state(reading->cursor, &state);
    audit->live = audit->live || state.live;
    audit->unclean = !state.clean;
    audit->generation = q_max_u64(audit->generation, state.generation);
    audit->action_first = state.first;
}

static enum q_err
read_messages(struct reading *reading, const char *directory)
{
    struct ql_home *home;
    struct ql_index_files files;
    Q_TRY(ql_home_open_to_read(directory, NULL, &home));
    const struct ql_segment_set *segments = &home->logs[0].segments;
    reading->source->segments = segments->count;
    ql_index_files_init(&files, &home->logs[0], NULL, false);
    enum q_err err = ql_index_files_open(&files);
    for (uint32_t i = 0; err == Q_OK && i < segments->count; i++) {
        bool last = i + 1 == segments->count;
        uint64_t end = last ? UINT64_MAX : segments->segments[i + 1]->base;
        err = read_segment(reading, &files, segments->segments[i]->base, end);
    }
    ql_index_files_fini(&files);
    (void)ql_home_close(home);
    struct qlog_log_state state;
    qlog_cursor_state(reading->cursor, &state);
    if (state.end > state.first) reading->source->log_bytes = state.end - state.first;
    return err;
}

/* What its index file has, and then the rest. */
static enum q_err
read_segment(struct reading *reading, struct ql_index_files *files, uint64_t base, uint64_t end)
{
    struct ql_index_file *file = ql_index_files_of(files, base);
    uint64_t from = base;
    if (file != NULL && file->view.header.rot_from == file->view.header.rot_to) {
        reading->view = &file->view;
        enum q_err err = ql_index_files_view(files, file);
        /* All of it first: half of a file can't be taken back. */
        if (err == Q_OK) err = qlog_guard(view_is_good, &file->view);
        if (err == Q_OK) err = qlog_guard(tell_view, reading);
        if (err == Q_OK) from = file->view.header.end;
        if (err != Q_OK && !ql_index_is_damaged(err)) return err;
    }
    if (from < end && end != UINT64_MAX) reading->source->unindexed++;
    if (from >= end) return Q_OK;
    qlog_cursor_range(reading->cursor, (qlog_position){ from }, (qlog_position){ end });
    return read_on(reading, false);
}

static enum q_err
view_is_good(void *context)
{
    return ql_index_view_check(context);
}

static enum q_err
tell_view(void *context)
{
    const struct reading *reading = context;
    struct ql_index_view *view = reading->view;
    for (uint32_t i = 0; i < view->header.subject_count; i++) {
        struct ql_index_subject row;
        struct ql_entry entry;
        Q_TRY(ql_index_view_subject(view, i, &row));
        struct ql_audit_batches batches = {
            .subject_id = row.id,
            .next_sequence = row.next_sequence,
            .generation = view->header.generation,
        };
        for (uint32_t j = 0; j < row.count; j++) {
            Q_TRY(ql_index_view_entry(view, row.first + j, &entry));
            if (j == 0) {
                batches.first_sequence = entry.first_sequence;
                Q_TRY(ql_index_view_second(view, entry.frame, &batches.first_ms));
            }
            batches.batches++;
            batches.messages += entry.count;
            batches.stored_bytes += entry.payload_size;
            batches.envelope_bytes += entry.envelope_size;
        }
        if (row.count > 0) Q_TRY(ql_index_view_second(view, entry.frame, &batches.last_ms));
        Q_TRY(ql_audit_batches(reading->audit, &batches));
    }
    return Q_OK;
}

/* To the end of what is to be read. */
static enum q_err
read_on(struct reading *reading, bool actions)
{
    for (;;) {
        struct qlog_record record;
        struct qlog_damage damage;
        struct ql_digest digest = { 0 };
        enum q_err err = qlog_cursor_next(reading->cursor, &record, &damage);
        if (err == Q_END) return Q_OK;
        if (err == Q_E_CORRUPT) {
            reading->source->damages++;
            ql_audit_damage(reading->audit, actions, damage.to);
            continue;
        }
        if (err == Q_OK && actions) err = ql_audit_action(reading->audit, &record);
        if (err == Q_OK && !actions) {
            err = ql_digest_of(&record, 0, &digest);
            if (err == Q_NOT_FOUND || err == Q_E_CORRUPT) continue;
            if (err == Q_OK) err = ql_audit_message(reading->audit, &digest);
        }
        if (err != Q_OK) return err;
    }
}

static enum q_err
read_actions(struct reading *reading, const char *directory)
{
    Q_TRY(qlog_cursor_open(directory, "action", (qlog_position){ 0 }, &reading->cursor));
    begin(reading);
    enum q_err err = read_on(reading, true);
    qlog_cursor_close(reading->cursor);
    return err;
}
