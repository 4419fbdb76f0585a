/*
 * log/index_verify.h: hold the index files of a message log against its segments.
 *
 * For tools: nothing is written. Files that are no whole index of a segment are passed over, as a
 * store does. Whoever reads a segment tells its frames to a *witness*, so that the segment is read
 * once; a file that reaches further than what was told is compared by reading the segment again.
 *
 * The files are opened and closed on one thread. A witness is one thread's, any; no two of one file.
 * Blocking: yes, it reads what is mapped. Memory: 64 bytes for each batch of a segment that is being
 * told, and its index file twice.
 */
#ifndef QL_LOG_INDEX_VERIFY_H
#define QL_LOG_INDEX_VERIFY_H

#include "log/index_files.h"
#include "log/index_scan.h"

/* Open and map the files of a log. Q_OK, also when some can't be mapped; Q_E_IO, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_verify_open(struct ql_log *log, struct ql_index_files *ret_files);

struct ql_index_witness {
    struct ql_index_file *file; /* NULL: nothing is to be said */
    const char *what;           /* what is wrong with it; NULL: nothing */

    /* Private. */
    struct ql_env *env;
    const char *log;
    const struct ql_segment_set *segments;
    struct ql_index_collect collect;
    bool compared;
    bool
        damaged; /* the segment is: then it says less than its index, and that is told of the log */
};

/* `base`: of the segment. `env` is the thread's own; `segments` holds the segment. */
void ql_index_witness_init(
    struct ql_index_witness *witness,
    const struct ql_index_files *files,
    struct ql_env *env,
    const struct ql_segment_set *segments,
    uint64_t base);
void ql_index_witness_fini(struct ql_index_witness *witness);
/* A frame of its segment; they are told in order. Q_OK, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_witness_frame(
    struct ql_index_witness *witness, const struct ql_scan *scan);
/* Damage, of its segment or another one. */
void ql_index_witness_rot(struct ql_index_witness *witness, uint64_t from, uint64_t to);
/*
 * All was told: hashes of the file are checked, and, with `deep`, what it says. Q_OK (`what` is set,
 * or NULL); Q_E_IO, Q_E_NOMEM.
 */
Q_MUST_CHECK enum q_err ql_index_witness_end(struct ql_index_witness *witness, bool deep);

#endif /* QL_LOG_INDEX_VERIFY_H */
