#include "log/index_build.h"

#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>
#include <qbase/clock.h>
#include <qlog/guard.h>

/* `entry`: counted from the first of the file before; from build_keys() on: of this one. */
struct key {
    uint64_t hash;
    uint32_t entry;
};

/* What is being written. */
struct writer {
    struct ql_index_build *build;
    struct ql_index_view before;
    uint64_t *order; /* subject << 32 | entry, from build->from on; sorted */
    uint32_t order_count;
    struct key *keys; /* sorted */
    uint32_t key_count;
    uint32_t *moved; /* of entries, those of the file before first: their numbers in this one */
    struct ql_index_layout layout;
    uint32_t entry_count;
    uint32_t subject_count;
    uint32_t time_count;
};

static enum q_err build_all(void *context);
static enum q_err build_order(struct writer *writer);
static enum q_err build_count(struct writer *writer);
static enum q_err build_key_rows(struct writer *writer);
static int key_compare(const void *a, const void *b);
static enum q_err build_subjects(struct writer *writer);
static void build_times(struct writer *writer, bool write);
static void build_keys(struct writer *writer);
static void build_pages(struct writer *writer);

static const struct ql_node *
build_node(const struct ql_index_build *build, uint64_t number)
{
    uint64_t chunk = number / QL_ENTRIES_CHUNK - build->from / QL_ENTRIES_CHUNK;
    return &build->chunks[chunk][number % QL_ENTRIES_CHUNK];
}

void
ql_index_build(struct ql_index_build *build)
{
    struct writer writer = { .build = build };
    build->file = NULL;
    build->err = Q_OK;
    if (build->before != NULL) {
        build->err = ql_index_view_init(&writer.before, &build->before_header, build->before);
    }
    if (build->err == Q_OK) build->err = qlog_guard(build_all, &writer);
    if (build->err != Q_OK) {
        free(build->file);
        build->file = NULL;
    }
    free(writer.order);
    free(writer.keys);
    free(writer.moved);
    ql_index_view_fini(&writer.before);
}

static enum q_err
build_all(void *context)
{
    struct writer *writer = context;
    struct ql_index_build *build = writer->build;
    struct ql_index_header *header = &build->header;
    if (build->before != NULL) Q_TRY(ql_index_view_check(&writer->before));
    Q_TRY(build_order(writer));
    Q_TRY(build_count(writer));
    header->entry_count = writer->before.header.entry_count + writer->order_count;
    header->subject_count = writer->subject_count;
    Q_TRY(build_key_rows(writer));
    header->key_count = writer->key_count;
    build_times(writer, false);
    header->time_count = writer->time_count;
    writer->layout = ql_index_layout(header);
    build->file_size = writer->layout.file_size;
    void *file;
    if (posix_memalign(&file, QL_BLOCK, build->file_size) != 0)
        return Q_FAIL(Q_E_NOMEM, .what = "index file");
    build->file = file;
    memset(file, 0, build->file_size);
    writer->subject_count = 0;
    writer->time_count = 0;
    Q_TRY(build_subjects(writer));
    build_times(writer, true);
    build_keys(writer);
    build_pages(writer);
    ql_index_header_encode(header, build->file);
    return Q_OK;
}

static int
order_compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a;
    uint64_t right = *(const uint64_t *)b;
    return left < right ? -1 : left > right;
}

/* Entries by subject; those of one subject stay in the order of the log, which is their own. */
static enum q_err
build_order(struct writer *writer)
{
    const struct ql_index_build *build = writer->build;
    if (build->to - build->from > UINT32_MAX)
        return Q_FAIL(Q_TOO_BIG, .what = "too many batches in a segment");
    writer->order_count = (uint32_t)(build->to - build->from);
    if (writer->order_count == 0) return Q_OK;
    writer->order = malloc(writer->order_count * sizeof(*writer->order));
    if (writer->order == NULL) return Q_FAIL(Q_E_NOMEM, .what = "index file");
    for (uint32_t i = 0; i < writer->order_count; i++) {
        uint32_t id = build_node(build, build->from + i)->subject_id;
        writer->order[i] = (uint64_t)id << 32 | i;
    }
    qsort(writer->order, writer->order_count, sizeof(*writer->order), order_compare);
    return Q_OK;
}

/* Subject of entry `at` in the new order; none is that high. */
static uint64_t
order_subject(const struct writer *writer, uint32_t at)
{
    return at < writer->order_count ? writer->order[at] >> 32 : UINT64_MAX;
}

