/*
 * format/schedule_file.h: a schedule file: header, pages of entries by due time, and a tail of tables.
 *
 * All that a start needs to know of a sealed segment of a delay log: two files made of the same
 * frames are the same byte for byte. The header is checked when it is read; header and tail are read
 * by a start, a page when an entry of it comes near. No number is believed before it is checked.
 *
 * Thread:   any. Blocking: never. Memory: the caller's. Pure functions.
 * Failure:  Q_E_CORRUPT. The file is derived: throw it away and make another.
 */
#ifndef QL_FORMAT_SCHEDULE_FILE_H
#define QL_FORMAT_SCHEDULE_FILE_H

#include <qbase/bytes.h>

#include "format/block.h"

/* A batch in the delay log. */
struct ql_delay_entry {
    uint64_t due_ms;
    uint64_t sequence; /* of its first message */
    uint32_t frame;    /* from the base of its segment */
    uint32_t envelope_at;
    uint32_t envelope_size;
    uint32_t payload_at; /* both from the frame's position */
    uint32_t payload_size;
    uint32_t count;
    uint32_t subject_id;
};

/* By due time, then sequence: what a page is sorted by. */
static inline bool
ql_delay_entry_is_before(const struct ql_delay_entry *a, const struct ql_delay_entry *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->sequence < b->sequence;
}

struct ql_schedule_header {
    uint8_t store_id[16];
    char log_name[QL_LOG_NAME_MAX];
    uint64_t incarnation;
    uint64_t base;
    uint64_t end;
    uint64_t generation;
    uint64_t wall_ms;
    uint64_t bytes;
    uint64_t messages;
    uint64_t first_sequence;
    uint64_t next_sequence;
    uint32_t entry_count;
    uint32_t replaced_count;
    uint32_t subject_count;
    uint32_t subject_bytes;
    uint64_t tail_hash;
};

void ql_schedule_header_encode(const struct ql_schedule_header *header, uint8_t block[QL_BLOCK]);
enum ql_block_state ql_schedule_header_decode(
    const uint8_t block[QL_BLOCK], struct ql_schedule_header *ret_header);

/* Bytes from the file's beginning. */
struct ql_schedule_layout {
    uint32_t page_count;
    uint64_t tail_at;
    uint64_t tail_size;
    uint64_t file_size;
};
struct ql_schedule_layout ql_schedule_layout(const struct ql_schedule_header *header);

/* Entries of a page, by its number. */
uint32_t ql_schedule_page_count(const struct ql_schedule_header *header, uint32_t number);
void ql_schedule_page_encode(
    const struct ql_schedule_header *header,
    uint32_t number,
    const struct ql_delay_entry *entries,
    uint8_t page[QL_SCHEDULE_PAGE]);
/* Q_OK, Q_E_CORRUPT: it is not that page, or an entry lies outside of the segment or is in no order. */
Q_MUST_CHECK enum q_err ql_schedule_page_decode(
    const uint8_t page[QL_SCHEDULE_PAGE],
    const struct ql_schedule_header *header,
    uint32_t number,
    struct ql_delay_entry ret_entries[QL_SCHEDULE_PAGE_MAX]);

/* The tail of a file: views of `bytes`. */
struct ql_schedule_tail {
    const struct ql_schedule_header *header;
    struct q_bytes starts;
    struct q_bytes replaced;
    struct q_bytes subjects;
};
/* Q_OK, Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_schedule_tail_open(
    const struct ql_schedule_header *header,
    struct q_bytes bytes,
    struct ql_schedule_tail *ret_tail);
/* Due time of the first entry of page `number`. */
uint64_t ql_schedule_tail_start(const struct ql_schedule_tail *tail, uint32_t number);
uint64_t ql_schedule_tail_replaced(const struct ql_schedule_tail *tail, uint32_t index);
/* The row at the front of `*rows`, which goes on behind it. Q_OK, Q_END, Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_schedule_next_subject(
    struct q_bytes *rows, uint32_t *ret_id, struct q_bytes *ret_name);
/* Bytes of the row of a subject. */
uint32_t ql_schedule_subject_size(uint32_t name_size);
void ql_schedule_subject_encode(uint32_t id, struct q_bytes name, uint8_t *row);

#endif /* QL_FORMAT_SCHEDULE_FILE_H */
