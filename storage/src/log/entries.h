/*
 * log/entries.h: where batches are, of that part of the message log that no index file covers.
 *
 * Entries stand in the order of the log, in chunks, under numbers that rise for ever. They never
 * change and never move, so another thread may read those that were there when it was asked to.
 *
 * There is no array for each subject. An entry knows the one before it of its subject, and a jump to
 * one further back (Myers' skew-binary lists), so that a look-up walks back from the subject's last
 * entry in O(log n) steps. Links are distances; one that leads below `floor` leads nowhere.
 *
 * Thread: the store's, but for reading. Memory: 64 bytes an entry, given back by chunks; key_rows.h.
 */
#ifndef QL_LOG_ENTRIES_H
#define QL_LOG_ENTRIES_H

#include "format/index_file.h"
#include "log/key_rows.h"

struct ql_node {
    struct ql_entry entry;
    uint64_t wall_ms;
    uint32_t subject_id;
    uint32_t back;  /* to the entry before, of this subject; 0: there is none */
    uint32_t jump;  /* to one further back, or the one before */
    uint32_t depth; /* entries before it, of this subject */
};

_Static_assert(sizeof(struct ql_node) == 64, "an entry is one cache line");

enum {
    QL_ENTRIES_CHUNK = 1024
};

struct ql_entries {
    struct ql_node **chunks; /* from the one that holds `floor` on */
    uint32_t chunk_count;
    uint32_t chunk_capacity;
    uint64_t chunk_first;    /* number of chunks[0] */
    uint64_t floor;          /* entries below are dropped */
    uint64_t end;            /* number of the next entry */
    struct ql_key_rows keys; /* of the same batches */
};

void ql_entries_init(struct ql_entries *entries);
void ql_entries_fini(struct ql_entries *entries);
/* Room for so many more, so that adding them can't fail. Q_OK or Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_entries_reserve(struct ql_entries *entries, uint32_t count);
/* `last`: the subject's entry before, 0: none. Returns the new one's number. */
uint64_t ql_entries_add(
    struct ql_entries *entries,
    uint64_t last,
    uint32_t subject_id,
    const struct ql_entry *entry,
    uint64_t wall_ms);
/* How many keys an envelope has. */
uint32_t ql_entries_key_count(const uint8_t *envelope);
/* Keys of the batch that was added last, for which room was made. */
void ql_entries_add_keys(struct ql_entries *entries, const uint8_t *envelope);
/* NULL: it was dropped, or `number` is 0. */
const struct ql_node *ql_entries_get(const struct ql_entries *entries, uint64_t number);
/* The number before `number`, of the same subject; 0: none that is there. */
uint64_t ql_entries_before(const struct ql_entries *entries, uint64_t number);
/* Of the subject with this last entry: the first that ends behind `sequence`; 0: none. */
uint64_t ql_entries_find(const struct ql_entries *entries, uint64_t last, uint64_t sequence);
/* Drop those below `number`. */
void ql_entries_drop(struct ql_entries *entries, uint64_t number);

#endif /* QL_LOG_ENTRIES_H */
