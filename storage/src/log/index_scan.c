#include "log/index_scan.h"

#include <string.h>

struct rebuild {
    struct ql_index_collect collect;
    bool unread; /* a read failed */
};

static enum q_err rebuild_on_frame(void *context, const struct ql_scan *scan);
static void rebuild_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state);

enum q_err
ql_entry_of_record(
    const struct ql_scan *scan,
    const struct ql_record *record,
    struct qbatch *ret_batch,
    struct ql_entry *ret_entry)
{
    Q_TRY(qbatch_open_trusted(record->bytes, ret_batch));
    const uint8_t *frame = scan->records.data - QL_FRAME_HEADER_SIZE;
    *ret_entry = (struct ql_entry){
        .first_sequence = ret_batch->first_sequence,
        .frame = scan->frame.position,
        .frame_size = (uint32_t)ql_frame_size(scan->frame.body_length),
        .envelope_at = (uint32_t)(record->bytes.data - frame),
        .envelope_size = (uint32_t)record->bytes.size,
        .payload_at = (uint32_t)(record->payload - frame),
        .payload_size = record->payload_size,
        .count = ret_batch->message_count,
    };
    return Q_OK;
}

void
ql_index_range_init(
    struct ql_env *env,
    const char *log,
    const struct ql_segment_set *segments,
    uint64_t from,
    uint64_t to,
    struct ql_recover *ret_recover)
{
    *ret_recover = (struct ql_recover){
        .env = env,
        .log = log,
        .segments = segments,
        .from = from,
        .marks = { .durable = to, .end = UINT64_MAX },
        .live = true,
    };
}

void
ql_index_add_rot(struct ql_index_header *header, uint64_t from, uint64_t to)
{
    if (from >= to) return;
    bool first = header->rot_from == header->rot_to;
    header->rot_from = first ? from : q_min_u64(header->rot_from, from);
    header->rot_to = first ? to : q_max_u64(header->rot_to, to);
}

void
ql_index_header_of(
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    struct ql_index_header *ret_header)
{
    *ret_header = (struct ql_index_header){
        .incarnation = segment->incarnation,
        .base = segment->base,
        .end = segment->base,
        .chain = segment->chain,
    };
    memcpy(ret_header->store_id, env->store_id, sizeof(env->store_id));
    (void)strncpy(ret_header->log_name, log, QL_LOG_NAME_MAX - 1);
}

void
ql_index_collect_init(
    struct ql_index_collect *collect,
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment)
{
    ql_entries_init(&collect->entries);
    ql_index_header_of(env, log, segment, &collect->header);
}

void
ql_index_collect_fini(struct ql_index_collect *collect)
{
    ql_entries_fini(&collect->entries);
}

enum q_err
ql_index_collect_add(struct ql_index_collect *collect, const struct ql_scan *scan)
{
    struct ql_record_walk walk = { .records = scan->records, .payloads = scan->payloads };
    struct ql_index_header *header = &collect->header;
    struct ql_record record;
    enum q_err err;
    while ((err = ql_record_next(&walk, &record)) == Q_OK) {
        struct qbatch batch;
        struct ql_entry entry;
        if (record.kind != QL_RECORD_BATCH) continue;
        if (ql_entry_of_record(scan, &record, &batch, &entry) != Q_OK) continue;
        Q_TRY(ql_entries_reserve(&collect->entries, 1));
        Q_TRY(ql_key_rows_reserve(&collect->entries.keys, batch.key_count));
        (void)ql_entries_add(&collect->entries, 0, batch.subject_id, &entry, batch.store_time_ms);
        ql_entries_add_keys(&collect->entries, batch.envelope);
    }
    header->chain = scan->chain;
    header->generation = scan->generation;
    header->wall_ms = scan->wall_ms;
    header->sealed = scan->frame.last;
    return err == Q_END ? Q_OK : err;
}

enum q_err
ql_index_collect_build(
    struct ql_index_collect *collect, uint64_t end, struct ql_index_build *ret_build)
{
    collect->header.end = end;
    *ret_build = (struct ql_index_build){
        .header = collect->header,
        .chunks = collect->entries.chunks,
        .from = collect->entries.floor,
        .to = collect->entries.end,
        .key_chunks = collect->entries.keys.chunks,
        .key_from = collect->entries.keys.floor,
        .key_to = collect->entries.keys.end,
    };
    ql_index_build(ret_build);
    ret_build->chunks = NULL;
    ret_build->key_chunks = NULL;
    return ret_build->err;
}

enum q_err
ql_index_rebuild(
    struct ql_env *env,
    const char *log,
    const struct ql_segment_set *segments,
    const struct ql_segment *segment,
    uint64_t end,
    struct ql_index_build *ret_build)
{
    struct rebuild rebuild = { .unread = false };
    struct ql_index_collect *collect = &rebuild.collect;
    struct ql_recover recover;
    ql_index_collect_init(collect, env, log, segment);
    ql_index_range_init(env, log, segments, segment->base, end, &recover);
    recover.context = &rebuild;
    recover.on_frame = rebuild_on_frame;
    recover.on_rot = rebuild_on_rot;
    enum q_err err = ql_recover(&recover);
    /* What can't be read now may be there all the same: a file without it would say that it is gone. */
    if (err == Q_OK && rebuild.unread)
        err = Q_FAIL(
            Q_E_IO, .path = env->path, .position = (int64_t)collect->header.rot_from,
            .what = q_text("a part of the %s log can't be read to make its index again", log),
            .hint = "check the disk and the kernel's log");
    *ret_build = (struct ql_index_build){ .header = collect->header, .err = err };
    if (err == Q_OK) {
        collect->header.created_ms = q_clock_wall_ms(env->clock);
        err = ql_index_collect_build(collect, end, ret_build);
    }
    ql_index_collect_fini(collect);
    return err;
}

static enum q_err
rebuild_on_frame(void *context, const struct ql_scan *scan)
{
    struct rebuild *rebuild = context;
    return ql_index_collect_add(&rebuild->collect, scan);
}

static void
rebuild_on_rot(void *context, uint64_t from, uint64_t to, enum ql_scan_state state)
{
    struct rebuild *rebuild = context;
    rebuild->unread = rebuild->unread || state == QL_SCAN_READ;
    ql_index_add_rot(&rebuild->collect.header, from, to);
}
