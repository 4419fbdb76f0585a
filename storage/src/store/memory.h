/*
 * store/memory.h: the memory plan: what a store may take, found out when it is opened.
 *
 * One row for each thing that takes memory (QLOG_MEMORY_LIST). A row is a limit times what one costs.
 * The sum is what the store may ever have. With `memory_max` it is made to fit: limits that the caller
 * did not state, of what a store can do with less of, get their least and a share of what is left,
 * by what they would have had. What can't be made smaller, and does not fit, is no start.
 *
 *   rows                                    with memory_max
 *   tail, reads, index, groups, producers   shrink, unless the caller stated them
 *   all others                              stay: who lowers them refuses what is stored, or works less
 *
 * Thread: the store's. Memory: none.
 */
#ifndef QL_STORE_MEMORY_H
#define QL_STORE_MEMORY_H

#include <qlog/store.h>

#include "segment/env.h"

struct ql_memory {
    uint64_t planned[QLOG_MEMORY_ROWS];
    uint64_t max;

    /* Limits, filled in. */
    uint32_t mailbox_max;
    uint32_t subjects_max;
    uint32_t producers_max;
    uint32_t index_entries_max;
    uint64_t tail_bytes;
    uint64_t read_bytes;
    uint64_t group_bytes;
};

/* Q_OK, or Q_INVALID: it does not fit; the fault says what takes how much. */
Q_MUST_CHECK enum q_err ql_memory_plan(
    const struct qlog_store_options *options,
    const struct ql_env *env,
    struct ql_memory *ret_memory);

#endif /* QL_STORE_MEMORY_H */