/* Subject `at` of the file before, if there is one. */
static enum q_err
before_subject(
    struct writer *writer, uint32_t at, struct ql_index_subject *ret_subject, uint64_t *ret_id)
{
    *ret_id = UINT64_MAX;
    if (at >= writer->before.header.subject_count) return Q_OK;
    Q_TRY(ql_index_view_subject(&writer->before, at, ret_subject));
    *ret_id = ret_subject->id;
    return Q_OK;
}

static enum q_err
build_count(struct writer *writer)
{
    uint32_t before_at = 0;
    uint32_t at = 0;
    for (;;) {
        struct ql_index_subject before;
        uint64_t before_id;
        Q_TRY(before_subject(writer, before_at, &before, &before_id));
        uint64_t id = q_min_u64(before_id, order_subject(writer, at));
        if (id == UINT64_MAX) return Q_OK;
        if (before_id == id) before_at++;
        while (order_subject(writer, at) == id)
            at++;
        writer->subject_count++;
    }
}

/* Which keys there are, each of a batch once, however many of its messages have it. */
static enum q_err
build_key_rows(struct writer *writer)
{
    const struct ql_index_build *build = writer->build;
    const struct ql_index_header *before = &writer->before.header;
    uint64_t count = before->key_count + (build->key_to - build->key_from);
    if (count == 0) return Q_OK;
    if (count > UINT32_MAX) return Q_FAIL(Q_TOO_BIG, .what = "too many keys in a segment");
    size_t entries = (size_t)before->entry_count + writer->order_count;
    writer->keys = calloc(count, sizeof(*writer->keys));
    writer->moved = calloc(entries + 1, sizeof(*writer->moved));
    if (writer->keys == NULL || writer->moved == NULL)
        return Q_FAIL(Q_E_NOMEM, .what = "keys of an index file");
    uint32_t at = 0;
    for (; at < before->key_count; at++) {
        struct ql_index_key key;
        Q_TRY(ql_index_view_key(&writer->before, at, &key));
        writer->keys[at] = (struct key){ key.hash, key.entry };
    }
    for (uint64_t row = build->key_from; row < build->key_to; row++) {
        uint64_t chunk = row / QL_KEY_ROWS_CHUNK - build->key_from / QL_KEY_ROWS_CHUNK;
        const struct ql_key_row *key = &build->key_chunks[chunk][row % QL_KEY_ROWS_CHUNK];
        writer->keys[at++] = (struct key){
            key->hash,
            before->entry_count + (uint32_t)(key->number - build->from),
        };
    }
    qsort(writer->keys, at, sizeof(*writer->keys), key_compare);
    for (uint32_t i = 0; i < at; i++) {
        const struct key *key = &writer->keys[i];
        bool again = i > 0 && key->hash == key[-1].hash && key->entry == key[-1].entry;
        if (!again) writer->keys[writer->key_count++] = *key;
    }
    return Q_OK;
}

static int
key_compare(const void *a, const void *b)
{
    const struct key *left = a;
    const struct key *right = b;
    if (left->hash != right->hash) return left->hash < right->hash ? -1 : 1;
    return left->entry < right->entry ? -1 : left->entry > right->entry;
}

static void
write_entry(struct writer *writer, const struct ql_entry *entry)
{
    uint8_t *row = writer->build->file + writer->layout.entries_at +
                   (uint64_t)writer->entry_count * QL_INDEX_ENTRY_SIZE;
    q_store_le64(row + QL_INDEX_ENTRY_SEQUENCE, entry->first_sequence);
    q_store_le32(row + QL_INDEX_ENTRY_FRAME, (uint32_t)(entry->frame - writer->build->header.base));
    q_store_le32(row + QL_INDEX_ENTRY_FRAME_SIZE, entry->frame_size);
    q_store_le32(row + QL_INDEX_ENTRY_ENVELOPE_AT, entry->envelope_at);
    q_store_le32(row + QL_INDEX_ENTRY_ENVELOPE_SIZE, entry->envelope_size);
    q_store_le32(row + QL_INDEX_ENTRY_PAYLOAD_AT, entry->payload_at);
    q_store_le32(row + QL_INDEX_ENTRY_PAYLOAD_SIZE, entry->payload_size);
    q_store_le32(row + QL_INDEX_ENTRY_COUNT, entry->count);
    writer->entry_count++;
}

