#include "format/schedule_file.h"

#include <string.h>

#include "planted.h"

static void entry_encode(const struct ql_delay_entry *entry, uint8_t *at);
static void entry_decode(const uint8_t *at, struct ql_delay_entry *ret_entry);
static bool entry_fits(const struct ql_schedule_header *header, const struct ql_delay_entry *entry);

void
ql_schedule_header_encode(const struct ql_schedule_header *header, uint8_t block[QL_BLOCK])
{
    memset(block, 0, QL_BLOCK);
    q_store_le32(block + QL_SCHEDULE_MAGIC_AT, QL_SCHEDULE_MAGIC);
    q_store_le16(block + QL_SCHEDULE_VERSION, QL_FORMAT_VERSION);
    memcpy(block + QL_SCHEDULE_STORE_ID, header->store_id, sizeof(header->store_id));
    memcpy(block + QL_SCHEDULE_LOG_NAME, header->log_name, QL_LOG_NAME_MAX);
    q_store_le64(block + QL_SCHEDULE_INCARNATION, header->incarnation);
    q_store_le64(block + QL_SCHEDULE_BASE, header->base);
    q_store_le64(block + QL_SCHEDULE_END, header->end);
    q_store_le64(block + QL_SCHEDULE_GENERATION, header->generation);
    q_store_le64(block + QL_SCHEDULE_WALL_MS, header->wall_ms);
    q_store_le64(block + QL_SCHEDULE_BYTES, header->bytes);
    q_store_le64(block + QL_SCHEDULE_MESSAGES, header->messages);
    q_store_le64(block + QL_SCHEDULE_FIRST, header->first_sequence);
    q_store_le64(block + QL_SCHEDULE_NEXT, header->next_sequence);
    q_store_le32(block + QL_SCHEDULE_ENTRIES, header->entry_count);
    q_store_le32(block + QL_SCHEDULE_REPLACED, header->replaced_count);
    q_store_le32(block + QL_SCHEDULE_SUBJECTS, header->subject_count);
    q_store_le32(block + QL_SCHEDULE_SUBJECT_BYTES, header->subject_bytes);
    q_store_le64(block + QL_SCHEDULE_TAIL_HASH, header->tail_hash);
    q_store_le64(block + QL_SCHEDULE_HASH, ql_hash(block + 8, QL_BLOCK - 8));
}

enum ql_block_state
ql_schedule_header_decode(const uint8_t block[QL_BLOCK], struct ql_schedule_header *ret_header)
{
    enum ql_block_state state = ql_block_check(
        block, QL_BLOCK, QL_SCHEDULE_MAGIC, q_load_le16(block + QL_SCHEDULE_VERSION));
    if (state != QL_BLOCK_GOOD) return state;
    struct ql_schedule_header header = {
        .incarnation = q_load_le64(block + QL_SCHEDULE_INCARNATION),
        .base = q_load_le64(block + QL_SCHEDULE_BASE),
        .end = q_load_le64(block + QL_SCHEDULE_END),
        .generation = q_load_le64(block + QL_SCHEDULE_GENERATION),
        .wall_ms = q_load_le64(block + QL_SCHEDULE_WALL_MS),
        .bytes = q_load_le64(block + QL_SCHEDULE_BYTES),
        .messages = q_load_le64(block + QL_SCHEDULE_MESSAGES),
        .first_sequence = q_load_le64(block + QL_SCHEDULE_FIRST),
        .next_sequence = q_load_le64(block + QL_SCHEDULE_NEXT),
        .entry_count = q_load_le32(block + QL_SCHEDULE_ENTRIES),
        .replaced_count = q_load_le32(block + QL_SCHEDULE_REPLACED),
        .subject_count = q_load_le32(block + QL_SCHEDULE_SUBJECTS),
        .subject_bytes = q_load_le32(block + QL_SCHEDULE_SUBJECT_BYTES),
        .tail_hash = q_load_le64(block + QL_SCHEDULE_TAIL_HASH),
    };
    memcpy(header.store_id, block + QL_SCHEDULE_STORE_ID, sizeof(header.store_id));
    memcpy(header.log_name, block + QL_SCHEDULE_LOG_NAME, QL_LOG_NAME_MAX);
    if (header.log_name[QL_LOG_NAME_MAX - 1] != '\0') return QL_BLOCK_FOREIGN;
    if (header.base % QL_BLOCK != 0 || header.end % QL_BLOCK != 0 || header.end <= header.base)
        return QL_BLOCK_FOREIGN;
    /* Sequences are far from the end of 64 bits: sums of them don't wrap. */
    if (header.entry_count == 0 || header.next_sequence >= UINT64_MAX / 2 ||
        header.first_sequence >= header.next_sequence)
        return QL_BLOCK_FOREIGN;
    *ret_header = header;
    return QL_BLOCK_GOOD;
}

