/*
 * log/index_verify.h: hold the index files of a message log against its segments.
 *
 * For tools: nothing is written. Files that are no whole index of a segment are passed over, as a
 * store does. A directory may be in use: a file that is gone when its check ends is not spoken of.
 *
 * Thread: the io's owner. Blocking: yes; with `deep` it reads the segments.
 */
#ifndef QL_LOG_INDEX_VERIFY_H
#define QL_LOG_INDEX_VERIFY_H

#include "segment/log.h"

struct ql_index_verify {
    /* Set by the caller. */
    struct ql_log *log;
    bool deep; /* make each file again from its segment, and compare; else only its hashes */
    void *context;
    void (*on_finding)(void *context, uint64_t position, const char *text);

    /* Set by ql_index_verify(). */
    uint32_t checked;
};

/* Q_OK, also with findings; Q_E_IO, Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_index_verify(struct ql_index_verify *verify);

#endif /* QL_LOG_INDEX_VERIFY_H */
