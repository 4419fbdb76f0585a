/*
 * consume/filter.h: the filters of a group's members.
 *
 * Members may differ. Each different filter has a slot of its group, whose number is logged; which
 * filters take a message is a bit for each slot. A filter without members is kept for a while
 * (`left_ns`, the store's), so that restarts lose nothing; then the store drops it by an action.
 *
 * Thread: the store's.
 */
#ifndef QL_CONSUME_FILTER_H
#define QL_CONSUME_FILTER_H

#include "consume/room.h"
#include "format/record.h"

struct ql_filter {
    struct qbatch_filter filter; /* tags point into `text` */
    char *text;
    uint32_t text_size;
    uint32_t members; /* consumers with a session */
    uint64_t left_ns; /* the store's: when the last one went; 0: there are some */
};

struct ql_filters {
    struct ql_filter *slots[QLOG_FILTERS_MAX]; /* NULL: free */
    uint32_t count;
    struct ql_room *room; /* that their memory is taken from; NULL: nobody counts */
};

void ql_filters_fini(struct ql_filters *filters);
/* The slot with an equal filter, else a free one; QLOG_FILTERS_MAX: all are taken by others. */
uint32_t ql_filters_find(const struct ql_filters *filters, const struct qbatch_filter *wanted);
/* Q_OK, Q_E_CORRUPT (the slot holds another), Q_E_NOMEM. */
Q_MUST_CHECK enum q_err ql_filters_set(
    struct ql_filters *filters, const struct ql_filter_item *item);
void ql_filters_drop(struct ql_filters *filters, uint32_t slot);
/* A bit for each slot that is in use; for each that has members. */
uint16_t ql_filters_kept(const struct ql_filters *filters);
uint16_t ql_filters_live(const struct ql_filters *filters);
/* Whether one of them has no tags. */
bool ql_filters_take_all(const struct ql_filters *filters);
/* Whether two filters take the same messages, whatever their tags' order. */
bool ql_filter_equal(const struct qbatch_filter *a, const struct qbatch_filter *b);

#endif /* QL_CONSUME_FILTER_H */