struct ql_schedule_layout
ql_schedule_layout(const struct ql_schedule_header *header)
{
    /* Counts of 32 bits times sizes of rows: far from any overflow. */
    uint64_t pages =
        ((uint64_t)header->entry_count + QL_SCHEDULE_PAGE_MAX - 1) / QL_SCHEDULE_PAGE_MAX;
    struct ql_schedule_layout layout = { .page_count = (uint32_t)pages };
    layout.tail_at = QL_SCHEDULE_HEADER_SIZE + pages * QL_SCHEDULE_PAGE;
    layout.tail_size = (pages + header->replaced_count) * 8 + header->subject_bytes;
    layout.file_size = q_align_up(layout.tail_at + layout.tail_size, QL_BLOCK);
    return layout;
}

/* --- Pages. */

uint32_t
ql_schedule_page_count(const struct ql_schedule_header *header, uint32_t number)
{
    uint64_t first = (uint64_t)number * QL_SCHEDULE_PAGE_MAX;
    return (uint32_t)q_min_u64(QL_SCHEDULE_PAGE_MAX, header->entry_count - first);
}

void
ql_schedule_page_encode(
    const struct ql_schedule_header *header,
    uint32_t number,
    const struct ql_delay_entry *entries,
    uint8_t page[QL_SCHEDULE_PAGE])
{
    uint32_t count = ql_schedule_page_count(header, number);
    memset(page, 0, QL_SCHEDULE_PAGE);
    q_store_le64(page + QL_SCHEDULE_PAGE_INCARNATION, header->incarnation);
    q_store_le32(page + QL_SCHEDULE_PAGE_NUMBER, number);
    q_store_le32(page + QL_SCHEDULE_PAGE_ENTRIES, count);
    for (uint32_t i = 0; i < count; i++)
        entry_encode(
            &entries[i], page + QL_SCHEDULE_PAGE_HEAD + (size_t)i * QL_SCHEDULE_ENTRY_SIZE);
    q_store_le64(page + QL_SCHEDULE_PAGE_HASH, ql_hash(page + 8, QL_SCHEDULE_PAGE - 8));
}

enum q_err
ql_schedule_page_decode(
    const uint8_t page[QL_SCHEDULE_PAGE],
    const struct ql_schedule_header *header,
    uint32_t number,
    struct ql_delay_entry ret_entries[QL_SCHEDULE_PAGE_MAX])
{
    uint32_t count = ql_schedule_page_count(header, number);
    bool good =
        q_load_le64(page + QL_SCHEDULE_PAGE_HASH) == ql_hash(page + 8, QL_SCHEDULE_PAGE - 8) &&
        q_load_le64(page + QL_SCHEDULE_PAGE_INCARNATION) == header->incarnation &&
        q_load_le32(page + QL_SCHEDULE_PAGE_NUMBER) == number &&
        q_load_le32(page + QL_SCHEDULE_PAGE_ENTRIES) == count;
    if (!good && !QL_PLANTED(schedule_page_unchecked))
        return Q_FAIL(
            Q_E_CORRUPT, .position = (int64_t)header->base,
            .what = q_text("page %u of the schedule file of a segment is damaged", number));
    for (uint32_t i = 0; i < count; i++) {
        entry_decode(
            page + QL_SCHEDULE_PAGE_HEAD + (size_t)i * QL_SCHEDULE_ENTRY_SIZE, &ret_entries[i]);
        bool ordered = i == 0 || !ql_delay_entry_is_before(&ret_entries[i], &ret_entries[i - 1]);
        if (!ordered || !entry_fits(header, &ret_entries[i]))
            return Q_FAIL(
                Q_E_CORRUPT, .position = (int64_t)header->base,
                .what = q_text("page %u of the schedule file of a segment makes no sense", number));
    }
    return Q_OK;
}

static void
entry_encode(const struct ql_delay_entry *entry, uint8_t *at)
{
    q_store_le64(at + QL_SCHEDULE_ENTRY_DUE_MS, entry->due_ms);
    q_store_le64(at + QL_SCHEDULE_ENTRY_SEQUENCE, entry->sequence);
    q_store_le32(at + QL_SCHEDULE_ENTRY_FRAME, entry->frame);
    q_store_le32(at + QL_SCHEDULE_ENTRY_ENVELOPE_AT, entry->envelope_at);
    q_store_le32(at + QL_SCHEDULE_ENTRY_ENVELOPE_SIZE, entry->envelope_size);
    q_store_le32(at + QL_SCHEDULE_ENTRY_PAYLOAD_AT, entry->payload_at);
    q_store_le32(at + QL_SCHEDULE_ENTRY_PAYLOAD_SIZE, entry->payload_size);
    q_store_le32(at + QL_SCHEDULE_ENTRY_COUNT, entry->count);
    q_store_le32(at + QL_SCHEDULE_ENTRY_SUBJECT, entry->subject_id);
}

