/*
 * Index files from a disk that lies: whatever their numbers say, no look-up leaves the file, and what
 * it finds lies in the segment.
 *
 * Input: the header's block, then tables. A fuzzer can't guess hashes, so they are made right.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/index_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    FILE_MAX = 64 * 1024
};

static void
look(struct ql_index_view *view, uint32_t subject_id, uint64_t sequence)
{
    struct ql_index_subject subject;
    struct ql_entry entry;
    uint32_t at;
    if (ql_index_view_find(view, subject_id, sequence, &subject, &at, &entry) != Q_OK) return;
    const struct ql_index_header *header = &view->header;
    Q_ASSERT(at >= subject.first && at - subject.first < subject.count);
    Q_ASSERT(entry.frame >= header->base && entry.frame + entry.frame_size <= header->end);
    Q_ASSERT((uint64_t)entry.envelope_at + entry.envelope_size <= entry.frame_size);
    Q_ASSERT((uint64_t)entry.payload_at + entry.payload_size <= entry.frame_size);
}

static void
look_at_keys(struct ql_index_view *view)
{
    uint32_t at;
    if (ql_index_view_find_key(view, UINT64_MAX / 2, &at) == Q_OK)
        Q_ASSERT(at <= view->header.key_count);
    for (at = 0; at < view->header.key_count; at++) {
        struct ql_index_key key;
        struct ql_index_subject subject;
        if (ql_index_view_key(view, at, &key) != Q_OK) continue;
        Q_ASSERT(key.entry < view->header.entry_count);
        if (ql_index_view_subject_of(view, key.entry, &subject) != Q_OK) continue;
        Q_ASSERT(key.entry >= subject.first && key.entry - subject.first < subject.count);
    }
}

static void
mend(uint8_t *file, size_t size)
{
    struct ql_index_header header;
    q_store_le32(file + QL_INDEX_MAGIC_AT, QL_INDEX_MAGIC);
    q_store_le64(file, ql_hash(file + 8, QL_BLOCK - 8));
    if (ql_index_header_decode(file, &header) != QL_BLOCK_GOOD) return;
    struct ql_index_layout layout = ql_index_layout(&header);
    if (layout.file_size > size) return;
    for (uint64_t page = 0; page < layout.page_count; page++) {
        uint64_t at = layout.entries_at + page * QL_INDEX_PAGE;
        uint64_t rest = q_min_u64(QL_INDEX_PAGE, layout.pages_at - at);
        q_store_le64(file + layout.pages_at + page * 8, ql_hash(file + at, rest));
    }
    header.pages_hash = ql_hash(file + layout.pages_at, layout.page_count * 8);
    ql_index_header_encode(&header, file);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = calloc(1, FILE_MAX);
    Q_ASSERT(file != NULL);
    memcpy(file, data, q_min_u64(size, FILE_MAX));
    for (unsigned round = 0; round < 2; round++) {
        struct ql_index_header header;
        struct ql_index_view view;
        if (round == 1) mend(file, FILE_MAX);
        if (ql_index_header_decode(file, &header) != QL_BLOCK_GOOD) continue;
        if (ql_index_layout(&header).file_size > FILE_MAX) continue;
        if (ql_index_view_init(&view, &header, file) != Q_OK) continue;
        for (uint32_t i = 0; i < header.subject_count; i++) {
            struct ql_index_subject subject;
            if (ql_index_view_subject(&view, i, &subject) != Q_OK) continue;
            look(&view, subject.id, 0);
            look(&view, subject.id, subject.next_sequence / 2);
            look(&view, subject.id, subject.next_sequence - 1);
        }
        look(&view, 0, 0);
        look_at_keys(&view);
        uint64_t position;
        enum q_err err = ql_index_view_time(&view, header.wall_ms, &position);
        if (err == Q_OK) err = ql_index_view_time(&view, header.wall_ms / 2, &position);
        if (err == Q_OK) err = ql_index_view_second(&view, position, &position);
        if (err == Q_OK) err = ql_index_view_check(&view);
        Q_ASSERT(err == Q_OK || err == Q_NOT_FOUND || err == Q_E_CORRUPT);
        ql_index_view_fini(&view);
    }
    free(file);
    return 0;
}
