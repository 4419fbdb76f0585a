/*
 * seeds_storage.c: inputs for fuzz_storage_record, _block and _index to begin with:
 * seeds_storage RECORD_DIRECTORY BLOCK_DIRECTORY INDEX_DIRECTORY
 *
 * To be run again when the format changes, since the kept inputs are not understood then.
 */
#include <stdio.h>
#include <stdlib.h>

#include <qbase/assert.h>

#include "../unit/batch_maker.h"
#include "delay/filing.h"
#include "format/block.h"
#include "format/delay_record.h"
#include "format/record.h"
#include "log/index_build.h"

enum {
    RECORD_MAX = 16 * 1024
};

static void write_seed(
    const char *directory, const char *name, struct q_bytes records, struct q_bytes payloads);
static void write_file(const char *directory, const char *name, struct q_bytes bytes);

/* A seed of one record: its struct, and what its encoder wants besides. */
#define SEED(directory, name, size, ...)                                                           \
    do {                                                                                           \
        uint8_t record_[RECORD_MAX] = { 0 };                                                       \
        uint32_t size_ = (size);                                                                   \
        ql_##name##_record_encode(__VA_ARGS__, record_);                                           \
        write_seed((directory), #name, q_bytes_from(record_, size_), q_bytes_from("", 0));         \
    } while (0)

static void
write_delay_records(const char *directory)
{
    struct ql_replaces_record replaces = { .sequence = 17 };
    SEED(directory, replaces, QL_REPLACES_RECORD_SIZE, &replaces);
    struct ql_delayed_record delayed = { .next_sequence = 900, .done_below = 300 };
    SEED(directory, delayed, QL_DELAYED_RECORD_SIZE, &delayed);
    struct ql_target_record target = { 1, 44, { 1, 2, 3 }, q_bytes_from_text("east") };
    SEED(directory, target, ql_target_record_size(&target), &target);
    struct ql_dispatch_record dispatch = { .target_id = 1, .item_count = 2, .request = 44 };
    const struct ql_dispatch_item items[] = {
        { 1700000000000, 17, 8192, 3, 0, 128, 224, 352, 64, 5 },
        { 1700000000001, 25, 8192, 1, 2, 352, 192, 416, 8, 5 },
    };
    SEED(directory, dispatch, ql_dispatch_record_size(2), &dispatch, items);
    struct ql_dispatched_record dispatched = { .target_id = 1, .request = 44 };
    SEED(directory, dispatched, QL_DISPATCHED_RECORD_SIZE, &dispatched);
    struct ql_aside_record aside = { 18, 1, Q_TOO_BIG };
    SEED(directory, aside, QL_ASIDE_RECORD_SIZE, &aside);
    struct ql_done_record done = { 3 * QL_MARKS_MESSAGES, 9 * (uint64_t)QL_MARKS_MESSAGES };
    SEED(directory, done, QL_DONE_RECORD_SIZE, &done);
    struct ql_withdrawn_record withdrawn = { .sequence = 18 };
    SEED(directory, withdrawn, QL_WITHDRAWN_RECORD_SIZE, &withdrawn);
    static const uint64_t bits[QL_MARKS_WORDS] = { 0xf0f0, 1 };
    SEED(directory, marks, QL_MARKS_RECORD_SIZE, 65536, bits);
}

static void
write_records(const char *directory)
{
    struct ql_subject_record subject = { 7, 2, .name = q_bytes_from_text("orders.paid") };
    SEED(directory, subject, ql_subject_record_size(&subject), &subject);
    struct ql_group_record group = {
        .group_id = 3,
        .subject_id = 7,
        .cursor = 100,
        .subject = subject.name,
        .name = q_bytes_from_text("mail"),
        .settings = { .attempts_max = 16,
                      .pending_max = 20000,
                      .backoff_count = 2,
                      .backoff_ms = { 5000, 10000 } },
        .filter_count = 1,
        .filters = { { 3, { { q_bytes_from_text("big"), q_bytes_from_text("new") }, 2, 1 } } },
    };
    SEED(directory, group, ql_group_record_size(&group), &group);
    struct ql_join_record join = { 3, 1, 42, 0, .name = q_bytes_from_text("host-1") };
    join.filter = group.filters[0];
    SEED(directory, join, ql_join_record_size(&join), &join);
    struct ql_pull_record pull = { 3, 1, 0, 112, .run_count = 2, .pass_count = 1 };
    const struct ql_pull_run runs[] = { { 100, 4, 0, 512, 1, { 0 } },
                                        { 105, 1, 77, 128, 1, { 1, 0, 1 } } };
    const struct ql_pass passes[] = { { 106, 1, 77, 1, QL_REASON_KEY } };
    SEED(directory, pull, ql_pull_record_size(2, 1), &pull, runs, passes);
    struct ql_ack_record ack = { 3, 1, .range_count = 2 };
    const struct qlog_range ranges[] = { { 0, 3 }, { 5, 5 } };
    SEED(directory, ack, ql_ack_record_size(2), &ack, ranges);
    write_delay_records(directory);
    struct ql_nack_record nack = {
        .ack = ack,
        .now_ms = 1700000000000,
        .delay_ms = 5000,
        .error = q_bytes_from_text("no connection"),
    };
    SEED(directory, nack, ql_nack_record_size(2, nack.error.size), &nack, ranges);
    struct ql_timeout_record timeout = { 3, 1, 1700000000000 };
    SEED(directory, timeout, ql_timeout_record_size(), &timeout);
    struct ql_seek_record seek = { 3, 90 };
    SEED(directory, seek, ql_seek_record_size(), &seek);
    struct ql_settings_record settings = { 3, true, group.settings };
    SEED(directory, settings, ql_settings_record_size(&settings), &settings);
    struct ql_delete_record delete = { 3 };
    SEED(directory, delete, ql_delete_record_size(), &delete);
    struct ql_unfilter_record unfilter = { 3, 3 };
    SEED(directory, unfilter, ql_unfilter_record_size(), &unfilter);
    struct ql_resolve_record resolve = { 3, QL_VERDICT_SKIPPED, 120, .item_count = 1 };
    const struct ql_resolve_item resolved[] = { { 100, 119, 0 } };
    SEED(directory, resolve, ql_resolve_record_size(1), &resolve, resolved);
    struct ql_error_record error = { 3, 105, 4, 2, q_bytes_from_text("no connection") };
    SEED(directory, error, ql_error_record_size(&error), &error);
    struct ql_release_record release = { 3, 1, QL_RELEASE_LEFT };
    SEED(directory, release, ql_release_record_size(), &release);
    struct ql_consumer_record consumer = { 3, 1, 42, 9, 2, .filter = 3, .name = join.name };
    SEED(directory, consumer, ql_consumer_record_size(&consumer), &consumer);
    struct ql_ranges_record held = { 3, .item_count = 1 };
    const struct ql_range_item items[] = {
        { 4, 105, 0, 1, 1, 77, 128, 1, 0, { 1, 0, 1 } },
    };
    SEED(directory, ranges, ql_ranges_record_size(1), QL_RECORD_HELD, &held, items);
    struct ql_cursor_record cursor = { 3, 110 };
    SEED(directory, cursor, ql_cursor_record_size(), &cursor);
    struct ql_producer_record producer = { { 1, 2, 3 }, 1700000000000, .result_count = 2 };
    const struct ql_producer_result results[] = { { 7, 4096, 128, 512, 11, 1 },
                                                  { 9, 8192, 128, 900, 12, 3 } };
    SEED(directory, producer, ql_producer_record_size(2), &producer, results);
    struct q_bytes bytes = q_bytes_from_text("bytes of a program's own");
    SEED(directory, bytes, ql_bytes_record_size(bytes.size), bytes);

    struct made_batch batch = make_random_batch(1, 5, true);
    qbatch_set_prefix(batch.envelope, 7, 100, 1700000000000);
    write_seed(
        directory, "batch", q_bytes_from(batch.envelope, batch.envelope_size),
        q_bytes_from(batch.payload, batch.payload_size));
    made_batch_free(&batch);
}

static void
write_blocks(const char *directory)
{
    uint8_t block[QL_BLOCK];
    struct ql_super super = {
        .log_count = 2,
        .sequence = 9,
        .generation = 3,
        .logs = { { "message", 8192, 8192, 1, 2 }, { "action", 4096, 4096, 3, 1 } },
    };
    ql_super_encode(&super, block);
    write_file(directory, "super", q_bytes_from(block, sizeof(block)));
    struct ql_segment_header segment = {
        .in_use = true,
        .log_name = "message",
        .incarnation = 2,
        .base = 8192,
        .file_size = 1024 * 1024,
    };
    ql_segment_header_encode(&segment, block);
    write_file(directory, "segment", q_bytes_from(block, 128));
    struct ql_frame frame = {
        .position = 8192,
        .incarnation = 2,
        .generation = 3,
        .body_length = 1000,
        .records_length = 400,
        .record_count = 2,
    };
    ql_frame_encode(&frame, block);
    write_file(directory, "frame", q_bytes_from(block, QL_FRAME_HEADER_SIZE));
}

/* A file of some subjects, and the same with another's numbers on top. */
static void
write_index(const char *directory)
{
    struct ql_entries entries;
    ql_entries_init(&entries);
    uint64_t next[3] = { 0 };
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t subject = i * i % 3;
        struct ql_entry entry = {
            .first_sequence = next[subject],
            .frame = 8192 + (uint64_t)i * 4096,
            .frame_size = 4096,
            .envelope_at = 128,
            .envelope_size = 200,
            .payload_at = 328,
            .payload_size = 400,
            .count = 1 + i % 4,
        };
        next[subject] += entry.count;
        enum q_err err = ql_entries_reserve(&entries, 1);
        if (err == Q_OK) err = ql_key_rows_reserve(&entries.keys, 1);
        Q_ASSERT(err == Q_OK);
        uint64_t number =
            ql_entries_add(&entries, 0, subject, &entry, 1700000000000 + (uint64_t)i * 300);
        if (i % 3 == 0)
            ql_key_rows_add(&entries.keys, ql_hash(&(uint8_t){ (uint8_t)(i % 4) }, 1), number);
    }
    struct ql_index_build build = {
        .header = {
            .log_name = "message",
            .incarnation = 2,
            .base = 8192,
            .end = 8192 + 40 * 4096,
            .wall_ms = 1700000012000,
        },
        .chunks = entries.chunks,
        .from = entries.floor,
        .to = entries.end,
        .key_chunks = entries.keys.chunks,
        .key_from = entries.keys.floor,
        .key_to = entries.keys.end,
    };
    ql_index_build(&build);
    Q_ASSERT(build.err == Q_OK);
    write_file(directory, "index", q_bytes_from(build.file, build.file_size));
    q_store_le32(build.file + QL_INDEX_SUBJECTS, 20);
    write_file(directory, "subjects", q_bytes_from(build.file, build.file_size));
    q_store_le32(build.file + QL_INDEX_KEYS, 2);
    write_file(directory, "keys", q_bytes_from(build.file, build.file_size));
    free(build.file);
    ql_entries_fini(&entries);
}

