/*
 * log/index_build.h: the bytes of an index file, from entries in memory and the file before it.
 *
 * The file before covers the same segment up to where the entries begin. What comes out depends on
 * the segment's frames alone, but for the time of its making: however often and at whatever places
 * files were made on the way, the last one is the same.
 *
 * Thread:   any; what it reads does not change. Blocking: for as long as sorting takes.
 * Memory:   two blocks while it works, of which the caller gets one.
 */
#ifndef QL_LOG_INDEX_BUILD_H
#define QL_LOG_INDEX_BUILD_H

#include "log/entries.h"

struct ql_index_mend;

struct ql_index_build {
    /* Set by the caller. Counts and hashes of `header` are filled in. */
    struct ql_index_header header;
    const uint8_t *before; /* the file before, NULL: none */
    struct ql_index_header before_header;
    struct ql_node *const *chunks;        /* from the one that holds `from` on */
    uint64_t from;                        /* numbers of entries, */
    uint64_t to;                          /* all of this segment */
    struct ql_key_row *const *key_chunks; /* from the one that holds `key_from` on */
    uint64_t key_from;                    /* numbers of rows, of the same entries */
    uint64_t key_to;
    struct ql_index_mend *mend; /* NULL: as above. Else the segment is read: index_mend.h */

    /* Set when it is done. Q_OK, Q_E_NOMEM, Q_E_CORRUPT (the file before is damaged). */
    enum q_err err;
    uint8_t *file; /* header.layout.file_size bytes, aligned to a block; the caller frees it */
    uint64_t file_size;
};

void ql_index_build(struct ql_index_build *build);

#endif /* QL_LOG_INDEX_BUILD_H */