static void
entry_decode(const uint8_t *at, struct ql_delay_entry *ret_entry)
{
    *ret_entry = (struct ql_delay_entry){
        .due_ms = q_load_le64(at + QL_SCHEDULE_ENTRY_DUE_MS),
        .sequence = q_load_le64(at + QL_SCHEDULE_ENTRY_SEQUENCE),
        .frame = q_load_le32(at + QL_SCHEDULE_ENTRY_FRAME),
        .envelope_at = q_load_le32(at + QL_SCHEDULE_ENTRY_ENVELOPE_AT),
        .envelope_size = q_load_le32(at + QL_SCHEDULE_ENTRY_ENVELOPE_SIZE),
        .payload_at = q_load_le32(at + QL_SCHEDULE_ENTRY_PAYLOAD_AT),
        .payload_size = q_load_le32(at + QL_SCHEDULE_ENTRY_PAYLOAD_SIZE),
        .count = q_load_le32(at + QL_SCHEDULE_ENTRY_COUNT),
        .subject_id = q_load_le32(at + QL_SCHEDULE_ENTRY_SUBJECT),
    };
}

static bool
entry_fits(const struct ql_schedule_header *header, const struct ql_delay_entry *entry)
{
    uint64_t size = header->end - header->base;
    if (entry->count == 0 || entry->sequence < header->first_sequence ||
        entry->sequence >= header->next_sequence ||
        entry->count > header->next_sequence - entry->sequence)
        return false;
    if (entry->frame >= size) return false;
    uint64_t room = size - entry->frame;
    return (uint64_t)entry->envelope_at + entry->envelope_size <= room &&
           (uint64_t)entry->payload_at + entry->payload_size <= room;
}

/* --- The tail. */

enum q_err
ql_schedule_tail_open(
    const struct ql_schedule_header *header,
    struct q_bytes bytes,
    struct ql_schedule_tail *ret_tail)
{
    struct ql_schedule_layout layout = ql_schedule_layout(header);
    if (bytes.size != layout.tail_size || ql_hash(bytes.data, bytes.size) != header->tail_hash)
        return Q_FAIL(
            Q_E_CORRUPT, .position = (int64_t)header->base,
            .what = "the tail of the schedule file of a segment is damaged");
    size_t starts = (size_t)layout.page_count * 8;
    size_t replaced = (size_t)header->replaced_count * 8;
    *ret_tail = (struct ql_schedule_tail){
        .header = header,
        .starts = q_bytes_from(bytes.data, starts),
        .replaced = q_bytes_from(bytes.data + starts, replaced),
        .subjects = q_bytes_from(bytes.data + starts + replaced, header->subject_bytes),
    };
    return Q_OK;
}

uint64_t
ql_schedule_tail_start(const struct ql_schedule_tail *tail, uint32_t number)
{
    return q_load_le64(tail->starts.data + (size_t)number * 8);
}

uint64_t
ql_schedule_tail_replaced(const struct ql_schedule_tail *tail, uint32_t index)
{
    return q_load_le64(tail->replaced.data + (size_t)index * 8);
}

enum q_err
ql_schedule_next_subject(struct q_bytes *rows, uint32_t *ret_id, struct q_bytes *ret_name)
{
    if (rows->size == 0) return Q_END;
    uint32_t name_size = rows->size < QL_SCHEDULE_SUBJECT_HEAD
                             ? 0
                             : q_load_le32(rows->data + QL_SCHEDULE_SUBJECT_NAME);
    uint64_t size = q_align_up((uint64_t)QL_SCHEDULE_SUBJECT_HEAD + name_size, 8);
    if (name_size == 0 || name_size > UINT16_MAX || size > rows->size)
        return Q_FAIL(Q_E_CORRUPT, .what = "a subject of a schedule file");
    *ret_id = q_load_le32(rows->data + QL_SCHEDULE_SUBJECT_ID);
    *ret_name = q_bytes_from(rows->data + QL_SCHEDULE_SUBJECT_HEAD, name_size);
    *rows = q_bytes_from(rows->data + size, rows->size - size);
    return Q_OK;
}

uint32_t
ql_schedule_subject_size(uint32_t name_size)
{
    return (uint32_t)q_align_up((uint64_t)QL_SCHEDULE_SUBJECT_HEAD + name_size, 8);
}

void
ql_schedule_subject_encode(uint32_t id, struct q_bytes name, uint8_t *row)
{
    memset(row, 0, ql_schedule_subject_size((uint32_t)name.size));
    q_store_le32(row + QL_SCHEDULE_SUBJECT_ID, id);
    q_store_le32(row + QL_SCHEDULE_SUBJECT_NAME, (uint32_t)name.size);
    memcpy(row + QL_SCHEDULE_SUBJECT_HEAD, name.data, name.size);
}