/* A file of three pages, and the same with another's numbers on top. */
static void
write_schedule(const char *directory)
{
    enum {
        COUNT = 200
    };
    static struct ql_delay_entry entries[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        entries[i] = (struct ql_delay_entry){
            .due_ms = 1700000000000 + i * 7919 % 1000,
            .sequence = 1000 + i * 2,
            .frame = i * 4096,
            .envelope_at = 128,
            .envelope_size = 200,
            .payload_at = 328,
            .payload_size = 400,
            .count = 2,
            .subject_id = i % 2,
        };
    uint64_t replaced[] = { 3, 1004 };
    uint8_t rows[64];
    struct q_bytes name = q_bytes_from_text("orders");
    uint32_t size = ql_schedule_subject_size((uint32_t)name.size);
    ql_schedule_subject_encode(0, name, rows);
    ql_schedule_subject_encode(1, q_bytes_from_text("ticket"), rows + size);
    struct ql_schedule_build build = {
        .header = {
            .log_name = "delay",
            .incarnation = 2,
            .base = 8192,
            .end = 8192 + COUNT * 4096,
            .entry_count = COUNT,
            .replaced_count = 2,
            .subject_count = 2,
            .subject_bytes = 2 * size,
        },
        .entries = entries,
        .replaced = replaced,
        .subjects = rows,
    };
    ql_schedule_build(&build);
    Q_ASSERT(build.err == Q_OK);
    write_file(directory, "schedule", q_bytes_from(build.file, build.file_size));
    q_store_le32(build.file + QL_SCHEDULE_REPLACED, 9);
    write_file(directory, "replaced", q_bytes_from(build.file, build.file_size));
    q_store_le32(build.file + QL_SCHEDULE_ENTRIES, 70);
    write_file(directory, "entries", q_bytes_from(build.file, build.file_size));
    free(build.file);
}

int
main(int argc, char **argv)
{
    Q_ASSERT(argc == 5);
    write_records(argv[1]);
    write_blocks(argv[2]);
    write_index(argv[3]);
    write_schedule(argv[4]);
    return 0;
}

static void
write_seed(const char *directory, const char *name, struct q_bytes records, struct q_bytes payloads)
{
    static uint8_t seed[64 * 1024];
    Q_ASSERT(4 + records.size + payloads.size <= sizeof(seed));
    q_store_le32(seed, (uint32_t)records.size);
    memcpy(seed + 4, records.data, records.size);
    memcpy(seed + 4 + records.size, payloads.data, payloads.size);
    write_file(directory, name, q_bytes_from(seed, 4 + records.size + payloads.size));
}

static void
write_file(const char *directory, const char *name, struct q_bytes bytes)
{
    FILE *file = fopen(q_text("%s/seed-%s", directory, name), "wbe");
    Q_ASSERT(file != NULL);
    Q_ASSERT(fwrite(bytes.data, 1, bytes.size, file) == bytes.size);
    Q_ASSERT(fclose(file) == 0);
}