/* Both lists are sorted by subject, and what was there before comes before what is new. */
static enum q_err
build_subjects(struct writer *writer)
{
    const struct ql_index_build *build = writer->build;
    uint32_t before_at = 0;
    uint32_t at = 0;
    for (;;) {
        struct ql_index_subject before;
        uint64_t before_id;
        Q_TRY(before_subject(writer, before_at, &before, &before_id));
        uint64_t id = q_min_u64(before_id, order_subject(writer, at));
        if (id == UINT64_MAX) return Q_OK;
        uint32_t first = writer->entry_count;
        uint64_t next = 0;
        if (before_id == id) {
            before_at++;
            next = before.next_sequence;
            for (uint32_t i = 0; i < before.count; i++) {
                struct ql_entry entry;
                if (writer->entry_count == build->header.entry_count)
                    return Q_FAIL(
                        Q_E_CORRUPT, .what = "index of a segment: entries of two subjects");
                Q_TRY(ql_index_view_entry(&writer->before, before.first + i, &entry));
                if (writer->moved != NULL) writer->moved[before.first + i] = writer->entry_count;
                write_entry(writer, &entry);
            }
        }
        for (; order_subject(writer, at) == id; at++) {
            if (writer->entry_count == build->header.entry_count)
                return Q_FAIL(Q_E_CORRUPT, .what = "index of a segment: entries of two subjects");
            uint64_t number = build->from + (uint32_t)writer->order[at];
            const struct ql_entry *entry = &build_node(build, number)->entry;
            if (writer->moved != NULL)
                writer->moved[writer->before.header.entry_count + (uint32_t)writer->order[at]] =
                    writer->entry_count;
            write_entry(writer, entry);
            next = ql_entry_end(entry);
        }
        uint8_t *row = build->file + writer->layout.subjects_at +
                       (uint64_t)writer->subject_count * QL_INDEX_SUBJECT_SIZE;
        q_store_le32(row + QL_INDEX_SUBJECT_ID, (uint32_t)id);
        q_store_le32(row + QL_INDEX_SUBJECT_FIRST, first);
        q_store_le32(row + QL_INDEX_SUBJECT_COUNT, writer->entry_count - first);
        q_store_le64(row + QL_INDEX_SUBJECT_NEXT, next);
        writer->subject_count++;
    }
}

static void
write_time(struct writer *writer, bool write, uint64_t ms, uint64_t position)
{
    if (write) {
        uint8_t *row = writer->build->file + writer->layout.times_at +
                       (uint64_t)writer->time_count * QL_INDEX_TIME_SIZE;
        q_store_le64(row + QL_INDEX_TIME_MS, ms);
        q_store_le64(row + QL_INDEX_TIME_POSITION, position);
    }
    writer->time_count++;
}

/* The first batch of each second. */
static void
build_times(struct writer *writer, bool write)
{
    const struct ql_index_build *build = writer->build;
    const struct ql_index_view *before = &writer->before;
    uint64_t second = UINT64_MAX;
    for (uint32_t i = 0; i < before->header.time_count; i++) {
        const uint8_t *row =
            before->file + before->layout.times_at + (uint64_t)i * QL_INDEX_TIME_SIZE;
        uint64_t ms = q_load_le64(row + QL_INDEX_TIME_MS);
        write_time(writer, write, ms, q_load_le64(row + QL_INDEX_TIME_POSITION));
        second = ms / Q_MS_PER_S;
    }
    for (uint64_t number = build->from; number < build->to; number++) {
        const struct ql_node *node = build_node(build, number);
        if (node->wall_ms / Q_MS_PER_S == second) continue;
        second = node->wall_ms / Q_MS_PER_S;
        write_time(writer, write, node->wall_ms, node->entry.frame);
    }
}

static void
build_keys(struct writer *writer)
{
    const struct ql_index_build *build = writer->build;
    for (uint32_t i = 0; i < writer->key_count; i++)
        writer->keys[i].entry = writer->moved[writer->keys[i].entry];
    if (writer->key_count > 0)
        qsort(writer->keys, writer->key_count, sizeof(*writer->keys), key_compare);
    for (uint32_t i = 0; i < writer->key_count; i++) {
        uint8_t *row = build->file + writer->layout.keys_at + (uint64_t)i * QL_INDEX_KEY_SIZE;
        q_store_le64(row + QL_INDEX_KEY_HASH, writer->keys[i].hash);
        q_store_le32(row + QL_INDEX_KEY_ENTRY, writer->keys[i].entry);
    }
}

static void
build_pages(struct writer *writer)
{
    struct ql_index_build *build = writer->build;
    const struct ql_index_layout *layout = &writer->layout;
    uint8_t *hashes = build->file + layout->pages_at;
    for (uint64_t page = 0; page < layout->page_count; page++) {
        uint64_t at = layout->entries_at + page * QL_INDEX_PAGE;
        uint64_t size = q_min_u64(QL_INDEX_PAGE, layout->pages_at - at);
        q_store_le64(hashes + page * 8, ql_hash(build->file + at, size));
    }
    build->header.pages_hash = ql_hash(hashes, layout->page_count * 8);
}
