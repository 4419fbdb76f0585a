/*
 * log/key_rows.h: hashes of message keys of that part of the message log that no index file covers.
 *
 * A row for each key of a batch, in the order of the log, in chunks that never move: another thread may
 * read the rows that were there when it was asked to. They wait here for the next index file, which has
 * them sorted; nothing is looked up in them.
 *
 * Thread: the store's, but for reading. Memory: 16 bytes a row, given back by chunks.
 */
#ifndef QL_LOG_KEY_ROWS_H
#define QL_LOG_KEY_ROWS_H

#include <stdint.h>

#include <qbase/err.h>

struct ql_key_row {
    uint64_t hash;
    uint64_t number; /* of its batch's entry */
};

enum {
    QL_KEY_ROWS_CHUNK = 4096
};

struct ql_key_rows {
    struct ql_key_row **chunks; /* from the one that holds `floor` on */
    uint32_t chunk_count;
    uint32_t chunk_capacity;
    uint64_t chunk_first; /* number of chunks[0] */
    uint64_t floor;       /* rows below are dropped */
    uint64_t end;         /* number of the next row */
};

void ql_key_rows_init(struct ql_key_rows *keys);
void ql_key_rows_fini(struct ql_key_rows *keys);
/* Room for so many more, so that adding them can't fail. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_key_rows_reserve(struct ql_key_rows *keys, uint64_t count);
/* `number` never falls. */
void ql_key_rows_add(struct ql_key_rows *keys, uint64_t hash, uint64_t number);
/* Number of the first row whose entry is at or above `number`; may be `end`. */
uint64_t ql_key_rows_from(const struct ql_key_rows *keys, uint64_t number);
/* Whether the entry with this number has one with this hash. */
bool ql_key_rows_has(const struct ql_key_rows *keys, uint64_t number, uint64_t hash);
/* Drop rows of entries below `number`. */
void ql_key_rows_drop(struct ql_key_rows *keys, uint64_t number);

#endif /* QL_LOG_KEY_ROWS_H */
