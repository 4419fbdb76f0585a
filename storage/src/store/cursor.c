#include <qlog/cursor.h>

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/record.h"
#include "segment/home.h"

struct qlog_cursor {
    struct ql_home *home;
    unsigned log;
    struct ql_recover recover;
    struct ql_record_walk walk; /* rest of the frame that is being read */
    uint32_t index;
    uint64_t to; /* frames from here on are not read now */
    bool ended;
    struct qlog_damage damage; /* found, and not told yet */
    bool damaged;
    bool in_frame;
    uint64_t gone_bytes; /* of what was called rot: dropped by the writer meanwhile */
};

static enum q_err cursor_find_log(struct qlog_cursor *cursor, const char *name);
static void cursor_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);
static bool cursor_is_rot(struct qlog_cursor *cursor);

enum q_err
qlog_cursor_open(
    const char *directory, const char *log, qlog_position from, struct qlog_cursor **ret_cursor)
{
    struct qlog_cursor *cursor = calloc(1, sizeof(*cursor));
    if (cursor == NULL) return Q_FAIL(Q_E_NOMEM, .what = "cursor");
    enum q_err err = ql_home_open_to_read(directory, NULL, &cursor->home);
    if (err != Q_OK) {
        free(cursor);
        return err;
    }
    err = cursor_find_log(cursor, log);
    if (err == Q_OK) {
        ql_home_recover_init(cursor->home, cursor->log, &cursor->recover);
        if (from.value != 0 && from.value < cursor->recover.from)
            err = Q_FAIL(
                Q_GONE, .path = directory, .position = (int64_t)from.value,
                .what = q_text("the log begins at %llu", (unsigned long long)cursor->recover.from));
    }
    if (err != Q_OK) {
        (void)ql_home_close(cursor->home);
        free(cursor);
        return err;
    }
    cursor->recover.from = q_max_u64(cursor->recover.from, from.value);
    cursor->recover.live = ql_home_is_live(&cursor->home->env);
    cursor->recover.context = cursor;
    cursor->recover.on_rot = cursor_on_rot;
    cursor->to = UINT64_MAX;
    ql_recover_begin(&cursor->recover);
    *ret_cursor = cursor;
    return Q_OK;
}

static enum q_err
cursor_find_log(struct qlog_cursor *cursor, const char *name)
{
    for (unsigned i = 0; i < cursor->home->log_count; i++) {
        if (name != NULL && strcmp(cursor->home->logs[i].name, name) != 0) continue;
        cursor->log = i;
        return Q_OK;
    }
    return Q_FAIL(
        Q_NOT_FOUND, .path = cursor->home->env.path,
        .what = q_text("there is no \"%s\" log here", name == NULL ? "" : name));
}

void
qlog_cursor_close(struct qlog_cursor *cursor)
{
    if (cursor == NULL) return;
    ql_recover_end(&cursor->recover);
    (void)ql_home_close(cursor->home);
    free(cursor);
}

void
qlog_cursor_set_deep(struct qlog_cursor *cursor, bool deep)
{
    cursor->recover.deep = deep;
}

void
qlog_cursor_range(struct qlog_cursor *cursor, qlog_position from, qlog_position to)
{
    struct ql_scan *scan = &cursor->recover.scan;
    cursor->to = to.value;
    if (from.value <= scan->position) return;
    scan->position = from.value;
    scan->linked = false;
    cursor->in_frame = false;
    cursor->ended = false;
}

static void
cursor_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct qlog_cursor *cursor = context;
    if (cursor->damaged) {
        cursor->damage.to = to;
        return;
    }
    cursor->damaged = true;
    cursor->damage =
        (struct qlog_damage){ .from = from, .to = to, .what = ql_scan_state_text(state) };
}

