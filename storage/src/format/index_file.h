/*
 * format/index_file.h: an index file: its header, and look-ups in the bytes of its tables.
 *
 * The header is checked when it is read. A page of the tables is checked when it is first looked at,
 * so that opening a large store reads nothing but headers; and no number in a page is believed
 * before its use is checked against the counts.
 *
 * Thread:   the owner of the view. Blocking: only on memory that is mapped.
 * Memory:   the bytes are the caller's; a view has a bit for each page.
 * Failure:  Q_E_CORRUPT: a page is damaged. The file is derived: throw it away and make another.
 */
#ifndef QL_FORMAT_INDEX_FILE_H
#define QL_FORMAT_INDEX_FILE_H

#include <qbase/bytes.h>

#include "format/block.h"

/* A batch. Positions: `frame` + what is told. */
struct ql_entry {
    uint64_t first_sequence;
    uint64_t frame;
    uint32_t envelope_at;
    uint32_t payload_at;
    uint32_t envelope_size;
    uint32_t payload_size; /* padded */
    uint32_t count;
    uint32_t frame_size; /* visible once frame + frame_size is below the mark */
};

/* One past the last sequence of an entry. */
static inline uint64_t
ql_entry_end(const struct ql_entry *entry)
{
    return entry->first_sequence + entry->count;
}

struct ql_index_header {
    bool sealed;
    uint8_t store_id[16];
    char log_name[QL_LOG_NAME_MAX];
    uint64_t incarnation;
    uint64_t base;
    uint64_t end;
    uint64_t chain;
    uint64_t generation;
    uint64_t wall_ms;
    uint64_t created_ms;
    uint64_t rot_from;
    uint64_t rot_to;
    uint32_t entry_count;
    uint32_t subject_count;
    uint32_t time_count;
    uint32_t key_count;
    uint64_t pages_hash;
};

void ql_index_header_encode(const struct ql_index_header *header, uint8_t block[QL_BLOCK]);
enum ql_block_state ql_index_header_decode(
    const uint8_t block[QL_BLOCK], struct ql_index_header *ret_header);

/* Bytes from the file's beginning. */
struct ql_index_layout {
    uint64_t entries_at;
    uint64_t subjects_at;
    uint64_t times_at;
    uint64_t keys_at;
    uint64_t pages_at; /* the tables before it have this many bytes, and the header */
    uint64_t page_count;
    uint64_t file_size;
};
struct ql_index_layout ql_index_layout(const struct ql_index_header *header);

struct ql_index_view {
    struct ql_index_header header;
    struct ql_index_layout layout;
    const uint8_t *file; /* layout.file_size bytes */
    uint8_t *checked;    /* a bit for each page */
    bool pages_checked;
};

/* A row of the table of subjects. */
struct ql_index_subject {
    uint32_t id;
    uint32_t first;
    uint32_t count;
    uint64_t next_sequence;
};

/* `file`: all of it; NULL: to be set before the first look-up. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_view_init(
    struct ql_index_view *view, const struct ql_index_header *header, const uint8_t *file);
void ql_index_view_fini(struct ql_index_view *view);
/* Check every page. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_check(struct ql_index_view *view);

/* Row `at` of the table of subjects. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_subject(
    struct ql_index_view *view, uint32_t at, struct ql_index_subject *ret_subject);
/* The subject that has entry `at` of the file. Q_OK, Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_subject_of(
    struct ql_index_view *view, uint32_t at, struct ql_index_subject *ret_subject);
/* Q_OK, Q_NOT_FOUND, Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_find_subject(
    struct ql_index_view *view, uint32_t id, struct ql_index_subject *ret_subject);
/* Entry `at` of the file, below the count of its subject. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_entry(
    struct ql_index_view *view, uint32_t at, struct ql_entry *ret_entry);
/*
 * The first entry of a subject that ends behind `sequence`. Q_OK (`*ret_at`: its number), Q_END (all
 * end before), Q_NOT_FOUND (no such subject), Q_E_CORRUPT.
 */
Q_MUST_CHECK enum q_err ql_index_view_find(
    struct ql_index_view *view,
    uint32_t subject_id,
    uint64_t sequence,
    struct ql_index_subject *ret_subject,
    uint32_t *ret_at,
    struct ql_entry *ret_entry);
/*
 * The position of a frame from which on everything that was stored at or after `wall_ms` lies, as far
 * as the file knows. Q_OK, Q_NOT_FOUND (it has nothing so late, or nothing), Q_E_CORRUPT.
 */
Q_MUST_CHECK enum q_err ql_index_view_time(
    struct ql_index_view *view, uint64_t wall_ms, uint64_t *ret_position);
/* When the batches of the frame at `position` were stored, in ms, at most a second too early; 0: before
 * all that the file has. Q_OK, Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_second(
    struct ql_index_view *view, uint64_t position, uint64_t *ret_ms);

/* A row of the table of keys: a message of this batch has a key with this hash. */
struct ql_index_key {
    uint64_t hash;
    uint32_t entry;
};
/* Row `at` of the table of keys. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_key(
    struct ql_index_view *view, uint32_t at, struct ql_index_key *ret_key);
/* Number of the first row with this hash or a higher one; may be the count. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_index_view_find_key(
    struct ql_index_view *view, uint64_t hash, uint32_t *ret_at);

#endif /* QL_FORMAT_INDEX_FILE_H */
