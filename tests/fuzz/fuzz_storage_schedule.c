/*
 * Schedule files from a disk that lies: whatever their numbers say, no look leaves the file, and every
 * entry lies in the segment and is in order.
 *
 * Input: a file. A fuzzer can't guess hashes, so they are made right.
 */
#include <stdlib.h>
#include <string.h>

#include <qbase/assert.h>

#include "format/schedule_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    FILE_MAX = 64 * 1024
};

static void
look_at_pages(const uint8_t *file, const struct ql_schedule_header *header)
{
    struct ql_schedule_layout layout = ql_schedule_layout(header);
    struct ql_delay_entry entries[QL_SCHEDULE_PAGE_MAX];
    for (uint32_t i = 0; i < layout.page_count; i++) {
        const uint8_t *page = file + QL_SCHEDULE_HEADER_SIZE + (size_t)i * QL_SCHEDULE_PAGE;
        if (ql_schedule_page_decode(page, header, i, entries) != Q_OK) continue;
        uint32_t count = ql_schedule_page_count(header, i);
        Q_ASSERT(count > 0 && count <= QL_SCHEDULE_PAGE_MAX);
        for (uint32_t j = 0; j < count; j++) {
            uint64_t at = header->base + entries[j].frame;
            Q_ASSERT(at + entries[j].envelope_at + entries[j].envelope_size <= header->end);
            Q_ASSERT(at + entries[j].payload_at + entries[j].payload_size <= header->end);
            Q_ASSERT(entries[j].sequence + entries[j].count <= header->next_sequence);
            Q_ASSERT(j == 0 || !ql_delay_entry_is_before(&entries[j], &entries[j - 1]));
        }
    }
}

static void
look_at_tail(const uint8_t *file, const struct ql_schedule_header *header)
{
    struct ql_schedule_layout layout = ql_schedule_layout(header);
    struct ql_schedule_tail tail;
    if (ql_schedule_tail_open(
            header, q_bytes_from(file + layout.tail_at, layout.tail_size), &tail) != Q_OK)
        return;
    uint64_t sum = 0;
    for (uint32_t i = 0; i < layout.page_count; i++)
        sum += ql_schedule_tail_start(&tail, i);
    for (uint32_t i = 0; i < header->replaced_count; i++)
        sum += ql_schedule_tail_replaced(&tail, i);
    struct q_bytes rows = tail.subjects;
    struct q_bytes name;
    uint32_t id;
    while (ql_schedule_next_subject(&rows, &id, &name) == Q_OK)
        sum += id + ql_hash(name.data, name.size);
    Q_ASSERT(sum != 0 || sum == 0);
}

static void
mend(uint8_t *file)
{
    struct ql_schedule_header header;
    q_store_le32(file + QL_SCHEDULE_MAGIC_AT, QL_SCHEDULE_MAGIC);
    q_store_le64(file, ql_hash(file + 8, QL_BLOCK - 8));
    if (ql_schedule_header_decode(file, &header) != QL_BLOCK_GOOD) return;
    struct ql_schedule_layout layout = ql_schedule_layout(&header);
    if (layout.file_size > FILE_MAX) return;
    for (uint32_t i = 0; i < layout.page_count; i++) {
        uint8_t *page = file + QL_SCHEDULE_HEADER_SIZE + (size_t)i * QL_SCHEDULE_PAGE;
        q_store_le64(page, ql_hash(page + 8, QL_SCHEDULE_PAGE - 8));
    }
    header.tail_hash = ql_hash(file + layout.tail_at, layout.tail_size);
    ql_schedule_header_encode(&header, file);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *file = calloc(1, FILE_MAX);
    Q_ASSERT(file != NULL);
    memcpy(file, data, q_min_u64(size, FILE_MAX));
    for (unsigned round = 0; round < 2; round++) {
        struct ql_schedule_header header;
        if (round == 1) mend(file);
        if (ql_schedule_header_decode(file, &header) != QL_BLOCK_GOOD) continue;
        if (ql_schedule_layout(&header).file_size > FILE_MAX) continue;
        look_at_pages(file, &header);
        look_at_tail(file, &header);
    }
    free(file);
    return 0;
}