enum q_err
qlog_cursor_next(
    struct qlog_cursor *cursor, struct qlog_record *ret_record, struct qlog_damage *ret_damage)
{
    for (;;) {
        if (cursor->damaged) {
            cursor->damaged = false;
            if (!cursor_is_rot(cursor)) continue;
            *ret_damage = cursor->damage;
            return Q_FAIL(
                Q_E_CORRUPT, .path = cursor->home->env.path,
                .position = (int64_t)cursor->damage.from, .what = cursor->damage.what);
        }
        struct ql_record record;
        enum q_err err = cursor->in_frame ? ql_record_next(&cursor->walk, &record) : Q_END;
        if (err == Q_OK) {
            const struct ql_frame *frame = &cursor->recover.scan.frame;
            *ret_record = (struct qlog_record){
                .frame = { frame->position },
                .index = cursor->index++,
                .frame_size = (uint32_t)ql_frame_size(frame->body_length),
                .frame_body = frame->body_length,
                .kind = record.kind,
                .wall_ms = frame->wall_ms,
                .generation = frame->generation,
                .bytes = record.bytes,
                .payload = q_bytes_from(record.payload, record.payload_size),
            };
            return Q_OK;
        }
        if (err != Q_END) return err;
        cursor->in_frame = false;
        if (cursor->ended || cursor->recover.scan.position >= cursor->to) return Q_END;
        err = ql_recover_next(&cursor->recover);
        if (err == Q_END) {
            cursor->ended = true;
        } else if (err != Q_OK) {
            return err;
        } else {
            cursor->walk.records = cursor->recover.scan.records;
            cursor->walk.payloads = cursor->recover.scan.payloads;
            cursor->index = 0;
            cursor->in_frame = true;
        }
    }
}

/* What a writer drops, it has taken out of the superblock before it writes over it. */
static bool
cursor_is_rot(struct qlog_cursor *cursor)
{
    uint64_t first = cursor->recover.from;
    if (cursor->recover.live) first = ql_home_first_now(cursor->home, cursor->log);
    struct qlog_damage *damage = &cursor->damage;
    uint64_t gone = q_min_u64(q_max_u64(first, damage->from), damage->to);
    cursor->gone_bytes += gone - damage->from;
    damage->from = gone;
    return damage->from < damage->to;
}

enum q_err
qlog_cursor_check(struct qlog_cursor *cursor, qlog_position frame)
{
    if (!cursor->recover.live) return Q_OK;
    uint64_t first = ql_home_first_now(cursor->home, cursor->log);
    if (frame.value >= first) return Q_OK;
    return Q_FAIL(
        Q_GONE, .path = cursor->home->env.path, .position = (int64_t)frame.value,
        .what = q_text("the log begins at %llu now", (unsigned long long)first));
}

void
qlog_cursor_state(const struct qlog_cursor *cursor, struct qlog_log_state *ret_state)
{
    const struct ql_recover *recover = &cursor->recover;
    *ret_state = (struct qlog_log_state){
        .first = recover->from,
        .end = recover->scan.position,
        .durable = recover->durable,
        .torn_bytes = recover->torn_bytes,
        .rot_bytes = recover->rot_bytes - cursor->gone_bytes,
        .frames = recover->frames,
        .records = recover->records,
        .generation = cursor->home->super.generation,
        .segments = recover->segments->count,
        .clean = cursor->home->was_clean,
        .live = recover->live,
    };
}

enum q_err
qlog_log_name(const char *directory, unsigned index, char ret_name[16])
{
    struct ql_home *home;
    Q_TRY(ql_home_open_to_read(directory, NULL, &home));
    bool there = index < home->log_count;
    if (there) memcpy(ret_name, home->logs[index].name, QL_LOG_NAME_MAX);
    (void)ql_home_close(home);
    return there ? Q_OK : Q_END;
}

static struct ql_record
record_of(const struct qlog_record *record)
{
    return (struct ql_record){
        .kind = record->kind,
        .bytes = record->bytes,
        .payload = record->payload.data,
        .payload_size = (uint32_t)record->payload.size,
    };
}

enum q_err
qlog_record_bytes(const struct qlog_record *record, struct q_bytes *ret_bytes)
{
    if (record->kind != QL_RECORD_BYTES) return Q_NOT_FOUND;
    return ql_bytes_record_decode(record->bytes, ret_bytes);
}

const char *
qlog_record_name(const struct qlog_record *record)
{
    return ql_record_name(record->kind);
}

bool
qlog_record_describe(const struct qlog_record *record, bool json, char *out, size_t out_size)
{
    struct ql_record internal = record_of(record);
    return ql_record_describe(&internal, json, out, out_size);
}
