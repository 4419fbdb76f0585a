/*
 * log/index_scan.h: entries from frames, and an index file's bytes from nothing but a segment.
 *
 * Thread: the io's owner. Blocking: _rebuild() reads the segment.
 */
#ifndef QL_LOG_INDEX_SCAN_H
#define QL_LOG_INDEX_SCAN_H

#include <qbatch/batch.h>

#include "format/record.h"
#include "log/index_build.h"
#include "segment/recover.h"

/* Of a batch in the frame that was scanned last. Q_OK or Q_E_CORRUPT. */
Q_MUST_CHECK enum q_err ql_entry_of_record(
    const struct ql_scan *scan,
    const struct ql_record *record,
    struct qbatch *ret_batch,
    struct ql_entry *ret_entry);

/* What a range of frames below the durable mark is read with: all damage in it is rot. */
void ql_index_range_init(
    struct ql_env *env,
    const char *log,
    const struct ql_segment_set *segments,
    uint64_t from,
    uint64_t to,
    struct ql_recover *ret_recover);
/* One hull around all damage. */
void ql_index_add_rot(struct ql_index_header *header, uint64_t from, uint64_t to);
/* Take over what names segment and store. */
void ql_index_header_of(
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment,
    struct ql_index_header *ret_header);

/* Entries of one segment's frames, until a file is made of them. */
struct ql_index_collect {
    struct ql_entries entries;
    struct ql_index_header header;
};
void ql_index_collect_init(
    struct ql_index_collect *collect,
    const struct ql_env *env,
    const char *log,
    const struct ql_segment *segment);
void ql_index_collect_fini(struct ql_index_collect *collect);
/* The frame that was scanned last, which follows what was added before. Q_OK, Q_E_CORRUPT, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_collect_add(
    struct ql_index_collect *collect, const struct ql_scan *scan);
/* The bytes of the file that ends behind the last frame. `ret_build->file` is the caller's. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_collect_build(
    struct ql_index_collect *collect, uint64_t end, struct ql_index_build *ret_build);

/*
 * The index file of a segment from its base to `end`, a frame's beginning. `ret_build->file` is the
 * caller's. Q_OK, Q_E_NOMEM, Q_E_IO.
 */
Q_MUST_CHECK enum q_err ql_index_rebuild(
    struct ql_env *env,
    const char *log,
    const struct ql_segment_set *segments,
    const struct ql_segment *segment,
    uint64_t end,
    struct ql_index_build *ret_build);

#endif /* QL_LOG_INDEX_SCAN_H */
